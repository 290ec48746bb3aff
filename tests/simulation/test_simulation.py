"""Coordinator and agents against bad networks, disks and deaths in virtual time. Failing seeds can be repeated."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from coordinator.recovery import restore_model
from simulation.books import variate_of
from simulation.broker import Broker, Packet, Peer, matches
from simulation.checks import check_everything
from simulation.clock import Clock
from simulation.habits import TURNS, WORLDS, Habits, merge_of, schedule_of, world_of
from simulation.mutants import MUTANTS
from simulation.soak import first_caught, play, play_many, replay_command
from simulation.stories import STORIES, transcript, world_of_story
from simulation.world import World

SEEDS = 2_000
BLOCK = 500  # seeds of one test, over all processors
MUTANT_SEEDS_MAX = 200  # a check that needs more to see its defect is as good as none


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Simulated devices complain about simulated disks."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, SEEDS, BLOCK))
def test_nothing_is_lost_whatever_happens(start: int) -> None:
    """Every schedule in every world; each failure says how to repeat it."""
    seeds = range(start, start + BLOCK)
    failed = [played for played in play_many(seeds, jobs=os.cpu_count() or 1) if played.problem]
    assert not failed, "\n".join(
        f"repeat with: {replay_command(played.seed)}\n{played.problem}" for played in failed[:3]
    )


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_defect_put_in_is_caught(mutant: str) -> None:
    needed = first_caught(mutant, MUTANT_SEEDS_MAX)
    assert needed is not None, f"{mutant!r} survived {MUTANT_SEEDS_MAX} seeds"
    print(f"{mutant}: caught with seed {needed - 1}")


# --- stories -----------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", STORIES)
def test_a_story_goes_as_it_always_went(name: str) -> None:
    """After a change that is meant: python -m simulation.stories --write tests/simulation/golden"""
    assert transcript(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def of_story(name: str, prepare: Callable[[World], object] = lambda _world: None) -> World:
    world = world_of_story(name)
    prepare(world)
    try:
        world.run()
        check_everything(world)
    finally:
        world.coordinator.dispose()
    return world


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_the_coordinator_dies_at_every_action_of_a_story(name: str) -> None:
    """Before and after every commit, ack, outcome, task and published chunk."""
    operations = of_story(name).coordinator.operations
    assert operations > 50
    for number in range(operations):
        world = of_story(name, lambda world, n=number: world.coordinator.cut_after(n))  # type: ignore[misc]
        assert world.coordinator.crashes == 1, f"{name}, operation {number}"


def test_the_stories_are_about_what_they_say() -> None:
    merged = {name: merged_of(of_story(name)) for name in ("carried-over", "buffered", "asynchronous")}
    assert all(max(u["staleness"] for u in updates) >= 1 for updates in merged.values())
    outcomes = {name: discarded_of(of_story(name)) for name in ("too-stale", "carried-over")}
    assert "stale" in outcomes["too-stale"]
    assert "late" not in outcomes["carried-over"]
    assert of_story("broker-forgets").broker.epoch == 1
    assert of_story("killed-after-ack").agents[0].books.disks_lost == 1
    assert of_story("killed-training").agents[1].life > 1


@pytest.mark.parametrize("seed", range(0, 24, 8))
def test_where_everything_is_settled_the_variates_of_all_devices_are_n_times_the_servers(seed: int) -> None:
    """Nothing goes wrong, in every codec: what devices hold is the mean gradient of their last merged task each."""
    world = World(seed, Habits(), schedule="scaffold", planned=False)
    world.run()
    check_everything(world)
    assert not any(agent.spool.restored().items for agent in world.agents)
    model = restore_model(world.coordinator.journal, "fp16", 1, world.coordinator.merging)
    assert model is not None
    held = [variate_of(agent.spool, agent.parameters) for agent in world.agents]
    assert all(np.abs(own).max() > 0.1 for own in held)
    np.testing.assert_allclose(np.sum(held, axis=0), len(held) * model.state["control"], atol=1e-5)
    world.coordinator.dispose()


def test_the_seeds_send_control_variates_in_every_codec() -> None:
    turns = [seed for seed in range(64) if schedule_of(seed) == "scaffold"]
    assert {merge_of(seed, "scaffold").control for seed in turns} == {"none", "fp16", "int8"}
    assert len({world_of(seed) for seed in turns}) == len(WORLDS)


def merged_of(world: World) -> list[dict[str, Any]]:
    return [
        u
        for _, name, fields in world.coordinator.records
        if name == "version_committed"
        for u in fields["updates"]
    ]


def discarded_of(world: World) -> list[str]:
    return [fields["outcome"] for _, name, fields in world.coordinator.records if name == "update_discarded"]


# A run without other faults, so that every death hits the same run at another place.
STORY = Habits(calm_at_s=1e6)


def story(prepare: Callable[[World], object], schedule: str = "synchronous") -> World:
    world = World(0, STORY, schedule=schedule)
    prepare(world)
    world.run()
    check_everything(world)
    return world


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["synchronous", "scaffold"])
def test_a_device_loses_power_at_every_operation_of_its_disk(schedule: str) -> None:
    def cut(world: World, number: int) -> None:
        world.agents[0].disk.cut_at = number

    operations = story(lambda _world: None, schedule).agents[0].disk.operations
    assert operations > 30
    for number in range(operations):
        world = story(lambda world, n=number: cut(world, n), schedule)  # type: ignore[misc]
        assert world.agents[0].life > 1


@pytest.mark.slow
def test_the_worlds_are_as_bad_as_they_say() -> None:
    """Every kind of fault strikes in the seeds above, or they would prove nothing."""
    worlds = {name: World(seed) for seed, name in enumerate(WORLDS)}
    for world in worlds.values():
        world.run()
    assert all(agent.life == 1 for agent in worlds["kind"].agents)
    assert sum(agent.life for agent in worlds["deadly"].agents) > 8
    assert sum(agent.books.disks_lost for agent in worlds["replaced"].agents) > 2
    assert worlds["crashing"].coordinator.crashes > 1
    assert worlds["amnesiac"].broker.epoch > 0
    assert worlds["harsh"].coordinator.crashes + worlds["harsh"].broker.epoch > 0


def test_updates_come_in_their_offers_and_in_chunks() -> None:
    """Else a change of sizes could leave one of both out of every world, and nothing would say so."""
    chunks: list[int] = []
    for seed in range(4):
        world = World(seed)
        world.run()
        chunks += [
            fields["chunks"] for _, name, fields in world.coordinator.records if name == "update_received"
        ]
        world.coordinator.dispose()
    assert min(chunks) == 0
    assert max(chunks) > 1


def test_the_same_seed_is_the_same_run_in_every_process() -> None:
    program = "import logging; logging.disable(50); from simulation.soak import play; print(play(6).digest)"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(found) == 1
    assert found != {play(5).digest + "\n"}


# --- the simulated broker --------------------------------------------------------------------------------------


class Listener(Peer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def connected(self, session_present: bool) -> None:
        self.heard.append(f"up {session_present}")

    def disconnected(self) -> None:
        self.heard.append("down")

    def arrived(self, packet: Packet) -> None:
        self.heard.append(f"{packet.topic} {packet.payload.decode()}")

    def confirmed(self, mid: int) -> None:
        self.heard.append(f"confirmed {mid}")


def settle(clock: Clock) -> None:
    while clock.step():
        pass


def test_the_broker_keeps_order_retained_messages_and_sessions() -> None:
    clock = Clock()
    broker = Broker(clock, Random(1), Habits())
    alice, bob = Listener(), Listener()
    sender, receiver = broker.connect("alice", alice, None), broker.connect("bob", bob, None)
    receiver.subscribe(["rig/#"])
    settle(clock)
    for number in range(20):
        sender.publish("rig/x", str(number).encode())
    sender.publish("rig/kept", b"r", retain=True)
    sender.publish("other", b"nobody hears")
    settle(clock)
    assert bob.heard == ["up False", *[f"rig/x {n}" for n in range(20)], "rig/kept r"]
    assert alice.heard == ["up False", *[f"confirmed {n}" for n in range(1, 23)]]
    broker.drop(receiver)
    sender.publish("rig/x", b"while away")
    settle(clock)
    bob.heard.clear()
    broker.connect("bob", bob, None).subscribe(["rig/kept"])
    settle(clock)
    assert bob.heard == ["up True", "rig/x while away", "rig/kept r"]


def test_a_will_is_said_late_and_not_if_its_owner_is_back() -> None:
    clock = Clock()
    broker = Broker(clock, Random(1), Habits())
    bob = Listener()
    broker.connect("bob", bob, None).subscribe(["status/#"])
    will = Packet("status/alice", b"gone")
    broker.drop(broker.connect("alice", Listener(), will))
    back = broker.connect("alice", Listener(), will)
    settle(clock)
    assert bob.heard == ["up False"]
    broker.drop(back)
    settle(clock)
    assert bob.heard == ["up False", "status/alice gone"]


def test_a_restarted_broker_knows_nothing() -> None:
    clock = Clock()
    broker = Broker(clock, Random(1), Habits())
    bob = Listener()
    connection = broker.connect("bob", bob, Packet("status/bob", b"gone"))
    connection.subscribe(["rig/#"])
    connection.publish("rig/kept", b"r", retain=True)
    settle(clock)
    broker.restart()
    settle(clock)
    bob.heard.clear()
    broker.connect("bob", bob, None).subscribe(["rig/#"])
    settle(clock)
    assert bob.heard == ["up False"]


def test_filters_are_whole_topics_or_trees() -> None:
    assert matches("a/b/#", "a/b/c/d")
    assert matches("a/b", "a/b")
    assert not matches("a/b/#", "a/bc")
    assert not matches("a/b", "a/b/c")


def probed_of(world: World) -> tuple[list[str], list[str]]:
    """Everybody whose loss was known before a round, and everybody who was silent."""
    records = world.coordinator.records
    known = [fields["agent"] for _, name, fields in records if name == "loss_probed"]
    return known, [
        agent for _, name, fields in records if name == "losses_known" for agent in fields["silent"]
    ]


def test_losses_come_before_rounds_in_every_world_and_silence_holds_nobody_up() -> None:
    """Of seeds that take turns through the worlds; in the kind one nobody is silent."""
    seeds = [seed for seed in range(len(TURNS) * len(WORLDS)) if schedule_of(seed) == "probing"]
    silent = 0
    for seed in seeds:
        world = World(seed)
        world.run()
        check_everything(world)
        known, unheard = probed_of(world)
        assert len(known) >= 6, seed  # of some twelve: in the worst of these worlds every second one is heard
        assert not (world_of(seed) == "kind" and unheard), seed
        silent += len(unheard)
        world.coordinator.dispose()
    assert silent > 0
