"""Baselines: the arithmetic against the trainer's own, the same steps for all, and ends before the last round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.small_run import make_small_run, small_plan

from coordinator.baselines import POINTS_MAX, STOPPED, World, centralised, fedavg, local_only
from history.baselines import BASELINES_NAME, Baselines, load_baselines
from learning.trainer import Trainer
from topology.plan import Plan, PolicyPlan


def world_of(root: Path, plan: Plan, rounds: int = 4, **more: Any) -> World:
    if not (root / "model").exists():
        make_small_run(root, plan)
    return World(root, plan, rounds, **more)


def test_one_round_of_fedavg_is_the_mean_of_what_devices_learn(tmp_path: Path) -> None:
    world = world_of(tmp_path, small_plan(), 1)
    total, samples = np.zeros(world.initial.size), 0
    for name in world.devices:
        trainer = Trainer(world.artifact, world.shard(name))
        result = trainer.train(world.initial, world.spec(1), world.seed("train", 1, name))
        total += result.samples * result.delta
        samples += result.samples
    expected = world.test.evaluate((world.initial + total / samples).astype(np.float32))
    found = fedavg(world)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.uplink_bytes == 3 * 4 * world.initial.size


def test_all_have_the_same_steps_and_learn(tmp_path: Path) -> None:
    world = world_of(tmp_path, small_plan())
    together, one, alone = fedavg(world), centralised(world), local_only(world)
    assert together.steps == one.steps == alone.steps == 4 * (2 + 3 + 4)
    assert [point.round for point in one.curve] == [1, 2, 3, 4]
    start = world.test.evaluate(world.initial).accuracy or 0.0
    assert min(together.accuracy or 0, one.accuracy or 0) > start + 0.2
    assert alone.accuracy is not None
    assert (one.accuracy or 0) > alone.accuracy
    assert (alone.accuracy_min or 0) <= alone.accuracy <= (alone.accuracy_max or 0)


def test_with_one_device_and_whole_batches_all_three_are_one(tmp_path: Path) -> None:
    """The order of samples is all that differs between their seeds, and a batch that is the whole shard has none."""
    plan = small_plan(1, batch=20)
    world = World(make_small_run(tmp_path, plan), plan, 5)
    losses = [fedavg(world).loss, centralised(world).loss, local_only(world).loss]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_alone_a_device_has_the_rounds_that_it_has_among_the_others(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(small_plan(rounds=12), policy=PolicyPlan(cohort=1))
    world = world_of(tmp_path, plan, 12)
    drawn = [name for cohort in world.cohorts() for name in cohort]
    assert [d.rounds for d in local_only(world).devices] == [drawn.count(name) for name in world.devices]
    assert len(set(drawn)) == 3
    assert fedavg(world).steps == centralised(world).steps


@pytest.mark.parametrize(
    ("policy", "cohort"),
    [({"kind": "buffered", "buffer": 2}, 2), ({"kind": "asynchronous", "buffer": 1}, 1), ({"cohort": 3}, 3)],
)
def test_a_round_has_as_many_updates_as_a_version(tmp_path: Path, policy: Any, cohort: int) -> None:
    plan = msgspec.structs.replace(small_plan(), policy=PolicyPlan(**{"cohort": 3, **policy}))
    assert {len(drawn) for drawn in world_of(tmp_path, plan).cohorts()} == {cohort}


def test_they_are_the_same_again(tmp_path: Path) -> None:
    clock = lambda: 0.0  # noqa: E731
    first = world_of(tmp_path, small_plan(), clock=clock)
    again = world_of(tmp_path, small_plan(), clock=clock)
    assert fedavg(first) == fedavg(again)
    assert centralised(first) == centralised(again)
    assert local_only(first) == local_only(again)


def test_a_long_run_is_evaluated_at_so_many_points_and_at_its_end(tmp_path: Path) -> None:
    found = fedavg(world_of(tmp_path, small_plan(rounds=120), 120))
    assert len(found.curve) <= POINTS_MAX
    assert found.curve[-1].round == found.rounds == 120


def test_at_the_time_limit_they_say_what_they_have(tmp_path: Path) -> None:
    calls = iter([False, False, True])
    found = fedavg(world_of(tmp_path, small_plan(), stop=lambda: next(calls)))
    assert (found.rounds, found.note) == (2, STOPPED)
    assert found.curve[-1].round == 2
    nothing = centralised(world_of(tmp_path, small_plan(), stop=lambda: True))
    assert (nothing.rounds, nothing.steps, nothing.note) == (0, 0, STOPPED)
    assert local_only(world_of(tmp_path, small_plan(), stop=lambda: True)).devices == ()


def test_what_diverges_says_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, small_plan(lr=1e38))
    assert fedavg(world).note == "every device of a round diverged"
    assert centralised(world).note == "it diverged"
    assert [d.rounds for d in local_only(world).devices] == [0, 0, 0]


def test_the_devices_own_test_splits(tmp_path: Path) -> None:
    plan = small_plan()
    world = World(make_small_run(tmp_path, plan, own_test=8), plan, 4)
    alone = local_only(world)
    assert all(d.own_accuracy is not None for d in alone.devices)
    assert (alone.own_accuracy or 0) > (alone.accuracy or 0)  # its own class is most of it
    assert fedavg(world).own_accuracy is not None
    assert centralised(world).own_accuracy is not None


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    world = world_of(
        tmp_path, small_plan(), progress=lambda kind, done, of, _found: told.append((kind, done, of))
    )
    centralised(world)
    local_only(world)
    assert told == [("centralised", i, 4) for i in range(1, 5)] + [("local-only", i, 3) for i in range(1, 4)]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": 1}', b"\xff\xfe", b'{"schema": 9}'])
def test_a_file_that_is_none_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / BASELINES_NAME
    assert load_baselines(path) is None
    path.write_bytes(content)
    assert load_baselines(path) is None
    path.write_bytes(msgspec.json.encode(Baselines(run="r", seed=1, rounds=2)))
    assert load_baselines(path) == Baselines(run="r", seed=1, rounds=2)
