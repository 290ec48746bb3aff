"""How long a training step takes here: the project's own step, timed over whole quota periods.

A CPU quota is a duty cycle: a short step runs at full speed or waits for the next period. Only the mean over many
periods says how fast a device trains, so a measurement lasts at least PERIODS_MIN of them, whatever a step takes.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from learning.artifact import TrainingArtifact
from learning.session import StepSession, peak_rss_mb

PERIODS_MIN = 20
PERIOD_S = 0.1  # of the CFS quota, where none is known
STEPS_MIN = 30
BLOCKS = 5  # the measurement is cut into so many parts; their means give the spread
WARM_UP_STEPS = 3
WALL_S_MAX = 300.0
PARAMETER_SCALE = 0.05  # small enough that no activation overflows; a step takes the same time for any values

Positive = Annotated[float, Meta(gt=0)]


class StepTimes(Struct, frozen=True, kw_only=True):
    """Seconds per training step. `low_s` and `high_s` are the smallest and largest mean of BLOCKS parts."""

    mean_s: Positive
    median_s: Positive
    low_s: Positive
    high_s: Positive
    steps: Annotated[int, Meta(ge=1)]
    wall_s: Positive


class Calibration(Struct, frozen=True, kw_only=True):
    """What `edge-agent calibrate` writes on a device and `edgerig calibrate` reads on a host."""

    schema: int = 1
    board: Annotated[str, Meta(max_length=200)]
    machine: Annotated[str, Meta(max_length=64)]
    cores: Annotated[int, Meta(ge=1, le=4096)]
    memory_bytes: Annotated[int, Meta(ge=1)]
    model: Annotated[str, Meta(max_length=200)]
    batch_size: Annotated[int, Meta(ge=1, le=65_536)]
    parameters: Annotated[int, Meta(ge=1)]
    threads: Annotated[int, Meta(ge=1, le=64)]
    step: StepTimes
    peak_rss_mb: float
    onnxruntime: Annotated[str, Meta(max_length=64)]


def time_steps(
    artifact: TrainingArtifact,
    threads: int,
    *,
    seconds: float = PERIODS_MIN * PERIOD_S,
    clock: Callable[[], float] = time.perf_counter,
) -> StepTimes:
    """Forward, backward and SGD with momentum on random data, for at least `seconds` and STEPS_MIN steps.

    The same work as `learning.trainer` does in a step, without a shard.
    """
    step = _training_step(artifact, threads)
    for _ in range(WARM_UP_STEPS):
        step()
    began = last = clock()
    times: list[float] = []
    while (last - began < seconds or len(times) < STEPS_MIN) and last - began < WALL_S_MAX:
        step()
        now = clock()
        times.append(now - last)
        last = now
    return summarized(times)


def summarized(times: Sequence[float]) -> StepTimes:
    """Mean over everything; spread from the means of equal parts, since single steps of a throttled device jump."""
    values = np.asarray(times, np.float64)
    means = [part.mean() for part in np.array_split(values, min(BLOCKS, len(values)))]
    return StepTimes(
        mean_s=float(values.mean()),
        median_s=float(np.median(values)),
        low_s=float(min(means)),
        high_s=float(max(means)),
        steps=len(values),
        wall_s=float(values.sum()),
    )


def _training_step(artifact: TrainingArtifact, threads: int) -> Callable[[], None]:
    from learning.optimizers import Sgd

    rng = np.random.Generator(np.random.PCG64(0))
    params = rng.normal(0, PARAMETER_SCALE, artifact.size).astype(np.float32)
    grad = np.empty_like(params)
    session = StepSession(artifact, params, grad, threads)
    if session.x.dtype.kind in "ui":
        session.x[...] = rng.integers(0, 2, session.x.shape)
    else:
        session.x[...] = rng.random(session.x.shape)
    optimizer = Sgd(artifact.size, momentum=0.9)

    def step() -> None:
        session.run()
        optimizer.step(params, grad, 1e-6)

    return step


def calibrate(artifact: TrainingArtifact, threads: int, seconds: float) -> Calibration:
    """Time the step on this machine and say what machine it is."""
    import onnxruntime

    step = time_steps(artifact, threads, seconds=seconds)
    return Calibration(
        board=board(),
        machine=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        model=artifact.model,
        batch_size=artifact.batch_size,
        parameters=artifact.size,
        threads=threads,
        step=step,
        peak_rss_mb=round(peak_rss_mb(), 1),
        onnxruntime=onnxruntime.__version__,
    )


def board(device_tree: Path = Path("/proc/device-tree/model")) -> str:
    """What the board calls itself; elsewhere the processor's name."""
    try:
        return device_tree.read_bytes().decode("ascii", "replace").strip("\0 \n")[:200]
    except OSError:
        return (_processor() or platform.machine() or "unknown")[:200]


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


class Quota(Struct, frozen=True, kw_only=True):
    """Cores of a host on which its step takes as long as the device's; `low` and `high` from both spreads."""

    cores: float
    low: float
    high: float


def quota_for(device: StepTimes, host: StepTimes) -> Quota:
    """A quota q makes a step of t seconds take t/q on average, so q = t_host / t_device."""
    return Quota(
        cores=host.mean_s / device.mean_s,
        low=host.low_s / device.high_s,
        high=host.high_s / device.low_s,
    )
