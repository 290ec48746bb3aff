"""How much sooner a fleet with stragglers learns when nobody waits: python -m benchmarks.stragglers --json

MNIST on 30 devices, Dirichlet(0.5), 2,000 samples each, one local epoch of the mlp. 9 of them (30 %) are ten times
slower and drop out of a task with probability 0.1; a dropped one is learned of at its last will. The coordinator's own
core, policies and merge run in virtual time (`simulation.fleet`); every update that is merged was trained for real.
What is compared is the virtual time to the target accuracy (first version evaluated there), as a median over seeds:

* `wait_all`: synchronous rounds of everybody, no deadline; who has gone is not waited for;
* `deadline_<s>`: synchronous rounds of everybody with one of four deadlines, whoever made it is merged;
* `buffered`: FedBuff, ten updates make a version, polynomial staleness.

`server_lr` was tuned for every policy alike, on three seeds that are not reported (`--tune`, SERVER_LR below).
`--plot FILE` draws a typical seed's curves (SVG). About eight minutes on one core; `--seeds 1` for a look.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from coordinator import events as e
from coordinator.config import CoordinatorConfig, LinkBudget
from learning.artifact import Flat, TrainingArtifact
from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.evaluator import Evaluator
from learning.models import build_model
from learning.partition import PARTITIONS
from learning.shard import Shard
from learning.trainer import Trainer, TrainingDiverged, TrainingSpec
from simulation.fleet import FleetRun, Pace
from topology.plan import PolicyPlan, StalenessPlan, UplinkPlan
from wire import messages as m

DEVICES, SLOW, SAMPLES, ALPHA = 30, 9, 2_000, 0.5
TASK_S, SLOWER, DROP = 10.0, 10.0, 0.1
WILL_S, AWAY_S = 15.0, 100.0  # one and a half keepalives of 10 s; a reboot and a slow reconnect
TARGET = 0.93
SEEDS, TUNING_SEEDS = 5, (1001, 1002, 1003)
# The devices' own rate is tuned first, for plain FedAvg with a deadline of 15 s on the first of TUNING_SEEDS: 0.1, 0.2,
# 0.3 and 0.5 need 435, 210, 150 and 150 s to TARGET (780, 375, 285 and 210 s to 0.95), 0.8 does not get there.
LOCAL = TrainingSpec(batch_size=50, lr=0.5, momentum=0.0)
VERSIONS_MAX, VIRTUAL_S_MAX = 3_000, 200_000.0  # a policy that is not there by then does not count as there
GRID = (1.0, 1.4, 2.0, 2.8, 0.7, 4.0)

# The best of GRID for each policy by the median of TUNING_SEEDS; `--tune` prints them. The three longer deadlines take
# the rate of 15 s: they close with the same devices in.
SERVER_LR = {
    "wait_all": 1.4, "deadline_15": 1.4, "deadline_30": 1.4, "deadline_60": 1.4, "deadline_120": 1.4, "buffered": 1.0,
}  # fmt: skip


def policy(name: str, server_lr: float) -> PolicyPlan:
    kind, _, seconds = name.partition("_")
    if kind == "deadline":
        return PolicyPlan(cohort=DEVICES, quorum=1 / DEVICES, deadline_s=float(seconds), server_lr=server_lr)
    if kind == "wait":
        return PolicyPlan(cohort=DEVICES, quorum=1 / DEVICES, deadline_s=1e6, server_lr=server_lr)
    return PolicyPlan(
        kind="buffered",
        cohort=DEVICES,
        concurrency=DEVICES,
        buffer=10,
        deadline_s=1_000.0,
        staleness=StalenessPlan(kind="polynomial", exponent=0.5),
        server_lr=server_lr,
    )


class World:
    """Data, model and fleet of one seed, the same for every policy."""

    def __init__(self, seed: int, data: Any) -> None:
        self.seed = seed
        model = build_model("mlp", seed)
        self.artifact: TrainingArtifact = build_training_graph(model, batch_size=LOCAL.batch_size)
        self.initial: Flat = initial_parameters(model, self.artifact)
        split = PARTITIONS["dirichlet"](data.train_y, DEVICES, SAMPLES, seed, alpha=ALPHA)
        names = [f"d-{i:02d}" for i in range(DEVICES)]
        shards = [Shard(data.train_x[chosen], data.train_y[chosen]) for chosen in split.devices]
        self.trainers = {
            name: Trainer(self.artifact, shard) for name, shard in zip(names, shards, strict=True)
        }
        self.evaluator = Evaluator(self.artifact, Shard(data.test_x, data.test_y))
        slow = set(Random(seed).sample(names, SLOW))
        self.fleet = {
            name: Pace(task_s=TASK_S * SLOWER, drop=DROP, will_s=WILL_S, away_s=AWAY_S)
            if name in slow
            else Pace(task_s=TASK_S)
            for name in names
        }

    def train(self, agent: str, parameters: Flat, seed: int) -> tuple[Flat, int]:
        result = self.trainers[agent].train(parameters, LOCAL, seed=seed)
        return result.delta, result.samples

    def evaluate(self, version: int, parameters: Flat) -> e.Evaluated:
        found = self.evaluator.evaluate(parameters)
        return e.Evaluated(
            version=version, accuracy=found.accuracy or 0.0, loss=found.loss, samples=found.samples
        )


class Measured(NamedTuple):
    """`reached_s`: virtual seconds to the target, None if it was not reached."""

    reached_s: float | None
    versions: int
    updates: int
    staleness_mean: float
    curve: list[tuple[float, int, float]]


def measure(
    world: World, name: str, server_lr: float, target: float, until_s: float = VIRTUAL_S_MAX
) -> Measured:
    config = CoordinatorConfig(
        run="stragglers",
        seed=world.seed,
        agents={name: LinkBudget(chunk_bytes=65_536, window_bytes=1 << 20) for name in world.fleet},
        rounds=VERSIONS_MAX,
        samples_max=SAMPLES,
        parameters=world.artifact.size,
        train=m.TrainSpec(local_epochs=LOCAL.local_epochs, batch_size=LOCAL.batch_size, lr=LOCAL.lr),
        uplink=UplinkPlan(),
        policy=policy(name, server_lr),
        stop_at_accuracy=target,
        nudge_s=1e6,  # no message is lost here
        waiting_every_s=1e6,
    )
    run = FleetRun(config, world.fleet, world.initial, world.train, world.evaluate, world.seed)
    with contextlib.suppress(TrainingDiverged):  # such a server_lr does not get there
        run.run(until_s)
    reached = next((at for at, _, accuracy in run.curve if accuracy >= target), None)
    mean = statistics.fmean(run.staleness) if run.staleness else 0.0
    return Measured(reached, run.core.state.version, len(run.staleness), mean, run.curve)


def tune(data: Any, names: list[str], target: float) -> dict[str, dict[str, float | None]]:
    """Median virtual seconds to the target, by policy and server_lr; None where that is well behind the best so far."""
    found: dict[str, dict[str, float | None]] = {name: {} for name in names}
    worlds = [World(seed, data) for seed in TUNING_SEEDS]
    for name in names:
        best = VIRTUAL_S_MAX
        for server_lr in GRID:
            reached = [measure(w, name, server_lr, target, until_s=2 * best).reached_s for w in worlds]
            median = statistics.median(at or VIRTUAL_S_MAX for at in reached)
            found[name][str(server_lr)] = None if median == VIRTUAL_S_MAX else round(median, 1)
            best = min(best, median)
            said = ", ".join("-" if at is None else f"{at:.0f}" for at in reached)
            print(f"{name} server_lr {server_lr}: {said} s", file=sys.stderr, flush=True)
    return found


def compare(data: Any, seeds: int, target: float) -> dict[str, Any]:
    runs: dict[str, list[Measured]] = {name: [] for name in SERVER_LR}
    for seed in range(1, seeds + 1):
        world = World(seed, data)
        for name, server_lr in SERVER_LR.items():
            began = time.monotonic()
            runs[name].append(measure(world, name, server_lr, target))
            last = runs[name][-1]
            print(
                f"seed {seed} {name}: {last.reached_s and round(last.reached_s)} s, {last.versions} versions, "
                f"{last.updates} updates ({time.monotonic() - began:.0f} s here)",
                file=sys.stderr,
                flush=True,
            )
    times = {name: [x.reached_s or float("inf") for x in found] for name, found in runs.items()}
    medians = {name: statistics.median(found) for name, found in times.items()}
    best = min((name for name in medians if name.startswith("deadline")), key=medians.__getitem__)
    return {
        "speedup_vs_wait_all": round(medians["wait_all"] / medians["buffered"], 2),
        "speedup_vs_deadline": round(medians[best] / medians["buffered"], 2),
        "best_deadline": best,
        "target_accuracy": target,
        "seeds": seeds,
        "model": "mlp",
        "server_lr": SERVER_LR,
        "virtual_s": {name: [round(x, 1) for x in found] for name, found in times.items()},
        "median_virtual_s": {name: round(x, 1) for name, x in medians.items()},
        "updates": {name: statistics.median(x.updates for x in found) for name, found in runs.items()},
        "staleness_mean": round(statistics.median(x.staleness_mean for x in runs["buffered"]), 2),
        "curves": {
            name: found[_typical(times[best], times["buffered"])].curve for name, found in runs.items()
        },
    }


def _typical(deadline_s: list[float], buffered_s: list[float]) -> int:
    """Index of the seed in the middle by what buffered gains over the best deadline."""
    order = sorted(range(len(buffered_s)), key=lambda i: deadline_s[i] / buffered_s[i])
    return order[len(order) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of MNIST; EDGERIG_DATA by default")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, without the curves")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--target", type=float, default=TARGET)
    parser.add_argument("--tune", nargs="*", metavar="POLICY", help="try GRID for these policies (all)")
    parser.add_argument("--plot", type=Path, help="write a typical seed's curves as SVG")
    args = parser.parse_args()
    data = load("mnist", args.data)
    if args.tune is not None:
        print(json.dumps(tune(data, args.tune or list(SERVER_LR), args.target)))
        return
    result = compare(data, args.seeds, args.target)
    curves = result.pop("curves")
    if args.plot is not None:
        args.plot.write_text(draw(curves, args.target), encoding="utf-8")
    if args.json:
        print(json.dumps(result))
    else:
        print(json.dumps(result, indent=1))


# --- the plot ---------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 720, 380, 56, 44, 130, 16
COLOURS = ("#8c564b", "#9467bd", "#1f77b4", "#17becf", "#2ca02c", "#d62728")


def draw(curves: dict[str, list[tuple[float, int, float]]], target: float) -> str:
    """Accuracy over virtual minutes, one line a policy."""
    end_s = max(curve[-1][0] for curve in curves.values() if curve)
    low = 0.6

    def place(at_s: float, accuracy: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * at_s / end_s
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (max(accuracy, low) - low) / (1 - low))
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for accuracy in (0.6, 0.7, 0.8, 0.9, 1.0):
        x, y = place(0, accuracy)
        parts.append(
            f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>'
            f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{accuracy:.1f}</text>'
        )
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(share * end_s, low)
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{share * end_s / 60:.0f} min</text>')
    _, y = place(0, target)
    parts.append(
        f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#555" stroke-dasharray="4"/>'
    )
    for index, (name, curve) in enumerate(curves.items()):
        points = " ".join("{},{}".format(*place(at, accuracy)) for at, _, accuracy in curve)
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{TOP + 14 + 18 * index}" fill="{colour}">'
            f"{name.replace('_', ' ')}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
