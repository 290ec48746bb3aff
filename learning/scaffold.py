"""SCAFFOLD, the device's side (Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II).

Every step's gradient is corrected by c − cᵢ, the server's control variate minus the device's own
(`learning.trainer`, `correction`). After K steps with learning rate η the device's new variate is the mean of its own
gradients, cᵢ⁺ = cᵢ − c + (received − trained)/(K·η), with the K really taken. Only its change travels and counts:

    Δc = cᵢ⁺ − cᵢ = −c − (trained − received)/(K·η)

It does not name cᵢ, and it is what the device's own variate moves by once the update is merged, in the bits that were
sent (`edge_agent.spool`). So Σ cᵢ = N·c holds for every codec, and what a codec leaves out is in the next Δc: that is
taken from the cᵢ which really is there. Of an update that was not merged nothing remains.
"""

from __future__ import annotations

import numpy as np

from learning.artifact import Flat
from learning.optimizers import blocks


def change(server: Flat, delta: Flat, steps: int, lr: float) -> Flat:
    """Δc, float32[n], in the memory of `server`, which is used up. `delta` is trained − received and left as it is.

    Plain SGD only: with momentum delta/(K·η) is no mean of gradients. Raises ValueError without a step or a rate.
    """
    if steps < 1 or not lr > 0:
        raise ValueError(f"{steps} steps with lr {lr}: SCAFFOLD needs at least one step and a positive rate")
    per_step = np.float32(1.0 / (steps * lr))
    for block in blocks(server.size):
        np.negative(server[block], out=server[block])
        server[block] -= delta[block] * per_step
    return server
