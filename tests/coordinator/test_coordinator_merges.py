"""Every rule against its formula, in float64 and written down a second time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from coordinator import merge
from coordinator.merges import (
    FEDAVG,
    MERGES,
    PAIRED,
    Item,
    MergeSpec,
    State,
    pack_state,
    state_sha256,
    unpack_state,
)
from coordinator.merges.clipped import shrink
from coordinator.merges.fednova import length_of
from coordinator.merges.robust import closest
from topology.plan import MergePlan
from wire import pair
from wire.codecs import make_chain, uplink_spec

N = 300
CHAIN = make_chain(uplink_spec(None, entropy="none"))
RNG = np.random.default_rng(3)
MASTER = RNG.standard_normal(N).astype(np.float32)
VECTORS = [(RNG.standard_normal(N) * 0.01).astype(np.float32) for _ in range(7)]
SAMPLES = [10, 20, 30, 40, 50, 60, 70]
STEPS = [1, 2, 3, 4, 5, 6, 7]
MEAN = sum(n * u.astype(np.float64) for n, u in zip(SAMPLES, VECTORS, strict=True)) / sum(SAMPLES)


def spec(kind: str, server_lr: float = 0.5, **changes: Any) -> MergeSpec:
    names = MergePlan.__struct_fields__
    rule = MergePlan(kind=kind, **{k: v for k, v in changes.items() if k in names})  # type: ignore[arg-type]
    rest = {k: v for k, v in changes.items() if k not in names}
    return structs.replace(FEDAVG, rule=rule, server_lr=server_lr, **rest)


def payload(vector: Any, control: Any = None) -> bytes:
    encoded = CHAIN.encode(vector, seed=1)
    return encoded if control is None else pair.join(encoded, CHAIN.encode(control, seed=1))


def items(vectors: Sequence[Any] = VECTORS, factor: float = 1.0) -> list[Item]:
    rows = zip(vectors, SAMPLES, STEPS, strict=False)
    return [Item(payload(u), n, factor, steps) for u, n, steps in rows]


def moved(merged: merge.Merged, master: Any = MASTER) -> Any:
    return merged.master.astype(np.float64) - master


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, atol=2e-6)


def twice(how: MergeSpec, given: list[Item]) -> tuple[merge.Merged, merge.Merged]:
    first = merge.apply(MASTER, given, how)
    return first, merge.apply(first.master, given, structs.replace(how, version=2), first.state)


# --- server optimizers --------------------------------------------------------------------------------------------


def test_fedavgm_remembers_its_direction() -> None:
    first, second = twice(spec("fedavgm", momentum=0.9), items())
    close(moved(first), 0.5 * MEAN)
    close(moved(second, first.master), 0.5 * 1.9 * MEAN)


@pytest.mark.parametrize("kind", ["fedadam", "fedyogi"])
def test_adaptive_optimizers_are_those_of_the_paper(kind: str) -> None:
    beta1, beta2, tau = 0.8, 0.95, 0.01
    m, v, x = np.zeros(N), np.full(N, tau**2), MASTER.astype(np.float64)
    for _ in range(2):
        m = beta1 * m + (1 - beta1) * MEAN
        square = MEAN**2
        v = (
            beta2 * v + (1 - beta2) * square
            if kind == "fedadam"
            else v - (1 - beta2) * square * np.sign(v - square)
        )
        x = x + 0.5 * m / (np.sqrt(v) + tau)
    _, second = twice(spec(kind, beta1=beta1, beta2=beta2, tau=tau), items())
    np.testing.assert_allclose(second.master, x, atol=1e-4)


# --- local steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_length_of_an_update_is_the_sum_of_its_gradients(momentum: float) -> None:
    """Run the recursion: each step adds the velocity, the velocity a unit gradient."""
    for steps in range(1, 30):
        velocity = total = 0.0
        for _ in range(steps):
            velocity = momentum * velocity + 1.0
            total += velocity
        assert math.isclose(length_of(steps, momentum), total, rel_tol=1e-9)


def test_fednova_does_not_let_more_steps_pull_harder() -> None:
    how = spec("fednova", local_momentum=0.9, local_steps=100)
    lengths = [length_of(steps, 0.9) for steps in STEPS]
    shares = [n / sum(SAMPLES) for n in SAMPLES]
    whole = sum(p * a for p, a in zip(shares, lengths, strict=True))
    expected = 0.5 * whole * sum(p * u / a for p, u, a in zip(shares, VECTORS, lengths, strict=True))
    close(moved(merge.apply(MASTER, items(), how)), expected)
    alike = [item._replace(steps=5) for item in items()]
    close(moved(merge.apply(MASTER, alike, how)), 0.5 * MEAN)


def test_claimed_steps_count_up_to_what_the_samples_allow() -> None:
    how = spec("fednova", local_epochs=2, batch_size=10)
    assert [how.counted_steps(claim, 50) for claim in (0, 3, 10, 10**12)] == [1, 3, 10, 10]
    assert structs.replace(how, local_steps=7).counted_steps(10**12, 50) == 7


# --- control variates ---------------------------------------------------------------------------------------------


def test_scaffold_moves_c_by_the_share_that_took_part() -> None:
    controls = [u * 3 for u in VECTORS[:4]]
    given = [Item(payload(u, c), 10) for u, c in zip(VECTORS, controls, strict=False)]
    how = spec("scaffold", agents=16)
    first, second = twice(how, given)
    close(moved(first), 0.5 * np.mean(VECTORS[:4], axis=0))
    close(first.state["control"], 4 / 16 * np.mean(controls, axis=0))
    close(second.state["control"], 2 * 4 / 16 * np.mean(controls, axis=0))


def test_scaffold_refuses_an_update_whose_control_variate_is_missing_or_spoilt() -> None:
    how = spec("scaffold", agents=4)
    spoilt = bytearray(payload(VECTORS[0], VECTORS[1]))
    spoilt[-4:] = np.float32(np.nan).tobytes()
    given = [
        Item(payload(VECTORS[0]), 10),
        Item(bytes(spoilt), 10),
        Item(payload(VECTORS[1], VECTORS[2]), 10),
    ]
    merged = merge.apply(MASTER, given, how)
    assert sorted(merged.refused) == [0, 1]
    close(moved(merged), 0.5 * VECTORS[1])
    close(merged.state["control"], VECTORS[2] / 4)
    assert merge.defect_of(bytes(spoilt), N, "scaffold")


# --- robust -------------------------------------------------------------------------------------------------------

ATTACK = np.full(N, 900.0, np.float32)


@pytest.mark.parametrize("count", [6, 7])
def test_median(count: int) -> None:
    close(
        moved(merge.apply(MASTER, items(VECTORS[:count]), spec("median"))),
        0.5 * np.median(VECTORS[:count], axis=0),
    )


def test_trimmed_mean() -> None:
    rows = np.sort(np.array(VECTORS, np.float64), axis=0)[2:-2]
    close(moved(merge.apply(MASTER, items(), spec("trimmed_mean", trim=0.3))), 0.5 * rows.mean(axis=0))


def test_krum_takes_from_the_crowd() -> None:
    crowd = [np.float32(0.01) + u * np.float32(0.01) for u in VECTORS[:5]]
    far = [ATTACK, -ATTACK]
    for keep in (1, 3):
        chosen = closest([far[0], *crowd, far[1]], 2, keep)
        assert len(chosen) == keep
        assert not {0, 6} & set(chosen)


@pytest.mark.parametrize(
    "how",
    [
        spec("median", 1.0),
        spec("trimmed_mean", 1.0, trim=0.3),
        spec("krum", 1.0, byzantine=2),
        spec("krum", 1.0, byzantine=2, keep=3),
    ],
    ids=["median", "trimmed", "krum", "multi-krum"],
)
def test_two_of_seven_cannot_move_a_robust_merge_out_of_the_honest_range(how: MergeSpec) -> None:
    honest = VECTORS[:5]
    step = moved(merge.apply(MASTER, items([ATTACK, *honest, -ATTACK]), how))
    low, high = np.min(honest, axis=0) - 1e-5, np.max(honest, axis=0) + 1e-5
    assert ((low <= step) & (step <= high)).all()
    assert np.abs(moved(merge.apply(MASTER, items([ATTACK, *honest]), spec("fedavg", 1.0)))).max() > 1.0


def test_norm_bound_shortens_what_is_too_long() -> None:
    bound = float(np.linalg.norm(VECTORS[0])) / 2
    step = moved(merge.apply(MASTER, [Item(payload(VECTORS[0]), 10)], spec("norm_bound", 1.0, norm=bound)))
    assert math.isclose(float(np.linalg.norm(step)), bound, rel_tol=1e-4)
    loose = merge.apply(MASTER, items(), spec("norm_bound", norm=1e5))
    assert loose.master.tobytes() == merge.apply(MASTER, items(), spec("fedavg")).master.tobytes()
    assert shrink(merge.checked(payload(np.zeros(N, np.float32)), N), 1.0) == 1.0


# --- private ------------------------------------------------------------------------------------------------------


def test_noise_is_as_strong_as_it_is_accounted_for_and_comes_back_the_same() -> None:
    n, quiet = 200_000, np.zeros(200_000, np.float32)
    how = spec("dp_fedavg", 1.0, norm=2.0, noise_multiplier=1.5, wanted=4, noise_seed=99)
    given = [Item(payload(quiet), 1)]
    once = merge.apply(quiet, given, how).master
    assert abs(float(once.std()) - 1.5 * 2.0 / 4) < 0.01
    assert abs(float(once.mean())) < 0.01
    assert n == once.size
    assert once.tobytes() == merge.apply(quiet, given, how).master.tobytes()
    for other in (structs.replace(how, version=2), structs.replace(how, noise_seed=98)):
        assert once.tobytes() != merge.apply(quiet, given, other).master.tobytes()


def test_samples_and_number_of_updates_do_not_change_what_one_device_can_do() -> None:
    how = spec("dp_fedavg", 1.0, norm=0.05, noise_multiplier=1e-9, wanted=10, noise_seed=1)
    one = moved(merge.apply(MASTER, [Item(payload(ATTACK), 10**6)], how))
    assert float(np.linalg.norm(one)) <= 0.05 / 10 + 1e-5


# --- what all of them owe -----------------------------------------------------------------------------------------

EVERY = [
    pytest.param(spec(kind, agents=9, wanted=7, noise_seed=5, byzantine=2, keep=2, trim=0.2), id=kind)
    for kind in MERGES
]


def given_for(how: MergeSpec, factor: float = 1.0) -> list[Item]:
    if how.rule.kind not in PAIRED:
        return items(factor=factor)
    return [Item(payload(u, u), n, factor) for u, n in zip(VECTORS, SAMPLES, strict=True)]


@pytest.mark.parametrize("how", EVERY)
def test_the_same_list_gives_the_same_bits_and_touches_nothing(how: MergeSpec) -> None:
    before, given = MASTER.copy(), given_for(how)
    first, second = twice(how, given)
    states = [pack_state(first.state), pack_state(second.state)]
    again, third = twice(how, given)
    assert again.master.tobytes() == first.master.tobytes()
    assert third.master.tobytes() == second.master.tobytes()
    assert [pack_state(again.state), pack_state(third.state)] == states
    assert MASTER.tobytes() == before.tobytes()
    assert first.master.dtype == np.float32
    assert all(vector.dtype == np.float32 for vector in first.state.values())


@pytest.mark.parametrize("how", EVERY)
def test_a_nan_in_the_last_element_adds_nothing(how: MergeSpec) -> None:
    given = given_for(how)
    spoilt = bytearray(given[2].payload)
    spoilt[-4:] = np.float32(np.nan).tobytes()
    with_it = merge.apply(MASTER, [*given[:2], given[2]._replace(payload=bytes(spoilt)), *given[3:]], how)
    assert list(with_it.refused) == [2]
    assert with_it.master.tobytes() == merge.apply(MASTER, [*given[:2], *given[3:]], how).master.tobytes()


@pytest.mark.parametrize("how", EVERY)
def test_statistics_take_the_plain_mean_in_every_merge(how: MergeSpec) -> None:
    how = structs.replace(how, state=((0, 10), (290, 300)))
    merged = merge.apply(MASTER, given_for(how), how)
    inside = np.r_[0:10, 290:300]
    close(moved(merged)[inside], MEAN[inside])


@pytest.mark.parametrize("how", EVERY)
def test_nothing_to_merge_changes_neither_model_nor_state(how: MergeSpec) -> None:
    state: State = {"kept": MASTER}
    merged = merge.apply(MASTER, [Item(b"junk", 1)], how, state)
    assert merged.master.tobytes() == MASTER.tobytes()
    assert merged.state is state


def test_a_state_survives_being_packed() -> None:
    _, second = twice(spec("fedadam"), items())
    again = unpack_state(pack_state(second.state))
    assert state_sha256(again) == state_sha256(second.state)
    assert state_sha256({**again, "first": again["second"]}) != state_sha256(again)


# --- what the peers got wrong -------------------------------------------------------------------------------------


def one_stale(tau: int, damping: Callable[[int], float]) -> float:
    """How far one update of age tau moves the model, as a share of a fresh one's step."""
    item = Item(payload(VECTORS[0]), 10, damping(tau))
    step = moved(merge.apply(MASTER, [item], spec("fedavg", 1.0)))
    return float(np.dot(step, VECTORS[0]) / np.dot(VECTORS[0], VECTORS[0]))


