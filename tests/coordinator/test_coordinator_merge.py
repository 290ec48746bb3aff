"""The arithmetic of a version: exact, in order, all or nothing."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from coordinator import merge
from wire.codecs import CodecError, make_chain, uplink_spec

N = 1_000
DENSE, SPARSE = make_chain(uplink_spec(None)), make_chain(uplink_spec(0.05, "int8"))


def update(seed: int, chain: object = SPARSE) -> bytes:
    vector = np.random.default_rng(seed).standard_normal(N).astype(np.float32) * 0.01
    return chain.encode(vector, seed=seed)  # type: ignore[attr-defined,no-any-return]


def with_value(value: float, place: int) -> bytes:
    """A dense, unpacked payload with one element overwritten behind the encoder's back."""
    payload = bytearray(make_chain(uplink_spec(None, entropy="none")).encode(np.ones(N, np.float32), seed=1))
    end = len(payload) - 4 * (N - 1 - place)
    payload[end - 4 : end] = struct.pack("<f", value)
    return bytes(payload)


MASTER = np.random.default_rng(0).standard_normal(N).astype(np.float32)


@pytest.mark.parametrize("chain", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_the_bits_are_those_of_the_formula(chain: object) -> None:
    updates = [(update(seed, chain), float(10 + seed)) for seed in range(5)]
    accumulator = np.zeros(N, np.float32)
    for payload, weight in updates:
        accumulator = accumulator + merge.checked(payload, N).dense() * np.float32(weight)
    expected = MASTER + accumulator * np.float32(0.7 / sum(weight for _, weight in updates))
    merged = merge.apply(MASTER, updates, 0.7)
    assert merged.master.dtype == np.float32
    assert merged.master.tobytes() == expected.tobytes()
    assert merged.weight == 60.0


def test_it_is_the_weighted_mean() -> None:
    updates = [(update(seed, DENSE), weight) for seed, weight in ((1, 30.0), (2, 10.0))]
    dense = [merge.checked(payload, N).dense().astype(np.float64) for payload, _ in updates]
    moved = merge.apply(MASTER, updates, 1.0).master.astype(np.float64) - MASTER
    np.testing.assert_allclose(moved, 0.75 * dense[0] + 0.25 * dense[1], atol=1e-6)


def test_another_order_is_another_sum_and_the_same_order_the_same_bits() -> None:
    updates = [(update(seed, DENSE), float(3 + 7 * seed)) for seed in range(8)]
    once, again = merge.apply(MASTER, updates, 1.0), merge.apply(MASTER, list(updates), 1.0)
    assert once.master.tobytes() == again.master.tobytes()
    assert once.master.tobytes() != merge.apply(MASTER, updates[::-1], 1.0).master.tobytes()


def test_updates_are_taken_one_at_a_time() -> None:
    open_now = 0

    def stream() -> object:
        nonlocal open_now
        for seed in range(5):
            assert open_now == 0, "the next update was asked for before the last was added"
            open_now += 1
            yield update(seed), 1.0
            open_now -= 1

    assert merge.apply(MASTER, stream(), 1.0).weight == 5.0  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2_000.0, -1e30])
@pytest.mark.parametrize("place", [0, N - 1])
def test_one_bad_element_adds_nothing_and_counts_nothing(value: float, place: int) -> None:
    good = [(update(1), 10.0), (update(2), 20.0)]
    spoilt = [good[0], (with_value(value, place), 1e6), good[1]]
    merged = merge.apply(MASTER, spoilt, 1.0)
    assert merged.master.tobytes() == merge.apply(MASTER, good, 1.0).master.tobytes()
    assert list(merged.refused) == [1]
    assert merged.weight == 30.0
    assert merge.defect_of(with_value(value, place), N)


def test_the_probe_above_really_reaches_the_value() -> None:
    assert merge.checked(with_value(7.0, N - 1), N).dense()[-1] == 7.0
    assert not merge.defect_of(with_value(1_000.0, 0), N)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    assert list(merge.apply(MASTER, [(update(1), weight)], 1.0).refused) == [0]


def test_nothing_to_merge_leaves_the_model_as_it_is() -> None:
    merged = merge.apply(MASTER, [(b"garbage", 1.0)], 1.0)
    assert merged.master.tobytes() == MASTER.tobytes()
    assert merged.master is not MASTER


def test_an_update_of_another_model_and_one_that_is_too_long_are_refused() -> None:
    other = DENSE.encode(np.ones(N + 1, np.float32), seed=1)
    assert "another size" in merge.defect_of(other, N)
    assert "longer than the limit" in merge.defect_of(bytes(4 * N + merge.OVERHEAD_BYTES + 1), N)
    with pytest.raises(CodecError):
        DENSE.encode(np.full(N, np.nan, np.float32), seed=1)


def test_ten_to_the_twelve_samples_of_the_largest_step_do_not_overflow() -> None:
    largest = make_chain(uplink_spec(None)).encode(np.full(N, 1_000.0, np.float32), seed=1)
    merged = merge.apply(np.zeros(N, np.float32), [(largest, 1e12)] * 50, 1.0)
    np.testing.assert_allclose(merged.master, 1_000.0, rtol=1e-6)
