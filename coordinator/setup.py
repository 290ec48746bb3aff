"""From a run's folder to a service that can run: files read and checked, journal opened, parts put together."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from coordinator import merge
from coordinator.chronicle import Chronicle
from coordinator.config import CoordinatorConfig, from_plan, model_chunk_bytes
from coordinator.core import CoordinatorCore
from coordinator.decisions import DecisionLog, RecordedCore, path_of
from coordinator.drift import DriftWorker, Recorded
from coordinator.errors import EnvironmentFault
from coordinator.evaluation import EvaluationWorker
from coordinator.inbound import Inbound
from coordinator.inbox import Inbox
from coordinator.journal import Journal, JournalError, JournalFull, aligned
from coordinator.live import DELTAS_MAX, LiveModels
from coordinator.merges import MergeSpec
from coordinator.merging import merge_spec
from coordinator.missed import missed
from coordinator.mqtt import BrokerAddress, BrokerLink
from coordinator.outbound import Outbound
from coordinator.recovery import Model, named_versions, restore_model, restore_state
from coordinator.refusals import RefusalLog
from coordinator.service import Service
from coordinator.status.board import Board
from coordinator.status.pages import page_of
from coordinator.status.server import StatusServer
from coordinator.status.tally import Tally
from history.writer import HistoryWriter
from learning.artifact import ArtifactError, TrainingArtifact
from learning.evaluator import Evaluator
from learning.shard import DatasetError, open_shard
from learning.travelling import travelling
from topology.allotment import TABLE_NAME, read_table
from topology.plan import Plan, load_plan
from wire import topics
from wire.codecs import CodecError
from wire.codecs.arrays import Float32

NODE = topics.COORDINATOR
PREPARE = "prepare the run's folder again (edgerig run, or the compose file's init service)"


@dataclass(frozen=True, kw_only=True)
class Options:
    root: Path
    broker_host: str | None = None  # None: the plan's
    broker_port: int | None = None
    mqtt_version: Literal[4, 5] = 5
    alive: Path | None = Path("/tmp/alive")
    connect_timeout_s: float | None = None  # None: as long as the plan gives the start of a run
    status_host: str = "127.0.0.1"  # empty: no status over HTTP
    status_port: int = 0  # 0: any that is free; the history says which


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a run's folder holds for us, checked."""

    plan: Plan
    plan_sha256: str
    artifact: TrainingArtifact
    artifact_bytes: bytes
    initial: Float32
    password: str
    ca_file: Path | None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}", hint=PREPARE) from error


def read_files(root: Path) -> Files:
    """Raises EnvironmentFault with the path of what is missing or broken."""
    private = root / "private" / NODE
    plan_bytes = _read(root / "plan.json")
    try:
        plan = load_plan(root / "plan.json")
        artifact_bytes = _read(root / "model" / "artifact.bin")
        artifact = TrainingArtifact.from_bytes(artifact_bytes)
    except (msgspec.MsgspecError, ArtifactError, ValueError) as error:
        raise EnvironmentFault(f"{root}: plan or artifact is broken: {error}", hint=PREPARE) from error
    ca_file = private / "ca.crt"
    return Files(
        plan=plan,
        plan_sha256=hashlib.sha256(plan_bytes).hexdigest(),
        artifact=artifact,
        artifact_bytes=artifact_bytes,
        initial=travelling(artifact).cut(_initial(root / "model" / "initial.npy", artifact.size)),
        password=_read(private / "password").decode().strip(),
        ca_file=ca_file if ca_file.exists() else None,
    )


def _initial(path: Path, parameters: int) -> Float32:
    try:
        vector: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}", hint=PREPARE) from error
    if vector.dtype != np.float32 or vector.shape != (parameters,) or not np.isfinite(vector).all():
        raise EnvironmentFault(
            f"{path} holds {vector.dtype} {vector.shape}, the artifact has {parameters} finite float32 parameters",
            hint=PREPARE,
        )
    return vector


def open_journal(root: Path, files: Files, merging: MergeSpec) -> tuple[Journal, Model, bool]:
    """The journal, the model as of its last version, and whether there was a run in it already."""
    path = root / "nodes" / NODE / "journal.sqlite"
    rounding = files.plan.compression.downlink.rounding
    try:
        journal = Journal.open(path, run=files.plan.run, plan_sha256=files.plan_sha256)
        model = restore_model(journal, rounding, DELTAS_MAX + 1, merging, also=named_versions(journal))
        resumed = model is not None
        if model is None:
            patterns = rounding.patterns(0, files.initial, None)
            with journal.transaction():
                journal.begin_model(files.initial, patterns)
            model = Model(files.initial, ((0, patterns),))
        journal.next_epoch()
    except JournalError as error:
        raise EnvironmentFault(str(error)) from error
    except JournalFull as error:
        raise EnvironmentFault(f"the journal cannot be written: {error}", hint="free some space") from error
    except CodecError as error:
        raise EnvironmentFault(f"the initial model cannot be a version: {error}", hint=PREPARE) from error
    return journal, model, resumed


