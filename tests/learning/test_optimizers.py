"""Optimizers, schedules and SCAFFOLD against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.optimizers import BLOCK, OPTIMIZERS, add_proximal, clip_by_global_norm, global_norm, subtract
from learning.schedules import SCHEDULES, Schedule
from learning.trainer import TrainingSpec

SIZE = BLOCK * 2 + 7  # more than one block, and a short last one


def reference(spec, start, grads):
    """The textbook, in float64: PyTorch's update rules."""
    p = start.astype(np.float64)
    velocity = first = second = np.zeros_like(p)
    for count, grad in enumerate(grads, start=1):
        g = grad.astype(np.float64)
        if spec.optimizer == "adamw":
            p = p * (1 - spec.lr * spec.weight_decay)
        else:
            g = g + spec.weight_decay * p
        if spec.optimizer == "sgd":
            velocity = spec.momentum * velocity + g
            p = p - spec.lr * (
                g + spec.momentum * velocity if spec.nesterov else velocity if spec.momentum else g
            )
            continue
        first = spec.beta1 * first + (1 - spec.beta1) * g
        second = spec.beta2 * second + (1 - spec.beta2) * g * g
        corrected = np.sqrt(second / (1 - spec.beta2**count)) + spec.epsilon
        p = p - spec.lr * first / (1 - spec.beta1**count) / corrected
    return p


CASES = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"optimizer": "sgd", "weight_decay": 0.1},
    {"optimizer": "adam", "weight_decay": 0.01},
    {"optimizer": "adamw", "weight_decay": 0.1},
]


@pytest.mark.parametrize("case", CASES)
def test_updates_are_the_textbooks(case):
    rng = np.random.default_rng(0)
    spec = TrainingSpec(batch_size=1, lr=0.05, **case)
    start = rng.standard_normal(SIZE).astype(np.float32)
    grads = [rng.standard_normal(SIZE).astype(np.float32) for _ in range(4)]
    params, optimizer = start.copy(), OPTIMIZERS[spec.optimizer](SIZE, spec)
    for grad in grads:
        optimizer.step(params, grad.copy(), spec.lr)
    np.testing.assert_allclose(params, reference(spec, start, grads), atol=3e-6)


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_updates_are_pytorchs(case):
    import torch

    rng = np.random.default_rng(1)
    options = dict(case)
    kind = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[options.pop("optimizer")]
    spec = TrainingSpec(batch_size=1, lr=0.05, **case)
    params = rng.standard_normal(50).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(params.copy()))
    their_optimizer = getattr(torch.optim, kind)([theirs], lr=0.05, **options)
    optimizer = OPTIMIZERS[spec.optimizer](50, spec)
    for _ in range(5):
        grad = rng.standard_normal(50).astype(np.float32)
        theirs.grad = torch.tensor(grad.copy())
        their_optimizer.step()
        optimizer.step(params, grad, 0.05)
    np.testing.assert_allclose(params, theirs.detach().numpy(), atol=2e-6)


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="momentum"):
        OPTIMIZERS["sgd"](5, TrainingSpec(batch_size=1, nesterov=True))


def test_clipping_keeps_the_direction_and_bounds_the_norm():
    grad = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    before, kept = global_norm(grad), grad.copy()
    assert before == pytest.approx(np.linalg.norm(grad.astype(np.float64)), rel=1e-6)
    assert clip_by_global_norm(grad, 2.0) == pytest.approx(before)
    assert global_norm(grad) == pytest.approx(2.0, rel=1e-4)
    np.testing.assert_allclose(grad / 2.0, kept / before, rtol=1e-3, atol=1e-7)
    short = kept * np.float32(0.5 / before)
    clip_by_global_norm(short, 2.0)
    assert global_norm(short) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_proximal_term_and_difference_with_either_precision(kind):
    rng = np.random.default_rng(0)
    params, grad = (rng.standard_normal(SIZE).astype(np.float32) for _ in range(2))
    anchor = rng.standard_normal(SIZE).astype(kind)
    want = grad + np.float32(0.3) * (params - anchor.astype(np.float32))
    add_proximal(grad, params, anchor, 0.3)
    np.testing.assert_allclose(grad, want, atol=1e-6)
    difference = params - anchor.astype(np.float32)
    subtract(params, anchor)
    np.testing.assert_array_equal(params, difference)


@settings(max_examples=50, deadline=None)
@given(kind=st.sampled_from(sorted(SCHEDULES)), period=st.integers(1, 50), warmup=st.integers(0, 5))
def test_schedules_start_at_the_rate_and_never_rise_after_warmup(kind, period, warmup):
    schedule = Schedule(kind=kind, factor=0.1, period=period, warmup=warmup)
    rates = [schedule.rate(0.1, i) for i in range(100)]
    assert rates[warmup] == pytest.approx(0.1)
    assert all(a >= b - 1e-12 for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])


def test_schedules_by_value():
    assert Schedule(kind="step", factor=0.5, period=10).rate(1.0, 25) == pytest.approx(0.25)
    assert Schedule(kind="cosine", factor=0.0, period=10).rate(1.0, 5) == pytest.approx(0.5)
    assert Schedule(kind="exponential", factor=0.5, period=10).rate(1.0, 5) == pytest.approx(0.5**0.5)
    with pytest.raises(ValueError, match="unknown schedule 'linear'"):
        Schedule(kind="linear").rate(1.0, 0)