@settings(max_examples=30, deadline=None)
@given(tau=st.integers(0, 50), exponent=st.floats(0.1, 2.0))
def test_staleness_is_not_cancelled_by_its_own_normalisation(tau: int, exponent: float) -> None:
    """Dividing by the sum of the damped weights gives 1 whatever the age."""
    assert math.isclose(one_stale(tau, lambda t: (1 + t) ** -exponent), (1 + tau) ** -exponent, rel_tol=1e-3)


def test_three_versions_old_at_exponent_one_half_is_exactly_half() -> None:
    assert math.isclose(one_stale(3, lambda t: (1 + t) ** -0.5), 0.5, rel_tol=1e-4)


def test_a_fresh_update_counts_whole() -> None:
    """NVFlare's buffered manager counts the version up first and weighs with 1/(1+sqrt(tau)): a fresh one gets 0.5."""
    assert math.isclose(one_stale(0, lambda t: (1 + t) ** -0.5), 1.0, rel_tol=1e-4)


def test_damping_does_not_compound() -> None:
    """Plato's FedAsync multiplies its stored mixing constant: ten merges at tau = 2 leave 0.0037 of 0.9."""
    master = MASTER
    for version in range(1, 11):
        item = Item(payload(VECTORS[0]), 10, 0.9 * 3**-0.5)
        after = merge.apply(master, [item], structs.replace(FEDAVG, version=version)).master
        close(after.astype(np.float64) - master, 0.9 * 3**-0.5 * VECTORS[0])
        master = after