@dataclass(frozen=True)
class Ready:
    service: Service
    resumed: bool
    status: StatusServer | None


def make_service(options: Options) -> Ready:
    """Raises EnvironmentFault."""
    files = read_files(options.root)
    table = read_table(options.root / "model" / TABLE_NAME)
    moving = travelling(files.artifact)
    config = from_plan(files.plan, moving.size, table)
    try:
        evaluator = Evaluator(files.artifact, open_shard(options.root / "shards" / "test"))
    except (DatasetError, ArtifactError) as error:
        raise EnvironmentFault(str(error), hint=PREPARE) from error
    merging = merge_spec(files.plan, moving.state, moving.variances)
    journal, model, resumed = open_journal(options.root, files, merging)
    history = options.root / "nodes" / NODE / "history.jsonl"
    try:
        lacking = list(missed(journal, history)) if resumed else []
        writer = HistoryWriter(history, NODE)
    except OSError as error:
        raise EnvironmentFault(f"the history cannot be written: {error}") from error
    inbox = Inbox()
    try:
        link = BrokerLink(_address(options, files), config.run, writer.boot, inbox)
    except OSError as error:  # ssl's errors are among them
        raise EnvironmentFault(f"{files.ca_file} is no certificate: {error}", hint=PREPARE) from error
    board, tally = Board(), Tally()
    chronicle = Chronicle(writer, tally.note)
    for event, fields in lacking:
        chronicle.append(event, fields)
    core = _core(options, config, journal, model)
    service = _assemble(
        files,
        config,
        core,
        journal,
        model,
        merging,
        chronicle,
        inbox,
        link,
        evaluator,
        options.alive,
        lambda trouble: board.look(lambda: (core.picture(time.monotonic()), tally.copy()), trouble),
    )
    return Ready(service, resumed, _serve_status(options, board, chronicle))


def _serve_status(options: Options, board: Board, chronicle: Chronicle) -> StatusServer | None:
    """Who cannot be looked at can still run."""
    if not options.status_host:
        return None
    try:
        server = StatusServer(partial(page_of, board=board), options.status_host, options.status_port)
    except OSError as error:
        wanted = f"status at {options.status_host}:{options.status_port}"
        chronicle.lapse("status", wanted, "none", str(error))
        return None
    chronicle.append("status_served", {"url": server.url})
    print(f"coordinator: status at {server.url}", flush=True)
    return server


def _address(options: Options, files: Files) -> BrokerAddress:
    # The broker stands at its gate until hostd has measured every link: that takes longer with a larger fleet.
    patience_s = options.connect_timeout_s or files.plan.start_timeout_s
    return BrokerAddress(
        host=options.broker_host or files.plan.network.broker_host,
        port=options.broker_port or files.plan.network.broker_port,
        username=NODE,
        password=files.password,
        ca_file=files.ca_file,
        mqtt_version=options.mqtt_version,
        connect_timeout_s=patience_s,
    )


def _core(options: Options, config: CoordinatorConfig, journal: Journal, model: Model) -> CoordinatorCore:
    state = restore_state(journal, config, frozenset(version for version, _ in model.recent))
    return RecordedCore(config, state, log=DecisionLog(path_of(options.root, state.epoch)))


def _assemble(
    files: Files,
    config: CoordinatorConfig,
    core: CoordinatorCore,
    journal: Journal,
    model: Model,
    merging: MergeSpec,
    chronicle: Chronicle,
    inbox: Inbox,
    link: BrokerLink,
    evaluator: Evaluator,
    alive: Path | None,
    sign: Callable[[str], object],
) -> Service:
    parameters, rounding = config.parameters, files.plan.compression.downlink.rounding
    # Refusals and a full outbox are told to the service, which is made last: hence the two lambdas.
    made: list[Service] = []
    inbound = Inbound(
        config.run,
        bytes_max=max(config.open_grant_bytes_max, config.update_bytes_max),
        objects_max=len(config.agents) + 1,
        refuse=lambda agent, topic, reason, size: made[0].refuse(agent, topic, reason, size),
        # Unaligned values are checked three times slower than they are copied and checked.
        defect_of=lambda payload: merge.defect_of(aligned(payload), parameters, merging.rule.kind),
    )
    live = LiveModels(files.artifact_bytes, rounding.dtype, model_chunk_bytes(files.plan))
    outbound = Outbound(config, link, inbound, live, full=lambda topic: made[0].outbox_full(topic))
    made.append(
        Service(
            core=core,
            journal=journal,
            model=model,
            merging=merging,
            rounding=rounding,
            inbox=inbox,
            link=link,
            inbound=inbound,
            outbound=outbound,
            evaluation=EvaluationWorker(evaluator, inbox.put),
            chronicle=chronicle,
            refusals=RefusalLog(),
            alive=alive,
            sign=sign,
            drift=DriftWorker(Recorded(journal.path, parameters, merging))
            if files.plan.evaluation.drift
            else None,
        )
    )
    return made[0]
