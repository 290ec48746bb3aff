"""What a codec should know of the tensors in a flat vector: where they lie, and which of them go beside the chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wire.codecs import Layer, layers_of

if TYPE_CHECKING:
    from learning.artifact import TrainingArtifact

TINY_ELEMENTS = 256  # a tensor this small moves the output of a whole layer, and its float16 are half a kB
# Above this share of the model the small tensors are the model (a linear one, say), and the chain is for them, too.
BYPASS_SHARE_MAX = 0.05


@dataclass(frozen=True)
class Layout:
    """`bypass` goes along as float16, `exact` (running statistics) as float32 and without a residual."""

    layers: Sequence[Layer] = ()
    bypass: Sequence[slice] = ()
    exact: Sequence[slice] = ()


def layout_of(artifact: TrainingArtifact, *, bypass: bool) -> Layout:
    """Of a travelling vector (learning.travelling)."""
    from learning.travelling import travelling

    moving = travelling(artifact)
    tiny = [
        part
        for spec, part in zip(moving.specs, moving.slices, strict=True)
        if spec.kind in ("bias", "norm") or (spec.kind == "weight" and spec.size <= TINY_ELEMENTS)
    ]
    share = sum(part.stop - part.start for part in tiny) / moving.size
    return Layout(
        layers=layers_of([spec.shape for spec in moving.specs]),
        bypass=tiny if bypass and share <= BYPASS_SHARE_MAX else (),
        exact=moving.state,
    )
