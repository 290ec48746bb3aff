"""Partitions: disjoint, complete as asked, deterministic, refused with numbers when impossible."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.partition import (
    PARTITIONS,
    PartitionError,
    dirichlet,
    dirichlet_free,
    iid,
    local_split,
    natural,
    quantity,
    shards,
)

LABELS = np.repeat(np.arange(10), 100)
EQUAL = ["dirichlet", "iid", "shards"]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(EQUAL),
    devices=st.integers(1, 20),
    each=st.integers(2, 50),
    seed=st.integers(0, 2**40),
)
def test_every_partition_is_disjoint_equal_and_repeatable(kind, devices, each, seed):
    made = PARTITIONS[kind](LABELS, devices, each, seed)
    again = PARTITIONS[kind](LABELS, devices, each, seed)
    taken = np.concatenate(made.devices)
    assert len(made.devices) == devices
    assert len(np.unique(taken)) == len(taken)
    assert taken.min() >= 0
    assert taken.max() < len(LABELS)
    size = each // 2 * 2 if kind == "shards" else each
    assert [len(part) for part in made.devices] == [size] * devices
    for first, second in zip(made.devices, again.devices, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", EQUAL)
def test_all_the_data_can_be_dealt_out(kind):
    made = PARTITIONS[kind](LABELS, 10, 100, seed=5)
    assert len(np.unique(np.concatenate(made.devices))) == 1_000


@settings(max_examples=30, deadline=None)
@given(alpha=st.floats(0.001, 1000), seed=st.integers(0, 1000))
def test_dirichlet_holds_for_extreme_alpha(alpha, seed):
    made = dirichlet(LABELS, 10, 100, seed, alpha)
    assert all(len(part) == 100 for part in made.devices)


def spread(partition):
    """Mean number of classes that make up 90 % of a device."""
    shares = np.sort(partition.histograms(LABELS, 10), axis=1)[:, ::-1].cumsum(axis=1)
    return float((shares < 0.9 * shares[:, -1:]).sum(axis=1).mean() + 1)


def test_small_alpha_means_few_classes():
    few, some, many = (spread(dirichlet(LABELS, 10, 50, 1, alpha)) for alpha in (0.05, 0.5, 100))
    assert few < some < many
    assert few < 3
    assert many > 8


def test_two_shards_give_at_most_four_labels_and_each_sample_once():
    made = shards(LABELS, 10, 100, seed=3, shards_per_device=2)
    assert all(len(np.unique(LABELS[part])) <= 4 for part in made.devices)
    assert len(np.unique(np.concatenate(made.devices))) == 1_000


def test_indices_are_the_same_on_every_platform():
    digest = hashlib.sha256()
    for kind in EQUAL:
        for part in PARTITIONS[kind](LABELS, 7, 20, seed=11).devices:
            digest.update(part.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == EXPECTED


EXPECTED = "c888feb76924c662"


@pytest.mark.parametrize("kind", sorted(set(PARTITIONS) - {"natural"}))
def test_more_devices_than_data_says_how_much_is_needed(kind):
    with pytest.raises(PartitionError, match="need 1200, the data set has 1000"):
        PARTITIONS[kind](LABELS, 12, 100, seed=1)


def test_nonsense_is_refused():
    with pytest.raises(PartitionError, match="at least 1"):
        iid(LABELS, 0, 10, seed=1)
    with pytest.raises(PartitionError, match="alpha"):
        dirichlet(LABELS, 2, 10, seed=1, alpha=0.0)
    with pytest.raises(PartitionError, match="shards_per_device"):
        shards(LABELS, 2, 10, seed=1, shards_per_device=0)


@settings(max_examples=30, deadline=None)
@given(alpha=st.floats(0.01, 100), seed=st.integers(0, 1000), devices=st.integers(1, 20))
def test_free_sizes_are_disjoint_and_none_is_too_small(alpha, seed, devices):
    made = dirichlet_free(LABELS, devices, 50, seed, alpha)
    taken = np.concatenate(made.devices)
    assert len(np.unique(taken)) == len(taken) == devices * 50
    assert min(len(part) for part in made.devices) >= 10


def test_a_repaired_partition_says_so():
    made = dirichlet_free(LABELS, 20, 15, 1, alpha=0.01)
    assert "samples were moved" in made.notes[0]


def test_quantity_skew_keeps_the_sum_and_falls_by_rank():
    made = quantity(LABELS, 10, 100, seed=3, exponent=1.0)
    sizes = sorted(len(part) for part in made.devices)
    assert sum(sizes) == 1_000
    assert sizes[-1] > 8 * sizes[0]
    assert len(np.unique(np.concatenate(made.devices))) == 1_000


def test_natural_devices_are_one_user_each():
    users = np.repeat(np.arange(5), [10, 50, 20, 40, 30])
    made = natural(users, 3, 35, seed=1)
    assert [np.unique(users[part]).tolist() for part in made.devices] == [[1], [3], [4]]
    assert [len(part) for part in made.devices] == [35, 35, 30]
    with pytest.raises(PartitionError, match="6 devices need as many users, the data set has 5"):
        natural(users, 6, 10, seed=1)


def test_local_split_divides_every_device():
    made = iid(LABELS, 4, 25, seed=1)
    train, test = local_split(made, 0.2, seed=2)
    for whole, left, right in zip(made.devices, train.devices, test.devices, strict=True):
        assert len(right) == 5
        np.testing.assert_array_equal(np.sort(np.concatenate([left, right])), whole)
    with pytest.raises(PartitionError, match="at least 2"):
        local_split(iid(LABELS, 2, 1, seed=1), 0.5, seed=1)
