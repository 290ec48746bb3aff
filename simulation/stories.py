"""Stories that must go as they go: one run each, told by the coordinator, the same on every machine.

`python -m simulation.stories --write FOLDER` writes their transcripts, `--tell NAME` prints one. Nothing in them is
left to chance (`Steady`), so a transcript changes only when somebody changes what happens; it holds no times, sizes and
digests, which belong to transport and codecs. They are also where the coordinator is made to die at every one of its
actions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from simulation.habits import Habits
from simulation.world import World

TRAIN_S = (
    3.0,
    4.0,
    5.0,
    6.0,
)  # of the four devices, one after the other: no two things happen at the same moment
ALWAYS = 1e6


class Steady(Random):
    """Draws nothing by chance: the middle of every range, and no accident. Choices stay seeded."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2

    def random(self) -> float:
        return 1.0 - 2**-53


class Story(Struct, frozen=True, kw_only=True):
    """`prepare` puts in what happens beside the ordinary; `train_s` of the devices in their order."""

    about: str
    schedule: str = "synchronous"
    seed: int = 0
    versions: int = 3
    train_s: tuple[float, ...] = TRAIN_S
    inline: bool = False  # updates may come in their offers
    prepare: Callable[[World], object] = lambda _world: None


def _kill_at(seconds: float, device: int, *, disk: bool = False) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        agent = world.agents[device]

        def strike() -> None:
            if disk:
                agent.habits = msgspec.structs.replace(agent.habits, disk_loss=2.0)
            agent.kill()
            agent.habits = msgspec.structs.replace(agent.habits, disk_loss=0.0)

        world.clock.at(seconds, strike)

    return prepare


def _on(event: str, act: Callable[[World, dict[str, Any]], None]) -> Callable[[World], None]:
    """Once, when the coordinator first records this event."""

    def prepare(world: World) -> None:
        done: list[str] = []

        def seen(name: str, fields: dict[str, Any]) -> None:
            if name == event and not done:
                done.append(name)
                world.clock.later(0.01, partial(act, world, fields))

        world.coordinator.on_record = seen

    return prepare


def _agent(world: World, fields: dict[str, Any]) -> Any:
    return next(agent for agent in world.agents if agent.name == fields["agent"])


STORIES: dict[str, Story] = {
    "rounds": Story(about="Five synchronous rounds of two, and nothing goes wrong."),
    "inline": Story(
        about="First updates ask for a grant, and those after a restart of the broker; others come in their offers.",
        inline=True,
        prepare=_on("round_closed", lambda world, _fields: world.broker.restart()),
    ),
    "surplus": Story(
        about="Four asked, three wanted: the fourth is cancelled while it sends.",
        seed=1,
        train_s=(3.0, 3.0, 9.0, 9.0),
    ),
    "killed-training": Story(
        about="A device dies while it trains and comes back within the round.", prepare=_kill_at(5.0, 1)
    ),
    "killed-after-ack": Story(
        about="A device dies with its ack on the way; its new disk knows nothing.",
        prepare=_on("update_acked", lambda world, fields: _kill_now(_agent(world, fields))),
    ),
    "broker-forgets": Story(
        about="The broker restarts while an update is on its way and remembers nothing.",
        prepare=_on("update_granted", lambda world, _fields: world.broker.restart()),
    ),
    "carried-over": Story(
        about="A slow device misses its deadline; its update is in the next version, damped.",
        schedule="carrying",
        train_s=(3.0, 4.0, 16.0, 5.0),
    ),
    "buffered": Story(
        about="Three updates make a version, whoever they are from; the slow one's is older.",
        schedule="buffered",
        train_s=(2.0, 3.0, 9.0, 3.5),
    ),
    "too-stale": Story(
        about="An update more versions old than max_staleness is discarded; its content goes back.",
        schedule="buffered",
        versions=7,
        train_s=(1.0, 1.2, 15.75, 1.4),
    ),
    "asynchronous": Story(
        about="Every update makes a version, mixed in by its age.", schedule="asynchronous", versions=8
    ),
    "scaffold": Story(
        about="Control variates: who dies in the first round and is cancelled in the third moves nothing then.",
        schedule="scaffold",
        prepare=_kill_at(5.0, 1),
    ),
    "tiers": Story(
        about="The fast and the slow have rounds of their own.",
        schedule="tiered",
        train_s=(2.0, 2.5, 11.0, 12.0),
    ),
}


def _kill_now(agent: Any) -> None:
    agent.habits = msgspec.structs.replace(agent.habits, disk_loss=2.0)
    agent.kill()
    agent.habits = msgspec.structs.replace(agent.habits, disk_loss=0.0)


def world_of_story(name: str) -> World:
    story = STORIES[name]
    world = World(
        story.seed,
        Habits(calm_at_s=ALWAYS),
        schedule=story.schedule,
        rng=Steady(story.seed),
        planned=False,
        versions=story.versions,
        inline=story.inline,
    )
    for agent, train_s in zip(world.agents, story.train_s, strict=True):
        agent.habits = msgspec.structs.replace(agent.habits, train_s=(train_s, train_s))
    story.prepare(world)
    return world


QUIET = {
    "broker_sample",
    "hello",
    "version_published",
    "update_granted",
    "update_received",
    "update_journalled",
    "waiting",
}
KEPT = (
    "task",
    "agent",
    "round",
    "version",
    "phase",
    "state",
    "outcome",
    "reason",
    "merged",
    "accuracy",
    "what",
)


def told(world: World) -> str:
    """What the coordinator recorded, in its order, without times, sizes and digests: those belong to the transport."""
    lines = []
    for _, event, fields in world.coordinator.records:
        in_its_offer = event == "update_received" and fields["chunks"] == 0
        if event in QUIET and not in_its_offer:
            continue
        said = [f"{key}={fields[key]}" for key in KEPT if key in fields]
        if event == "version_committed":
            said += [f"{u['agent']}:τ={u['staleness']},s={u['factor']:.4f}" for u in fields["updates"]]
        lines.append(f"{event:18} {' '.join(said)}".rstrip())
    return "\n".join(lines) + "\n"


def transcript(name: str) -> str:
    world = world_of_story(name)
    try:
        world.run()
        return f"{STORIES[name].about}\n\n{told(world)}"
    finally:
        world.coordinator.dispose()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="stories", description=__doc__)
    parser.add_argument("--write", type=Path, help="write every transcript into this folder")
    parser.add_argument("--tell", choices=STORIES)
    options = parser.parse_args(arguments)
    if options.tell:
        print(transcript(options.tell), end="")
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for name in STORIES:
            (options.write / f"{name}.txt").write_text(transcript(name), encoding="utf-8")


if __name__ == "__main__":
    main()
