"""Putting one agent together from its configuration, and its way through the gate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edge_agent import mqtt, power
from edge_agent.config import read_password
from edge_agent.core import AgentCore
from edge_agent.diary import Diary
from edge_agent.disk import FolderDisk
from edge_agent.errors import AgentError, ConfigurationError
from edge_agent.gate import GateClosed, wait_for_gate
from edge_agent.jobs import Jobs, open_samples, open_tests
from edge_agent.service import AgentService, Client, install_signals, log, status_message
from edge_agent.spool import Spoil, Spool
from edge_agent.traffic import Meter
from edge_agent.work import WorkerThread
from history.writer import HistoryWriter
from topology.plan import AgentConfig

MakeClient = Callable[[Callable[[mqtt.Happening], None]], Client]


class _Honest:
    """The parts of every agent that does what it should."""

    spoil: Spoil | None = None

    def wall(self) -> float:
        return time.time()

    def disk(self, folder: Path) -> FolderDisk:
        return FolderDisk(folder)

    def diary(self, writer: HistoryWriter) -> Diary:
        return Diary(writer)

    def client(self, make: MakeClient) -> MakeClient:
        return make


def _hooked(path: Path) -> _Honest:
    """The same parts with a hook, for an emulated device that a fault tells to do wrong."""
    from edge_agent import misbehaviour as bad

    hook = bad.Hook(path)

    class Hooked(_Honest):
        spoil = staticmethod(bad.spoiler(hook))

        def wall(self) -> float:
            return hook.wall()

        def disk(self, folder: Path) -> FolderDisk:
            return bad.HookedDisk(folder, hook)

        def diary(self, writer: HistoryWriter) -> Diary:
            diary = bad.HookedDiary(writer)
            diary.hook = hook
            return diary

        def client(self, make: MakeClient) -> MakeClient:
            return lambda post: bad.HookedClient(hook, make, post)

    log.warning("this device does wrong when its hook %s says so: it is part of an experiment", path)
    return Hooked()


def build(config: AgentConfig, software: str) -> tuple[AgentService, Diary]:
    """Raises ConfigurationError for what agent.yaml points to, AgentError for a disk that cannot be used."""
    from learning.shard import DatasetError

    password = read_password(config)
    if config.ca_file is not None and not Path(config.ca_file).is_file():
        raise ConfigurationError(f"there is no CA certificate at {config.ca_file} (`ca_file`)")
    try:
        shard = open_samples(Path(config.shard), Path(config.state) / "data")
        test = open_tests(Path(config.shard))
    except DatasetError as error:
        raise ConfigurationError(str(error)) from error
    except OSError as error:
        raise AgentError(f"cannot write the device's data into {config.state}: {error}") from error
    make = _Honest() if not config.hook else _hooked(Path(config.hook))
    try:
        writer = HistoryWriter(Path(config.state) / "history.jsonl", config.agent, wall=make.wall)
        spool = Spool(make.disk(Path(config.state) / "spool"), config.run)
    except OSError as error:
        raise AgentError(f"cannot use the state folder {config.state}: {error}") from error
    for problem in spool.problems:
        log.warning("spool: %s", problem)
    history = make.diary(writer)
    history.append("agent_started", software=software, threads=config.threads)
    core = AgentCore(
        boot=writer.boot,
        samples=len(shard),
        software=software,
        restored=spool.restored(),
        power=power.reader(config),
    )
    jobs = Jobs(
        spool, shard, run=config.run, agent=config.agent, threads=config.threads, spoil=make.spoil, test=test
    )
    meter = Meter()
    service = AgentService(
        config,
        core,
        spool,
        history,
        make_client=make.client(
            lambda post: mqtt.Client(
                config, password, status_message(config, writer.boot, online=False), post, meter
            )
        ),
        make_worker=lambda post: WorkerThread(jobs, post),
        meter=meter,
    )
    install_signals(service)
    return service, history


def pass_gate(config: AgentConfig, service: AgentService, history: Diary) -> None:
    """Return once the link is ready, or at once without a gate. Raises AgentError after `gate_wait_s`."""
    if not config.gate:
        return
    file = Path(config.gate)
    if file.is_dir():
        file /= config.agent
    log.info("waiting at the link gate %s", file)
    began = time.monotonic()

    def stopped() -> bool:
        service.alive()
        return service.told_to_stop

    try:
        token, waited_s = wait_for_gate(file, config.gate_wait_s, stopped=stopped)
    except GateClosed as error:
        if service.told_to_stop:
            return
        raise AgentError(str(error)) from error
    except OSError as error:
        raise AgentError(f"cannot tell this boot's token ({error}); is /proc mounted?") from error
    log.info("the link gate opened after %.1f s", time.monotonic() - began)
    history.append("gate_passed", durable=True, token=token, waited_s=round(waited_s, 3))


def record_end(history: Diary, reason: str) -> None:
    from learning.session import peak_rss_mb

    history.append("agent_stopped", reason=reason[:512], peak_rss_bytes=int(peak_rss_mb() * 1e6))
    history.close()
