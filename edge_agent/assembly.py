"""Putting one agent together from its configuration, and its way through the gate."""

from __future__ import annotations

import time
from pathlib import Path

from edge_agent import mqtt
from edge_agent.config import read_password
from edge_agent.core import AgentCore
from edge_agent.diary import Diary
from edge_agent.disk import FolderDisk
from edge_agent.errors import AgentError, ConfigurationError
from edge_agent.gate import GateClosed, wait_for_gate
from edge_agent.jobs import Jobs, open_samples
from edge_agent.service import AgentService, install_signals, log, status_message
from edge_agent.spool import Spool
from edge_agent.work import WorkerThread
from history.writer import HistoryWriter
from topology.plan import AgentConfig


def build(config: AgentConfig, software: str) -> tuple[AgentService, Diary]:
    """Raises ConfigurationError for what agent.yaml points to, AgentError for a disk that cannot be used."""
    from learning.shard import DatasetError

    password = read_password(config)
    if config.ca_file is not None and not Path(config.ca_file).is_file():
        raise ConfigurationError(f"there is no CA certificate at {config.ca_file} (`ca_file`)")
    try:
        shard = open_samples(Path(config.shard))
    except DatasetError as error:
        raise ConfigurationError(str(error)) from error
    try:
        writer = HistoryWriter(Path(config.state) / "history.jsonl", config.agent)
        spool = Spool(FolderDisk(Path(config.state) / "spool"), config.run)
    except OSError as error:
        raise AgentError(f"cannot use the state folder {config.state}: {error}") from error
    for problem in spool.problems:
        log.warning("spool: %s", problem)
    history = Diary(writer)
    history.append("agent_started", software=software, threads=config.threads)
    core = AgentCore(boot=writer.boot, samples=len(shard), software=software, restored=spool.restored())
    jobs = Jobs(spool, shard, run=config.run, agent=config.agent, threads=config.threads)
    service = AgentService(
        config,
        core,
        spool,
        history,
        make_client=lambda post: mqtt.Client(
            config, password, status_message(config, writer.boot, online=False), post
        ),
        make_worker=lambda post: WorkerThread(jobs, post),
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
