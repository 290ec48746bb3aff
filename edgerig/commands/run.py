"""run, up, status, logs, down: the life of a run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from compose import engine
from compose.docker_runtime import DockerRuntime, containers_of, remove_run
from compose.driver import Driver
from compose.errors import EnvironmentProblem, Interrupted
from compose.process_runtime import ProcessRuntime
from compose.runtime import Runtime
from compose.session import (
    DETACHED_NAME,
    Session,
    create,
    find_run,
    hold_of,
    plan_of,
    remove_secrets,
)
from compose.signals import interruptible, of_this_thread, settle
from coordinator.status.server import StatusServer
from edgerig.exits import FAILED, INTERRUPTED, OK
from edgerig.forward import forwarded
from edgerig.options import (
    DEFAULT_RUNS,
    Format,
    FormatOption,
    RunId,
    RunName,
    RunsFolder,
    RuntimeName,
    Seed,
    TopologyFile,
    data_dir,
)
from edgerig.progress import Mode, Progress
from edgerig.status import look
from edgerig.this_host import probed_host
from history.collect import collect
from history.summary import SUMMARY_NAME, Summary
from topology.allotment import TABLE_NAME, read_table
from topology.plan import Plan
from topology.validate import load_topology

app = typer.Typer()

Build = Annotated[bool, typer.Option("--build/--no-build", help="Build images that the code has outdated.")]


def _runtime(session: Session, build: bool) -> Runtime:
    if session.plan.runtime == "docker":
        return DockerRuntime(session.plan, session.root, build=build)
    return ProcessRuntime(
        session.plan, session.root, broker_port=session.broker_port, relay_ports=session.relay_ports
    )


def _create(
    file: Path, runtime: RuntimeName, runs: Path, seed: int | None, run_id: str | None, *, leased: bool
) -> Session:
    loaded = load_topology(file, host=probed_host(runtime.value), runtime=runtime.value)
    return create(
        loaded, runtime=runtime.value, runs=runs, data_dir=data_dir(), seed=seed, run=run_id, leased=leased
    )


def _tell_notes(session: Session) -> None:
    table = read_table(session.root / "model" / TABLE_NAME)
    for note in table.notes if table else ():
        typer.echo(f"data: {note}", err=True)


@app.command()
def run(
    file: TopologyFile,
    runtime: Annotated[RuntimeName, typer.Option(help="docker: containers. process: no Docker, no root.")] = (
        RuntimeName.docker
    ),
    runs: RunsFolder = DEFAULT_RUNS,
    seed: Seed = None,
    build: Build = True,
    run_id: RunId = None,
    format: FormatOption = Format.text,
) -> None:
    """Bring a topology up, train, judge, tear down.

    \b
    edgerig run topology/examples/quickstart.yaml
    edgerig run FILE --runtime process --seed 11
    edgerig run FILE --format json | jq .event

    Ends with the path of the report. Exit code 0: every expectation held.
    """
    with interruptible():
        inbox = of_this_thread()
        session = _create(file, runtime, runs, seed, run_id, leased=True)
        try:
            _tell_notes(session)
            progress = Progress(Mode.json if format is Format.json else Mode.auto, session.plan, session.root)
            summary = _drive(session, progress, build)
        finally:
            inbox.held = True  # a plain store: nothing comes between
            remove_secrets(session.root)
            session.lock.release()
        settle(summary.exit_code)  # it is on disk: a signal while it is printed makes no other verdict of it
        progress.close(summary)
    raise typer.Exit(summary.exit_code)


def _drive(session: Session, progress: Progress, build: bool) -> Summary:
    """Run to the end, whatever the end is; a record is written even for a run that broke."""
    try:
        Driver(_runtime(session, build), session.plan, session.root, progress).run()
    except (Interrupted, EnvironmentProblem) as reason:
        progress.close(_collected(session.root, session.plan, interrupted=isinstance(reason, Interrupted)))
        raise
    finally:
        progress.stop()
    return _collected(session.root, session.plan)


def _collected(root: Path, plan: Plan, *, interrupted: bool = False) -> Summary:
    """Ctrl-C in it costs the record, not the run: its history is on disk."""
    try:
        return collect(root, plan, interrupted=interrupted)
    except (Interrupted, KeyboardInterrupt):
        typer.echo(f"the record of {plan.run} may not be whole: `edgerig report {root}` writes it", err=True)
        raise


@app.command()
def up(
    file: TopologyFile,
    runs: RunsFolder = DEFAULT_RUNS,
    seed: Seed = None,
    build: Build = True,
    run_id: RunId = None,
) -> None:
    """Bring a topology up and leave it running; `edgerig down` ends it.

    \b
    edgerig up topology/examples/quickstart.yaml && edgerig status && edgerig down
    """
    with interruptible():
        inbox = of_this_thread()
        session = _create(file, RuntimeName.docker, runs, seed, run_id, leased=False)
        (session.root / DETACHED_NAME).touch()
        try:
            _tell_notes(session)
            _start(_runtime(session, build))
        except BaseException:
            inbox.held = True
            remove_secrets(session.root)
            (session.root / DETACHED_NAME).unlink()
            raise
        finally:
            session.lock.release()
    typer.echo(
        f"run {session.plan.run} is up; `edgerig status {session.plan.run}` shows it, `edgerig down` ends it"
    )


def _start(runtime: Runtime) -> None:
    """Up, or gone again."""
    inbox = of_this_thread()
    try:
        runtime.start()
        settle(OK)
    except BaseException as error:
        inbox.held = True  # a plain store: nothing comes between
        runtime.stop()
        if isinstance(error, Interrupted):
            error.left = runtime.left()
        raise


@app.command()
def status(
    name: RunName = "latest",
    serve: Annotated[
        int | None,
        typer.Option("--serve", help="Serve it on this port of 127.0.0.1 until Ctrl-C.", min=0, max=65_535),
    ] = None,
    runs: RunsFolder = DEFAULT_RUNS,
    format: FormatOption = Format.text,
) -> None:
    """What a run is doing, and whom it is waiting for.

    \b
    edgerig status
    edgerig status quickstart-1123 --format json
    edgerig status latest --serve 9464      /status, /metrics, /healthz of whatever run is the newest
    """
    if serve is not None:
        _serve_status(name, runs, serve)
        return
    root = find_run(runs, name)
    state = look(root, plan_of(root))
    typer.echo(json.dumps(msgspec.to_builtins(state), indent=1) if format is Format.json else state.text())


def _serve_status(name: str, runs: Path, port: int) -> None:
    """Each request looks for the run anew, so `latest` is the newest one by then."""

    def url_of() -> str:
        try:
            root = find_run(runs, name)
            return look(root, plan_of(root)).url
        except (EnvironmentProblem, OSError, ValueError):
            return ""

    try:
        server = StatusServer(partial(forwarded, url_of=url_of), "127.0.0.1", port)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot listen on port {port}: {error}", hint="another --serve PORT"
        ) from error
    try:
        typer.echo(f"{server.url}/status, {server.url}/metrics, {server.url}/healthz")
        server.wait()
    except KeyboardInterrupt:
        pass  # how it is meant to end
    finally:
        server.stop()


@app.command()
def logs(
    name: RunName = "latest",
    node: Annotated[str, typer.Option("--node", "-n", help="Only this service or device.")] = "",
    lines: Annotated[int, typer.Option("--lines", help="The last lines of each.", min=1, max=20_000)] = 200,
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """What the services of a run printed.

    \b
    edgerig logs latest --node coordinator
    """
    root = find_run(runs, name)
    found = {
        path.stem: path.read_text(errors="replace").splitlines()[-lines:] for path in root.glob("logs/*.log")
    }
    plan = plan_of(root)
    if plan.runtime == "docker" and not found:
        runtime = DockerRuntime(plan, root, build=False)
        found = {state.name: runtime.log_tail(state.name, lines) for state in runtime.nodes()}
    if not found:
        raise EnvironmentProblem(f"{plan.run} has no logs", hint=f"{root / 'logs'} is empty or not there")
    if node and node not in found:
        raise EnvironmentProblem(
            f"no logs of {node!r} in {plan.run}", hint="there are: " + ", ".join(sorted(found))
        )
    for service in [node] if node else sorted(found):
        for line in found[service]:
            typer.echo(f"{service} | {line}")


@app.command()
def down(name: RunName = "latest", runs: RunsFolder = DEFAULT_RUNS) -> None:
    """End a run that is up, remove its containers and credentials, and write its record.

    \b
    edgerig down              the newest run
    edgerig down RUN
    """
    root = find_run(runs, name)
    plan = plan_of(root)
    hold = hold_of(root)
    if hold == "runner":
        raise EnvironmentProblem(f"{plan.run} is driven by `edgerig run`", hint="press Ctrl-C there")
    if hold == "hidden":
        raise EnvironmentProblem(
            f"{plan.run} is another user's: its lock cannot be opened", hint=f"`sudo edgerig down {root}`"
        )
    removed: list[str] = []
    if plan.runtime == "docker":
        client = engine.client()
        if containers_of(client, plan.run):
            DockerRuntime(plan, root, build=False).save_logs(root / "logs")
        removed = remove_run(client, plan.run)
    remove_secrets(root)
    (root / DETACHED_NAME).unlink(missing_ok=True)
    if not removed and (root / SUMMARY_NAME).exists():
        typer.echo(f"{plan.run}: nothing was up")
        return
    summary = _collected(root, plan)
    typer.echo(
        f"{plan.run}: removed {len(removed)} things; verdict {summary.verdict}; {root / 'report.html'}"
    )
    if summary.verdict == "interrupted":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(0 if summary.verdict == "pass" else FAILED)
