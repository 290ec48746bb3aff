"""What the worker does: install a fetched object, train, encode. One job in, one event out, nothing else decided.

onnxruntime and the trainer are imported here, at the first task or in `warm_up` while the agent waits at its gate: they
are a third of the agent's start, and nothing else needs them.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.layout import Layout, layout_of
from edge_agent.ledger import Carried, DiskBroken, SpoolError
from edge_agent.memory import give_back
from edge_agent.own import has_own
from edge_agent.personal import UnknownKind, kind_of, task_of
from edge_agent.spool import Spoil, Spool
from wire import messages as m
from wire.codecs import make_chain, rounding_seed
from wire.codecs import model as versions
from wire.codecs.arrays import Float32
from wire.codecs.errors import CodecError

if TYPE_CHECKING:
    from learning.personal import Kind, LocalTask
    from learning.shard import Shard
    from learning.trainer import TrainResult

log = logging.getLogger("edge_agent")

PROGRESS_S = 1.0  # a step of a small model takes a millisecond; the core passes on one a second anyway


class WorkError(RuntimeError):
    """The job came to nothing; the message says why."""


@dataclass(frozen=True)
class Install:
    """A fetched object, not checked yet."""

    task: str
    reference: m.ObjectRef
    model: m.ModelRef | None
    leads_to: int | None
    payload: bytes
    wall_s: float
    control: m.ControlRef | None = None  # then it is the server's control variate


Job = Install | a.Train | a.Probe | a.Survey | a.Encode


class Stopped(Exception):
    """The task is not wanted any more."""


# Called after every step with (done, total); False stops.
OnStep = Callable[[int, int], bool]


class Jobs:
    """Not safe for two threads at once: training holds what encoding uses up."""

    def __init__(
        self,
        spool: Spool,
        shard: Shard,
        *,
        run: str,
        agent: str,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        spoil: Spoil | None = None,
        test: Shard | None = None,
    ) -> None:
        self._spool, self._shard, self._spoil, self._test = spool, shard, spoil, test
        self._run, self._agent, self._threads = run, agent, threads
        self._clock = clock
        self._result: tuple[a.Train, TrainResult] | None = None

    def discard(self, task: str) -> None:
        """Forget what was trained or encoded for it."""
        if self._result is not None and self._result[0].task == task:
            self._result = None
        self._spool.discard(task)

    def do(self, job: Job, on_step: OnStep) -> e.Event:
        """Raises DiskBroken, nothing else."""
        try:
            match job:
                case Install():
                    return self._install(job)
                case a.Train():
                    return self._train(job, on_step)
                case a.Probe():
                    return self._probe(job)
                case a.Encode():
                    return self._encode(job)
                case a.Survey():
                    return e.Surveyed(task=job.task, figures=self.survey(job, on_step))
        except DiskBroken:
            raise
        except Stopped:
            return e.WorkStopped(task=job.task)
        except MemoryError:
            reason = "not enough memory for this model"
        except (WorkError, SpoolError, CodecError) as error:
            reason = str(error)
        except Exception as error:  # whatever a graph or a shard makes of it, the device lives on
            log.exception("%s of %s failed", type(job).__name__.lower(), job.task)
            reason = f"{type(error).__name__}: {error}"
        if isinstance(job, Install):
            return e.ObjectFailed(task=job.task, name=job.reference.name, reason=reason[:512])
        return e.WorkFailed(task=job.task, reason=reason[:512])

    # --- install ---------------------------------------------------------------------------------------------

    def _install(self, job: Install) -> e.Event:
        if hashlib.sha256(job.payload).hexdigest() != job.reference.sha256:
            raise WorkError("its bytes do not match its sha256")
        began = self._clock()
        sha256 = job.reference.sha256
        if job.control is not None and job.model is not None:
            read_control(job.payload, job.model.parameters, job.control)
            self._spool.hold_control(sha256, job.payload)
        elif job.model is None or job.leads_to is None:
            self._spool.hold_graph(sha256, job.payload)
        else:
            sha256 = self._hold_model(job.model, job.leads_to, job)
        return e.ObjectReady(
            task=job.task,
            name=job.reference.name,
            bytes=len(job.payload),
            wall_s=job.wall_s + self._clock() - began,
            version=job.leads_to,
            sha256=sha256,
            control=job.control is not None,
        )

    def _hold_model(self, model: m.ModelRef, version: int, job: Install) -> str:
        """Returns the sha256 of the version; only of the last one in a chain it is known what it must be."""
        if job.reference.base_version is None:
            patterns = versions.decode_full(
                job.payload, versions.items(model.parameters, model.dtype), model.dtype
            )
        else:
            patterns = versions.apply_delta(self._spool.patterns(), job.payload)
        sha256 = versions.version_sha256(patterns)
        if versions.parameters_of(patterns) != model.parameters or (
            version == model.version and sha256 != model.sha256
        ):
            raise WorkError(f"{job.reference.name} does not lead to version {version}")
        self._spool.hold(version, sha256, model.dtype, patterns)
        return sha256

    # --- train -----------------------------------------------------------------------------------------------

    def _train(self, job: a.Train, on_step: OnStep) -> e.Event:
        self._result = None
        result = self.train(job, on_step)
        self._result = (job, result)
        return e.Trained(
            task=job.task,
            samples=result.samples,
            steps=result.steps,
            loss=result.loss_mean,
            train_s=result.wall_s,
            step_s=result.step_time_s,
            peak_rss_bytes=int(result.peak_rss_mb * 1e6),
        )

    def train(self, job: a.Train, on_step: OnStep) -> TrainResult:
        """On the version and the graph held. Raises Stopped, WorkError. Simulations put their own in its place."""
        from learning import personal

        with self._at_work(job.spec, job.seed, on_step) as (kind, task):
            task.correction = self.correction(job, task.received.size)
            return personal.train(kind, task, self._version(), evaluate=job.spec.evaluate)

    def survey(self, job: a.Survey, on_step: OnStep) -> m.LocalFigures:
        """Of the version held, on the device's own test data. Raises as `train`; simulations have their own."""
        from learning import personal

        with self._at_work(job.spec, job.seed, on_step) as (kind, task):
            return personal.survey(kind, task, self._version())

    @contextmanager
    def _at_work(
        self, spec: m.TrainSpec, seed: int, on_step: OnStep
    ) -> Iterator[tuple[Kind | None, LocalTask]]:
        """What is held, made ready to train on; its errors become ours."""
        from learning.artifact import ArtifactError, TrainingArtifact
        from learning.trainer import Own, Trainer, TrainingCancelled, TrainingDiverged
        from learning.travelling import travelling

        give_back()
        artifact = TrainingArtifact.from_bytes(self._spool.graph())
        # A float16 version is trained from as it is: half the memory of its float32 copy.
        patterns = self._spool.patterns()
        received = (
            patterns.view(np.float16) if patterns.dtype == np.uint16 else versions.from_patterns(patterns)
        )
        size = travelling(artifact).size
        if received.size != size:
            raise WorkError(f"a graph of {size} parameters, a version of {received.size}")
        trainer = Trainer(artifact, self._shard, self._threads)
        keeps = spec.keep or artifact.local or spec.personal is not None
        own = self._spool.own() if keeps else Own()
        try:
            yield kind_of(spec), task_of(spec, trainer, received, seed, own, self._test, on_step)
        except TrainingCancelled as cancelled:
            raise Stopped from cancelled
        except (TrainingDiverged, ArtifactError, UnknownKind) as error:
            raise WorkError(str(error)) from error

    def correction(self, job: a.Train, n: int) -> Float32 | None:
        """SCAFFOLD's c - ci, float32[n]. Raises SpoolError, CodecError."""
        if job.control is None:
            return None
        correction = read_control(self._spool.control(), n, job.control)
        self._spool.take_variate_from(correction)
        return correction

    def _version(self) -> int:
        held = self._spool.model
        assert held is not None, "its patterns were read"
        return held.version

    def _probe(self, job: a.Probe) -> e.Event:
        began = self._clock()
        loss, samples = self.probe(job)
        return e.Probed(task=job.task, loss=loss, samples=samples, wall_s=self._clock() - began)

    def probe(self, job: a.Probe) -> tuple[float, int]:
        """Mean loss and number of samples. Raises WorkError. Simulations put their own in its place."""
        from learning.artifact import ArtifactError, TrainingArtifact
        from learning.local_loss import local_loss

        give_back()
        artifact = TrainingArtifact.from_bytes(self._spool.graph())
        parameters = versions.from_patterns(self._spool.patterns())
        own = self._spool.own().local if artifact.local else None
        try:
            return local_loss(artifact, self._shard, parameters, own, job.samples, job.seed, self._threads)
        except ArtifactError as error:
            raise WorkError(str(error)) from error

    # --- encode ----------------------------------------------------------------------------------------------

    def _encode(self, job: a.Encode) -> e.Event:
        if self._result is None or self._result[0].task != job.task:
            raise WorkError("nothing was trained for it")
        (trained, result), self._result = self._result, None
        layout = self.layout(bypass=job.uplink.bypass)
        change = self._change(trained, result, layout)

        def report(carried: Carried) -> m.Report:
            return m.Report(
                samples=result.samples,
                steps=result.steps,
                loss=float(result.loss_mean),
                train_s=result.wall_s,
                step_s=result.step_time_s,
                fetch_s=job.fetch_s,
                fetch_bytes=job.fetch_bytes,
                peak_rss_bytes=int(result.peak_rss_mb * 1e6),
                residual_norm=carried.residual_norm,
                raw_bytes=result.delta.size * (4 if change is None else 8),
                residual_share=carried.residual_share,
                local=result.local,
            )

        prepared = self._spool.prepare(
            job.task,
            np.ascontiguousarray(result.delta, np.float32),
            job.uplink,
            seed=rounding_seed(self._run, self._agent, job.task),
            version=job.version,
            layout=layout,
            report=report,
            spoil=self._spoil,
            own=result.own if has_own(result.own) else None,
            change=change,
        )
        return e.Encoded(
            task=job.task,
            sha256=prepared.item.sha256,
            bytes=prepared.item.bytes,
            report=prepared.item.report,
        )

    def _change(self, trained: a.Train, result: TrainResult, layout: Layout) -> bytes | None:
        """What the device's control variate is to move by, encoded. Running statistics have no gradients."""
        from learning import scaffold

        if trained.control is None:
            return None
        server = read_control(self._spool.control(), result.delta.size, trained.control)
        change = scaffold.change(server, result.delta, result.steps, trained.spec.lr)
        for part in layout.exact:
            change[part] = 0
        seed = rounding_seed(self._run, self._agent, f"{trained.task}/control")
        return make_chain(trained.control.chain).encode(change, seed=seed)

    def layout(self, *, bypass: bool) -> Layout:
        """Of the graph held. Simulations put their own in its place."""
        from learning.artifact import TrainingArtifact

        return layout_of(TrainingArtifact.from_bytes(self._spool.graph()), bypass=bypass)


def read_control(payload: bytes, n: int, control: m.ControlRef) -> Float32:
    """The server's control variate, float32[n]. Raises CodecError."""
    return versions.from_patterns(versions.decode_full(payload, n, control.dtype))


def warm_up() -> None:
    """Import what the first task needs, so that it does not wait for it."""
    import learning.trainer  # noqa: F401


def open_samples(folder: Path, cache: Path) -> Shard:
    """The device's own data, memory-mapped; `cache` is for data in another format. Raises DatasetError, OSError."""
    from learning.shard import TRAIN_NAMES, open_shard

    if (folder / TRAIN_NAMES[0]).exists():
        return open_shard(folder)
    from learning.datasets.folder import open_own

    return open_own(folder, cache)


def open_tests(folder: Path) -> Shard | None:
    """What the device keeps back to test on itself, memory-mapped; None where there is nothing. Raises DatasetError."""
    from learning.shard import TEST_NAMES, open_shard

    return open_shard(folder, TEST_NAMES) if (folder / TEST_NAMES[0]).exists() else None
