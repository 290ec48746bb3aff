"""One run from a topology to its folder: name, plan, credentials, shards, compose file; and who holds it."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import Struct

from compose import congestion, engine
from compose.errors import EnvironmentProblem
from compose.generate import compose_file
from compose.prepare import draft_of, prepare
from compose.process_faults import SUPPORTED, unsupported
from compose.process_runtime import RELAY_FILE, choose_ports, write_relays
from compose.services import LOCK_NAME
from history.collect import REPORT_NAME
from history.store import STORE_NAME
from history.summary import SUMMARY_NAME
from topology.compile import compile_topology
from topology.errors import TopologyError, TopologyErrors
from topology.host import this_host
from topology.plan import Plan, Runtime, load_plan
from topology.schema import Topology
from topology.sources import check_names, files_of
from topology.validate import Loaded

REPOSITORY = Path(__file__).resolve().parent.parent
# Shards 10 MB, journal and logs some tens of MB; below this a run dies half-way.
DISK_FREE_MIN_BYTES = 300 << 20
NAME_BYTES_MAX = 255  # of a file or folder (limits.h)
DETACHED_NAME = "detached"
SWEEP_HINT = "`edgerig sweep` removes what it left"
TOPOLOGY_NAME, COMPOSE_NAME = "topology.yaml", "compose.yaml"
# A run's own files, which no file that a topology names may replace.
OWN_NAMES = (
    "plan.json", TOPOLOGY_NAME, COMPOSE_NAME, RELAY_FILE, STORE_NAME, SUMMARY_NAME, REPORT_NAME, LOCK_NAME,
    DETACHED_NAME,
)  # fmt: skip


class Session(Struct, frozen=True):
    """A prepared run: its plan, its folder, and the hold on it. The last two only in the process runtime."""

    plan: Plan
    root: Path
    lock: RunnerLock
    broker_port: int = 0
    relay_ports: dict[str, int] = {}


def new_run_id(name: str) -> str:
    """`<name>-<UTC time>-<random>`: sorts by time, and two runs in one second differ."""
    return f"{name[:30]}-{time.strftime('%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def create(
    loaded: Loaded,
    *,
    runtime: Runtime,
    runs: Path,
    data_dir: Path | None,
    seed: int | None = None,
    run: str | None = None,
    leased: bool = False,
) -> Session:
    """Compile and prepare a new run below `runs`. Raises TopologyErrors, DatasetError, EnvironmentProblem.

    `leased`: what runs in containers ends with the process that holds the session (docker runtime).
    """
    run = run or new_run_id(loaded.topology.name)
    root = _new_folder(runs, run)
    # Held from here on: a sweep meanwhile must not take the credentials of a run that is still being prepared.
    lock = RunnerLock(root)
    try:
        make = partial(_docker_session, leased=leased) if runtime == "docker" else _process_session
        session = make(loaded, root, lock, run, data_dir, seed)
        (root / TOPOLOGY_NAME).write_bytes(loaded.content)
        keep_sources(session.plan, root)
    except BaseException as error:
        # Nothing ran, so there is nothing to keep: what cannot be prepared must not leave half a run behind.
        shutil.rmtree(root, ignore_errors=True)
        lock.release()
        if isinstance(error, OSError):
            raise _disk_problem(root, error) from None
        raise
    _point_latest(runs, root)
    return session


def keep_sources(plan: Plan, root: Path) -> None:
    """The model file and the traces beside the topology's copy, so that the run can be repeated from its folder.
    Data stay where they are: they may be large, and they may be nobody else's business. Raises TopologyErrors.
    """
    kept = [name for name in files_of(plan) if name != plan.data.dataset]
    check_names([*kept, *OWN_NAMES])
    for name in kept:
        shutil.copyfile(name, root / Path(name).name)


def seeded(loaded: Loaded, seed: int | None) -> Topology:
    """The topology, with another seed if one is given."""
    return loaded.topology if seed is None else loaded.topology.model_copy(update={"seed": seed})


def _docker_session(
    loaded: Loaded,
    root: Path,
    lock: RunnerLock,
    run: str,
    data_dir: Path | None,
    seed: int | None,
    *,
    leased: bool,
) -> Session:
    topology = seeded(loaded, seed)
    subnet = engine.free_subnet(engine.client(), len(topology.device_names))
    uid = None if os.geteuid() == 0 else os.getuid()
    plan = compile_topology(topology, run, host=this_host(), subnet=subnet, uid=uid, sha256=loaded.sha256)
    congestion.allow(plan.network.congestion)
    prepare(plan, root, data_dir=data_dir)
    text = compose_file(plan, mode="bind", root=root, repo=REPOSITORY, leased=leased)
    (root / COMPOSE_NAME).write_text(text)
    return Session(plan, root, lock)


def _process_session(
    loaded: Loaded, root: Path, lock: RunnerLock, run: str, data_dir: Path | None, seed: int | None
) -> Session:
    topology = seeded(loaded, seed)
    plan = compile_topology(
        topology, run, runtime="process", host=this_host(), uid=os.geteuid(), sha256=loaded.sha256
    )
    _refuse_faults(unsupported(plan))
    port, relays = choose_ports(plan)
    write_relays(plan, root, port, relays)
    prepare(plan, root, data_dir=data_dir, broker_port=port, agent_ports=relays)
    return Session(plan, root, lock, port, relays)


def _refuse_faults(faults: list[tuple[int, str, str]]) -> None:
    hint = f"without Docker there are {', '.join(SUPPORTED)}; use the docker runtime for the rest"
    errors = [TopologyError(f"faults[{number}].{key}", key, reason, hint) for number, key, reason in faults]
    if errors:
        raise TopologyErrors(errors)


def _new_folder(runs: Path, run: str) -> Path:
    root = runs / run
    try:
        root.mkdir(parents=True)
    except FileExistsError:
        hint = f"its start was killed: {SWEEP_HINT}" if is_half_made(root) else "choose another --run-id"
        raise EnvironmentProblem(f"there is a run {run} already in {runs}", hint=hint) from None
    except OSError as error:
        raise EnvironmentProblem(f"cannot make {root}: {error.strerror}", hint="use --runs FOLDER") from None
    free = shutil.disk_usage(root).free
    if free < DISK_FREE_MIN_BYTES:
        root.rmdir()
        raise EnvironmentProblem(
            f"the disk is nearly full: {free >> 20} MB free at {runs}",
            awaited=f"at least {DISK_FREE_MIN_BYTES >> 20} MB",
            hint="remove old runs, or use --runs FOLDER on another disk",
        )
    return root.resolve()


def _disk_problem(root: Path, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"could not prepare the run: {error.strerror or error} ({error.filename or root})",
        hint="check free space and permissions of the runs folder",
    )


def _point_latest(runs: Path, root: Path) -> None:
    """`runs/latest`, replaced in one step so that a reader never finds it missing."""
    temporary = runs / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(root.name)
    temporary.replace(runs / "latest")


def remove_secrets(root: Path) -> None:
    """Credentials live as long as the run's containers; those of a run that was never prepared whole are gone, too."""
    for folder in (root / "private", draft_of(root / "private")):
        shutil.rmtree(folder, ignore_errors=True)


