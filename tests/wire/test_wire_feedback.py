"""Error feedback: nothing is lost or doubled under any outcome, and the state survives a restart."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.codecs import CodecError, CodecSpec, Sparsify, decode, make_chain, rounding_seed, uplink_spec
from wire.codecs.feedback import (
    GIVEN_BACK,
    PENDING_MAX,
    STATE_FORMAT,
    STATE_HEADER,
    STATE_MAGIC,
    ErrorFeedback,
)
from wire.messages import OUTCOMES, OutcomeKind

N = 400
SPECS = [
    uplink_spec(0.05, "int8"),
    uplink_spec(0.05, "fp16"),
    uplink_spec(0.2, "none", "none"),
    uplink_spec(None, "int8"),
    CodecSpec(),
    CodecSpec(sparsify=Sparsify(kind="top_k", fraction=0.05), quantize="ternary", entropy="smallest"),
    CodecSpec(sparsify=Sparsify(kind="random_k", fraction=0.1), quantize="int4"),
    CodecSpec(rotate="hadamard", quantize="eden", bits=2),
]


def delta_of(step: int, n: int = N) -> np.ndarray:
    return (np.random.default_rng(step).standard_t(3, n) * 1e-2).astype(np.float32)


def test_every_outcome_of_the_protocol_is_settled() -> None:
    assert set(GIVEN_BACK) == set(OUTCOMES)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(fates=st.lists(st.tuples(st.sampled_from(OUTCOMES), st.integers(0, 3)), max_size=25))
@settings(max_examples=25, deadline=None)
def test_sent_plus_residual_is_the_sum_of_the_deltas(
    spec: CodecSpec, fates: list[tuple[OutcomeKind, int]]
) -> None:
    """Outcomes come late and in any order; a restart in between changes nothing."""
    feedback = ErrorFeedback(N)
    chain = make_chain(spec)
    local, merged, refused = np.zeros(N), np.zeros(N), np.zeros(N)
    waiting: list[tuple[str, OutcomeKind]] = []
    for step, (outcome, wait) in enumerate(fates):
        delta, task = delta_of(step), f"t{step}"
        local += delta
        payload = feedback.encode(task, delta, chain, seed=rounding_seed("r", "d", task))
        assert feedback.payload(task) == payload
        waiting.append((task, outcome))
        feedback = ErrorFeedback.from_bytes(feedback.to_bytes(), n=N)
        while len(waiting) > wait:
            old, fate = waiting.pop(step % len(waiting))
            content = decode(feedback.payload(old) or b"", n=N)
            if fate == "merged":
                content.add_into(merged)
            elif fate == "refused":
                content.add_into(refused)
            assert feedback.settle(old, fate)
            assert not feedback.settle(old, fate)
    for task, _ in waiting:
        decode(feedback.payload(task) or b"", n=N).add_into(merged)
    assert np.allclose(local, merged + refused + feedback.residual, atol=2e-6)


def test_a_discarded_update_comes_back_with_the_next_and_a_refused_one_does_not() -> None:
    chain = make_chain(uplink_spec(0.01, "int8"))
    for outcome, expected in (("late", 1.0), ("surplus", 1.0), ("stale", 1.0), ("refused", 0.0)):
        feedback = ErrorFeedback(N)
        delta = np.zeros(N, np.float32)
        delta[17] = 1.0
        feedback.encode("t1", delta, chain, seed=1)
        feedback.settle("t1", outcome)  # type: ignore[arg-type]
        again = feedback.encode("t2", np.zeros(N, np.float32), chain, seed=2)
        assert decode(again, n=N).dense()[17] == pytest.approx(expected, abs=0.01)


def test_the_quantisation_error_is_in_the_residual() -> None:
    feedback = ErrorFeedback(N)
    delta = delta_of(1)
    payload = feedback.encode("t", delta, make_chain(uplink_spec(0.05, "int8")), seed=1)
    sent = decode(payload, n=N)
    assert sent.positions is not None
    left = feedback.residual[sent.positions]
    assert np.array_equal(left, delta[sent.positions] - sent.values)
    assert np.count_nonzero(left) > 0


def test_at_most_four_updates_wait_for_their_outcome() -> None:
    feedback = ErrorFeedback(N)
    chain = make_chain(uplink_spec(0.05, "int8"))
    for step in range(PENDING_MAX):
        feedback.encode(f"t{step}", delta_of(step), chain, seed=step)
    before = feedback.to_bytes()
    with pytest.raises(RuntimeError, match="settle first"):
        feedback.encode("t9", delta_of(9), chain, seed=9)
    with pytest.raises(RuntimeError, match="pending already"):
        feedback.encode("t1", delta_of(9), chain, seed=9)
    assert feedback.to_bytes() == before
    assert feedback.pending == ("t0", "t1", "t2", "t3")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e31])
def test_a_diverged_delta_leaves_the_state_alone(bad: float) -> None:
    feedback = ErrorFeedback(N)
    chain = make_chain(uplink_spec(0.05, "int8"))
    feedback.encode("t1", delta_of(1), chain, seed=1)
    before = feedback.to_bytes()
    delta = delta_of(2)
    delta[3] = bad
    with pytest.raises(CodecError, match="not_finite"):
        feedback.encode("t2", delta, chain, seed=2)
    with pytest.raises(CodecError, match="n:"):
        feedback.encode("t2", delta_of(2, N + 1), chain, seed=2)
    assert feedback.to_bytes() == before


def test_the_callers_delta_is_not_changed() -> None:
    feedback = ErrorFeedback(N)
    delta = delta_of(1)
    copy = delta.copy()
    feedback.encode("t", delta, make_chain(uplink_spec(0.05, "int8")), seed=1)
    assert np.array_equal(delta, copy)


def test_decay_and_norm() -> None:
    feedback = ErrorFeedback(N)
    feedback.encode("t", delta_of(1), make_chain(uplink_spec(0.05, "int8")), seed=1)
    norm = feedback.norm()
    assert norm == pytest.approx(float(np.linalg.norm(feedback.residual.astype(np.float64))))
    feedback.decay(0.5)
    assert feedback.norm() == pytest.approx(norm / 2)
    feedback.decay(0.0)
    assert feedback.norm() == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        feedback.decay(1.5)


def test_a_damaged_state_is_refused_wherever_it_is_damaged() -> None:
    feedback = ErrorFeedback(N)
    feedback.encode("t", delta_of(1), make_chain(uplink_spec(0.05, "int8")), seed=1)
    good = feedback.to_bytes()
    for at in range(len(good)):
        for bad in (good[:at], good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :]):
            with pytest.raises(CodecError) as caught:
                ErrorFeedback.from_bytes(bad, n=N)
            assert caught.value.reason == "state"
    with pytest.raises(CodecError, match="state"):
        ErrorFeedback.from_bytes(good, n=N + 1)


# --- deep gradient compression ------------------------------------------------------------------------------------


def test_momentum_correction_follows_the_papers_recursion() -> None:
    """u = m u + delta; v = v + u; send top-k(v); u is cleared where sent, v keeps the quantisation error only."""
    chain = make_chain(uplink_spec(0.05, "none"))
    feedback = ErrorFeedback(N, momentum=0.9)
    u, v = np.zeros(N), np.zeros(N)
    for step in range(12):
        delta = delta_of(step)
        sent = decode(feedback.encode("t", delta, chain, seed=step), n=N)
        feedback.settle("t", "merged")
        u = 0.9 * u + delta
        v += u
        assert np.allclose(sent.values, v[sent.positions], atol=1e-6)
        u[sent.positions] = v[sent.positions] = 0
        assert np.allclose(feedback.residual, v, atol=1e-6)
        feedback = ErrorFeedback.from_bytes(feedback.to_bytes(), n=N, momentum=0.9)


def test_a_state_with_another_momentum_is_refused() -> None:
    state = ErrorFeedback(N, momentum=0.9).to_bytes()
    with pytest.raises(CodecError, match="state"):
        ErrorFeedback.from_bytes(state, n=N)
    with pytest.raises(CodecError, match="momentum"):
        ErrorFeedback(N, momentum=1.0)


def test_a_failed_encoding_leaves_the_momentum_alone() -> None:
    feedback = ErrorFeedback(N, momentum=0.9)
    chain = make_chain(uplink_spec(0.05, "int8"))
    feedback.encode("t1", delta_of(1), chain, seed=1)
    before = feedback.to_bytes()
    with pytest.raises(CodecError, match="not_finite"):
        feedback.encode("t2", np.full(N, np.nan, np.float32), chain, seed=2)
    assert feedback.to_bytes() == before


def test_scales_for_no_feedback_are_never_mixed_with_feedback() -> None:
    chain = make_chain(CodecSpec(rotate="hadamard", quantize="eden", bits=2), feedback=False)
    with pytest.raises(CodecError, match="spec"):
        ErrorFeedback(N).encode("t", delta_of(1), chain, seed=1)


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "vectors"), [(uplink_spec(0.01, "int8"), 0.5), (uplink_spec(None, "int8"), 2.1)], ids=str
)
def test_encoding_takes_little_memory_beside_the_residual(spec: CodecSpec, vectors: float) -> None:
    """The agent lives on 120 MB: a sparse chain makes no temporary of the vector's size, a dense one two."""
    n = 1_663_370
    feedback, chain, delta = ErrorFeedback(n), make_chain(spec), delta_of(1, n)
    tracemalloc.start()
    feedback.encode("t", delta, chain, seed=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < vectors * 4 * n


def test_a_pending_task_that_is_no_text_is_damage() -> None:
    """Found by the fuzzer: msgspec raises UnicodeDecodeError beside its own errors."""
    feedback = ErrorFeedback(N)
    feedback.encode("task", delta_of(1), make_chain(uplink_spec(0.05, "int8")), seed=1)
    body = feedback.to_bytes()[STATE_HEADER.size :].replace(b"task", b"t\xcfsk")
    size = len(body) - 4 * N
    head = STATE_HEADER.pack(STATE_MAGIC, STATE_FORMAT, N, 0.0, size, zlib.crc32(body))
    with pytest.raises(CodecError) as caught:
        ErrorFeedback.from_bytes(head + body, n=N)
    assert caught.value.reason == "state"