def test_a_fresh_asynchronous_update_does_not_replace_the_model() -> None:
    """Flotilla mixes with (tau+1)^-a and no constant below one: the client's model becomes the global one."""
    mixing = 0.6
    after = merge.apply(MASTER, [Item(payload(VECTORS[0]), 10, mixing)], FEDAVG).master
    close(after, MASTER + mixing * VECTORS[0])
    assert np.abs(after - (MASTER + VECTORS[0])).max() > 1e-3


def test_a_buffered_update_counts_against_the_version_it_was_trained_on() -> None:
    """FedScale averages whole models and APPFL takes (local - current global): both undo what came in between. Here an
    update is a difference to its base, so what another device added since then stays."""
    base, theirs, ours = MASTER, VECTORS[0], VECTORS[1]
    current = merge.apply(base, [Item(payload(theirs), 10)], FEDAVG).master
    after = merge.apply(current, [Item(payload(ours), 10, 0.5)], FEDAVG).master
    close(after, base + theirs + 0.5 * ours)


def test_a_count_of_updates_is_no_sum_of_weights() -> None:
    """NVFlare divides by how many came: ten times the samples must not be ten times the step."""
    few = merge.apply(MASTER, [Item(payload(u), 1) for u in VECTORS], FEDAVG)
    many = merge.apply(MASTER, [Item(payload(u), 10) for u in VECTORS], FEDAVG)
    close(few.master, many.master)


def test_a_sparse_update_is_not_shrunk_by_its_sparsity() -> None:
    """OpenFL's STC takes its mean over all coordinates, zeros included: 1 % of the coordinates, 1 % of the size."""
    vector = np.zeros(N, np.float32)
    vector[::100] = 0.5
    sparse = make_chain(uplink_spec(0.01)).encode(vector, seed=1)
    after = merge.apply(MASTER, [Item(sparse, 10)], FEDAVG)
    assert math.isclose(float(moved(after).sum()), 1.5, rel_tol=1e-3)