class RunnerLock:
    """Held by the runner of a run for its whole life; the kernel drops it when the runner dies, whatever kills it."""

    def __init__(self, root: Path) -> None:
        self._descriptor = os.open(root / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise EnvironmentProblem(f"another process drives the run in {root}") from None

    def release(self) -> None:
        os.close(self._descriptor)


Hold = Literal["runner", "detached", "nobody", "hidden"]


def hold_of(root: Path) -> Hold:
    """Who keeps this run alive: its living runner, `edgerig up` (on purpose), nobody; or its lock is hidden from us."""
    try:
        if (root / DETACHED_NAME).exists():
            return "detached"
        descriptor = os.open(root / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return "hidden"
    except OSError:
        return "nobody"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return "runner"
    finally:
        os.close(descriptor)
    return "nobody"


def is_driven(root: Path) -> bool:
    """Whether a run must be left alone. Another user's must: we cannot know, and it is not ours to remove."""
    return hold_of(root) != "nobody"


def is_half_made(root: Path) -> bool:
    """Whether this is what a runner left that was killed before its run was prepared: it can only be removed."""
    names = {path.name for path in root.iterdir()} if root.is_dir() and not root.is_symlink() else set()
    return LOCK_NAME in names and "plan.json" not in names and not is_driven(root)


def find_run(runs: Path, name: str) -> Path:
    """The folder of a run by id, by unique prefix, by path, or `latest`."""
    direct = Path(name)
    if any(len(os.fsencode(part)) > NAME_BYTES_MAX for part in direct.parts):
        raise EnvironmentProblem(
            f"no run has a name as long as {name[:40]}...", hint="`edgerig status --help`"
        )
    if (direct / "plan.json").exists():
        return direct.resolve()
    folder = runs / name
    if (folder / "plan.json").exists():
        return folder.resolve()
    matches = sorted(runs.glob(f"{name}*/plan.json")) if name and "/" not in name else []
    matches = [match for match in matches if not match.parent.is_symlink()]
    if len(matches) == 1:
        return matches[0].parent.resolve()
    known = ", ".join(
        sorted(p.parent.name for p in runs.glob("*/plan.json") if not p.parent.is_symlink())[-5:]
    )
    if name and "/" not in name and is_half_made(folder):
        raise EnvironmentProblem(f"the start of {name} was killed before it was prepared", hint=SWEEP_HINT)
    what = f"{len(matches)} runs begin with {name!r}" if matches else f"there is no run {name!r} in {runs}"
    raise EnvironmentProblem(what, hint=f"the newest: {known}" if known else "`edgerig run FILE` makes one")


def plan_of(root: Path) -> Plan:
    """The plan of a run. Raises EnvironmentProblem if it is damaged: nothing can be said of a run without it."""
    try:
        return load_plan(root / "plan.json")
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise EnvironmentProblem(
            f"{root / 'plan.json'} cannot be read: {reason}",
            hint="restore it from a copy, or remove the run's folder; `edgerig sweep` removes containers without it",
        ) from None
