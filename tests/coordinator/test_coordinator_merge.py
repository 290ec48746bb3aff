"""The arithmetic of a version: exact, in order, all or nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from msgspec import structs

from coordinator import merge
from coordinator.merges import FEDAVG, Item
from wire.codecs import CodecError, make_chain, uplink_spec
from wire.codecs.arrays import Float32

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


def applied(
    updates: Iterable[tuple[bytes, int]], server_lr: float = 1.0, master: Float32 = MASTER
) -> merge.Merged:
    items = (Item(payload, samples) for payload, samples in updates)
    return merge.apply(master, items, structs.replace(FEDAVG, server_lr=server_lr))


@pytest.mark.parametrize("chain", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_the_bits_are_those_of_the_formula(chain: object) -> None:
    updates = [(update(seed, chain), 10 + seed) for seed in range(5)]
    accumulator = np.zeros(N, np.float32)
    for payload, weight in updates:
        accumulator = accumulator + merge.checked(payload, N).dense() * np.float32(weight)
    expected = MASTER + accumulator * np.float32(0.7 / sum(weight for _, weight in updates))
    merged = applied(updates, 0.7)
    assert merged.master.dtype == np.float32
    assert merged.master.tobytes() == expected.tobytes()
    assert merged.samples == 60.0


def test_it_is_the_weighted_mean() -> None:
    updates = [(update(seed, DENSE), weight) for seed, weight in ((1, 30), (2, 10))]
    dense = [merge.checked(payload, N).dense().astype(np.float64) for payload, _ in updates]
    moved = applied(updates).master.astype(np.float64) - MASTER
    np.testing.assert_allclose(moved, 0.75 * dense[0] + 0.25 * dense[1], atol=1e-6)


def test_another_order_is_another_sum_and_the_same_order_the_same_bits() -> None:
    updates = [(update(seed, DENSE), 3 + 7 * seed) for seed in range(8)]
    once, again = applied(updates), applied(list(updates))
    assert once.master.tobytes() == again.master.tobytes()
    assert once.master.tobytes() != applied(updates[::-1]).master.tobytes()


def test_updates_are_taken_one_at_a_time() -> None:
    open_now = 0

    def stream() -> Iterator[tuple[bytes, int]]:
        nonlocal open_now
        for seed in range(5):
            assert open_now == 0, "the next update was asked for before the last was added"
            open_now += 1
            yield update(seed), 1
            open_now -= 1

    assert applied(stream()).samples == 5.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2_000.0, -1e30])
@pytest.mark.parametrize("place", [0, N - 1])
def test_one_bad_element_adds_nothing_and_counts_nothing(value: float, place: int) -> None:
    good = [(update(1), 10), (update(2), 20)]
    spoilt = [good[0], (with_value(value, place), 10**6), good[1]]
    merged = applied(spoilt)
    assert merged.master.tobytes() == applied(good).master.tobytes()
    assert list(merged.refused) == [1]
    assert merged.samples == 30.0
    assert merge.defect_of(with_value(value, place), N)


def test_the_probe_above_really_reaches_the_value() -> None:
    assert merge.checked(with_value(7.0, N - 1), N).dense()[-1] == 7.0
    assert not merge.defect_of(with_value(1_000.0, 0), N)


@pytest.mark.parametrize("samples", [0, -1, 10**12 + 1])
def test_samples_that_cannot_be_are_refused(samples: int) -> None:
    assert list(applied([(update(1), samples)]).refused) == [0]


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    assert list(merge.apply(MASTER, [Item(update(1), 10, factor)], FEDAVG).refused) == [0]


def test_damping_is_absolute() -> None:
    """Dividing by the sum of the damped weights would cancel a staleness that all updates of a version share."""
    whole = applied([(update(1), 10), (update(2), 30)]).master.astype(np.float64) - MASTER
    items = [Item(update(1), 10, 0.5), Item(update(2), 30, 0.5)]
    half = merge.apply(MASTER, items, FEDAVG).master.astype(np.float64) - MASTER
    np.testing.assert_allclose(half, whole / 2, atol=1e-6)


def test_statistics_take_the_plain_mean_whatever_the_server_lr() -> None:
    spec = structs.replace(FEDAVG, server_lr=0.1, state=((10, 20), (N - 5, N)))
    for chain in (DENSE, SPARSE):
        updates = [(update(seed, chain), 10 * seed) for seed in (1, 2)]
        plain = applied(updates).master
        merged = merge.apply(MASTER, [Item(*pair) for pair in updates], spec).master
        inside = np.zeros(N, np.bool_)
        inside[10:20] = inside[N - 5 :] = True
        np.testing.assert_array_equal(merged[inside], plain[inside])
        np.testing.assert_allclose(
            (merged - MASTER)[~inside], 0.1 * (plain - MASTER)[~inside], rtol=0, atol=1e-6
        )


def test_nothing_to_merge_leaves_the_model_as_it_is() -> None:
    merged = applied([(b"garbage", 1)])
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
    merged = applied([(largest, 10**12)] * 50, master=np.zeros(N, np.float32))
    np.testing.assert_allclose(merged.master, 1_000.0, rtol=1e-6)


def test_an_update_that_makes_a_running_variance_negative_is_refused() -> None:
    """Alone: its own step from the master decides, whoever else is in the version."""
    master = np.full(N, 0.5, np.float32)
    good, bad = np.zeros(N, np.float32), np.zeros(N, np.float32)
    good[10:20], bad[10:20], bad[15] = -0.4, -0.4, -0.6
    spec = structs.replace(FEDAVG, state=((10, 20),), variances=((10, 20),))
    items = [Item(DENSE.encode(vector, seed=1), 5) for vector in (good, bad, good)]
    merged = merge.apply(master, items, spec)
    assert merged.refused == {1: "a running variance of -0.0961: statistics are never negative"}
    assert merged.samples == 10
    np.testing.assert_allclose(merged.master[10:20], 0.1, rtol=1e-5)
    mean = merge.apply(master, items, structs.replace(spec, variances=()))  # a running mean may be anything
    assert mean.refused == {}
