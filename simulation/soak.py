"""Many simulated runs, or one again: `python -m simulation.soak --seeds 2000`, `python -m simulation.soak --seed 39`.

Exit code 0 if every run held its invariants, 1 otherwise; the first line of a failure is the command that repeats it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from simulation.checks import check_everything
from simulation.habits import schedule_of, world_of
from simulation.mutants import MUTANTS, mutated
from simulation.world import World

FAILURES_MAX = 5  # more of them tell nothing more


class Played(NamedTuple):
    """One run. `digest` is the same for the same seed, on every machine; `problem` is empty if all held."""

    seed: int
    digest: str
    problem: str
    virtual_s: float


def play(seed: int, mutant: str = "") -> Played:
    world = mutated(mutant, seed) if mutant else World(seed)
    problem = ""
    try:
        world.run()
        check_everything(world)
    except Exception:  # noqa: BLE001 - whatever it is, it is this seed's finding
        problem = traceback.format_exc()
    finally:
        world.coordinator.dispose()
    digest = hashlib.sha256()
    for record in world.coordinator.records:
        digest.update(repr(record).encode())
    return Played(seed, digest.hexdigest(), problem, world.clock.now)


def replay_command(seed: int, mutant: str = "") -> str:
    return f"python -m simulation.soak --seed {seed}" + (f" --mutant {mutant!r}" if mutant else "")


def first_caught(mutant: str, seeds: int) -> int | None:
    """How many seeds this mutant needs; None if it survives them all."""
    return next((seed + 1 for seed in range(seeds) if play(seed, mutant).problem), None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many runs")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one run, told step by step")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--mutant", choices=MUTANTS, default="", help="with this defect put in")
    options = parser.parse_args(arguments)
    _quiet()
    if options.seed is not None:
        return _tell(options.seed, options.mutant)
    return _soak(options.start, options.seeds, options.mutant, options.jobs)


def play_many(seeds: range, mutant: str = "", jobs: int = 1) -> Iterator[Played]:
    """In the order of the seeds, `jobs` at a time."""
    if jobs <= 1:
        yield from (play(seed, mutant) for seed in seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_quiet) as pool:
        yield from pool.imap(partial(play, mutant=mutant), seeds, chunksize=20)


def _quiet() -> None:
    logging.disable(logging.CRITICAL)  # simulated devices complain about simulated disks


def _soak(start: int, seeds: int, mutant: str, jobs: int) -> int:
    began, virtual_s, failures, seed = time.monotonic(), 0.0, 0, start - 1
    for played in play_many(range(start, start + seeds), mutant, jobs):
        seed = played.seed
        virtual_s += played.virtual_s
        if played.problem:
            failures += 1
            what = f"{world_of(seed)}, {schedule_of(seed)}: {played.problem.splitlines()[-1]}"
            print(f"{replay_command(seed, mutant)}   # {what}", flush=True)
            if failures >= FAILURES_MAX:
                break
    wall_s = time.monotonic() - began
    print(
        f"{seed - start + 1} runs, {failures} failed; {virtual_s / 3600:.1f} virtual hours in {wall_s:.0f} s"
    )
    return 1 if failures else 0


def _tell(seed: int, mutant: str) -> int:
    world = mutated(mutant, seed) if mutant else World(seed)
    problem = ""
    try:
        world.run()
        check_everything(world)
    except Exception:  # noqa: BLE001 - told below
        problem = traceback.format_exc()
    for moment, event, fields in world.coordinator.records:
        print(f"{moment:9.3f}  {event:20} {' '.join(f'{k}={v}' for k, v in fields.items())}"[:200])
    for agent in world.agents:
        print(
            f"\n{agent.name}: {agent.life} lives, {agent.books.disks_lost} disks lost; {agent.books.outcomes}"
        )
        print("\n".join(f"    {line}" for line in agent.core.state.story))
    print(f"\nworld {world_of(seed)}, {schedule_of(seed)}, seed {seed}: {problem or 'everything held'}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
