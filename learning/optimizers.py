"""Optimizers, in place on flat float32 vectors.

A vector is worked through in blocks that stay in the cache: per block all operations of a step, so that
parameters, gradients and state each cross the memory bus once, and no temporary larger than a block exists.
Definitions as in PyTorch: SGD couples weight decay before momentum, AdamW decouples it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Flat = npt.NDArray[np.float32]

# Floats. Three blocks of 64 KiB fit the second-level cache of a Pi (512 KiB) and of a server.
BLOCK = 16_384


class Optimizer(Protocol):
    """`step` changes `params` in place; `grad` may be used as scratch space."""

    def step(self, params: Flat, grad: Flat, lr: float) -> None: ...

    def state(self) -> OptimizerState:
        """Views of what it remembers; `take` of an equal optimizer goes on from there."""

    def take(self, state: OptimizerState) -> bool:
        """Go on from a state; False if it is of another optimizer or model, and nothing changes.

        Its vectors are taken over, not copied: for Adam on the cnn that is 13 MB less on the device.
        """


@dataclass(frozen=True)
class OptimizerState:
    """Vectors of one length beside the parameters, and how many steps they have seen."""

    kind: str
    count: int
    vectors: tuple[Flat, ...]

    def fits(self, kind: str, vectors: tuple[Flat, ...]) -> bool:
        mine = [vector.shape for vector in self.vectors]
        return self.kind == kind and mine == [vector.shape for vector in vectors]


class Sgd:
    """v ← μ·v + (g + λ·p); p ← p − lr·v, or with Nesterov p − lr·(g + λ·p + μ·v). State: v, if μ > 0."""

    def __init__(
        self, size: int, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        if nesterov and momentum <= 0:
            raise ValueError("nesterov needs a momentum above 0")
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self.velocity: Flat | None = np.zeros(size, np.float32) if momentum else None
        self._scratch = np.empty(min(size, BLOCK), np.float32)

    def state(self) -> OptimizerState:
        return OptimizerState("sgd", 0, () if self.velocity is None else (self.velocity,))

    def take(self, state: OptimizerState) -> bool:
        if not state.fits("sgd", self.state().vectors):
            return False
        if state.vectors:
            (self.velocity,) = state.vectors
        return True

    def step(self, params: Flat, grad: Flat, lr: float) -> None:
        rate, mu, decay = np.float32(lr), np.float32(self.momentum), np.float32(self.weight_decay)
        for block in blocks(params.size):
            p, g = params[block], grad[block]
            scratch = self._scratch[: p.size]
            if self.weight_decay:
                g += np.multiply(p, decay, out=scratch)
            if self.velocity is None:
                p -= np.multiply(g, rate, out=g)
                continue
            v = self.velocity[block]
            v *= mu
            v += g
            if self.nesterov:
                g += np.multiply(v, mu, out=scratch)
                p -= np.multiply(g, rate, out=g)
            else:
                p -= np.multiply(v, rate, out=g)


class Adam:
    """Adam (decay added to the gradient) or AdamW (decay applied to the parameter); bias-corrected, no
    amsgrad.
    """

    def __init__(
        self,
        size: int,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.first = np.zeros(size, np.float32)
        self.second = np.zeros(size, np.float32)
        self.count = 0
        self._scratch = np.empty(min(size, BLOCK), np.float32)

    def state(self) -> OptimizerState:
        return OptimizerState("adam", self.count, (self.first, self.second))

    def take(self, state: OptimizerState) -> bool:
        if not state.fits("adam", (self.first, self.second)):
            return False
        self.first, self.second = state.vectors
        self.count = state.count
        return True

    def step(self, params: Flat, grad: Flat, lr: float) -> None:
        self.count += 1
        correction = np.float32(1.0 / np.sqrt(1.0 - self.beta2**self.count))
        rate = np.float32(lr / (1.0 - self.beta1**self.count))
        for block in blocks(params.size):
            self._block(
                params[block], grad[block], self.first[block], self.second[block], lr, rate, correction
            )

    def _block(
        self, p: Flat, g: Flat, m: Flat, v: Flat, lr: float, rate: np.float32, correction: np.float32
    ) -> None:
        scratch = self._scratch[: p.size]
        if self.weight_decay and self.decoupled:
            p *= np.float32(1.0 - lr * self.weight_decay)
        elif self.weight_decay:
            g += np.multiply(p, np.float32(self.weight_decay), out=scratch)
        m += np.multiply(np.subtract(g, m, out=scratch), np.float32(1.0 - self.beta1), out=scratch)
        np.multiply(g, g, out=g)
        v += np.multiply(np.subtract(g, v, out=scratch), np.float32(1.0 - self.beta2), out=scratch)
        np.multiply(np.sqrt(v, out=g), correction, out=g)
        g += np.float32(self.epsilon)
        p -= np.multiply(np.divide(m, g, out=g), rate, out=g)


def blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def global_norm(grad: Flat) -> float:
    """√Σ g², accumulated in blocks in double precision."""
    return float(np.sqrt(sum(float(np.dot(grad[b], grad[b])) for b in blocks(grad.size))))


def clip_by_global_norm(grad: Flat, limit: float) -> float:
    """Scale in place so that the norm is at most `limit` (PyTorch's clip_grad_norm_). Returns the norm
    before.
    """
    norm = global_norm(grad)
    if norm > limit:
        grad *= np.float32(limit / (norm + 1e-6))
    return norm


def subtract(params: Flat, anchor: npt.NDArray[Any]) -> None:
    """params −= anchor, which may be of half precision: widened block by block, never as a whole."""
    for block in blocks(params.size):
        params[block] -= anchor[block]


def is_finite(values: Flat) -> bool:
    """Block by block: a mask of the whole vector would come on top of the peak."""
    return all(bool(np.isfinite(values[block]).all()) for block in blocks(values.size))


def add_proximal(grad: Flat, params: Flat, anchor: npt.NDArray[Any], mu: float) -> None:
    """FedProx: the gradient of μ/2·‖p − anchor‖² (Li et al. 2020, arXiv:1812.06127), block by block."""
    scratch = np.empty(min(params.size, BLOCK), np.float32)
    for block in blocks(params.size):
        part = scratch[: params[block].size]
        np.subtract(params[block], anchor[block], out=part)
        part *= np.float32(mu)
        grad[block] += part


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda size, s: Sgd(size, s.momentum, s.weight_decay, s.nesterov),
    "adam": lambda size, s: Adam(size, s.weight_decay, False, s.beta1, s.beta2, s.epsilon),
    "adamw": lambda size, s: Adam(size, s.weight_decay, True, s.beta1, s.beta2, s.epsilon),
}
