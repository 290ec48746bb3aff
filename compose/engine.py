"""Docker Engine and compose v2 as this host has them: found, asked, and blamed in plain words."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests.exceptions

from compose.errors import EnvironmentProblem
from compose.signals import deferred

BUILD_SETTINGS = Path(__file__).resolve().parent.parent / ".cache" / "build.env"
LABEL_RUN = "io.edgerig.run"
LABEL_NODE = "io.edgerig.node"
LABEL_ROLE = "io.edgerig.role"
LABEL_ROOT = "io.edgerig.root"

VERSION_WAIT_S = 60  # it asks no daemon; a cold disk takes a few seconds
ENGINE_TIMEOUT_S = 30  # one API call; the slowest seen is removing a container under load, 4 s
COMPOSE_END_WAIT_S = 10  # told to end, compose cancels what it has asked of the engine: a second or two
COMPOSE_TIMEOUT_S = 900  # a first build installs onnxruntime over a slow line
# A corner of 10/8 that neither Docker nor common VPNs use.
SUBNET_POOL = ipaddress.ip_network("10.213.0.0/16")

SETUP_HINT = "run `make setup`, or use `--runtime process`, which needs no Docker"


def client() -> Any:
    """A client of the local engine, or an EnvironmentProblem that says what is wrong with it."""
    try:
        engine = docker.from_env(timeout=ENGINE_TIMEOUT_S)
        engine.ping()
        return engine
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise _engine_problem(error) from None


@contextmanager
def blamed() -> Iterator[None]:
    """Within, an engine that stops answering in the middle of a run is an EnvironmentProblem, too."""
    try:
        yield
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise _engine_problem(error) from None


def _engine_problem(error: Exception) -> EnvironmentProblem:
    text = str(error)
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if "Permission denied" in text:
        hint = "add yourself to the group `docker` and log in again, or run as root"
        return EnvironmentProblem(f"no permission to use the Docker Engine at {host}", hint=hint)
    if shutil.which("docker") is None and shutil.which("dockerd") is None:
        return EnvironmentProblem("Docker is not installed", awaited=f"an engine at {host}", hint=SETUP_HINT)
    return EnvironmentProblem(
        "the Docker Engine does not answer", awaited=f"an engine at {host}", log=[text[:300]], hint=SETUP_HINT
    )


def compose_version() -> str:
    """Of compose v2, a plugin of the docker command; an EnvironmentProblem where there is none."""
    if shutil.which("docker") is None:
        raise EnvironmentProblem("the command `docker` is not on the PATH", hint=SETUP_HINT)
    command = ["docker", "compose", "version", "--short"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_WAIT_S)
    except subprocess.TimeoutExpired:
        awaited = f"{VERSION_WAIT_S} s"
        raise EnvironmentProblem("`docker compose version` did not end", awaited=awaited) from None
    if done.returncode != 0 or not done.stdout.strip().lstrip("v").startswith(("2", "3", "4", "5")):
        found = (done.stdout or done.stderr).strip().splitlines()[-1:]
        raise EnvironmentProblem("Docker Compose v2 is not installed", log=found, hint=SETUP_HINT)
    return done.stdout.strip()


def compose(project: str, file: Path, arguments: Sequence[str]) -> str:
    """Run `docker compose`; its standard output. A failure carries the last lines of what it said."""
    command = ["docker", "compose", "--progress", "plain", "-p", project, "-f", str(file), *arguments]
    environment = {**_build_settings(), **os.environ, "DOCKER_BUILDKIT": "1", "COMPOSE_IGNORE_ORPHANS": "1"}
    process: subprocess.Popen[str] | None = None
    try:
        with deferred():
            process = _start(command, environment)
        output, errors = process.communicate(timeout=COMPOSE_TIMEOUT_S)
    except BaseException as error:  # Ctrl-C in the middle of it, too
        if process is not None:
            _end_group(process)
        if isinstance(error, subprocess.TimeoutExpired):
            awaited = f"{COMPOSE_TIMEOUT_S} s"
            raise EnvironmentProblem(
                f"`docker compose {arguments[0]}` did not end", awaited=awaited
            ) from None
        raise
    if process.returncode != 0:
        tail = (errors or output).strip().splitlines()[-12:]
        raise _compose_problem(arguments[0], tail)
    return output


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Its own session: Ctrl-C goes to the runner, which tears down in order.
        start_new_session=True,
    )


def _end_group(process: subprocess.Popen[str]) -> None:
    """End `docker` and the compose plugin, which is its child: alone it would go on creating containers.

    Both hold the pipes, so that their end is the end of both.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.communicate(timeout=COMPOSE_END_WAIT_S)
            return
        except subprocess.TimeoutExpired:
            continue


def _build_settings() -> dict[str, str]:
    """What `scripts/setup` found out for builds here: the base image, the host's CA bundle and pip settings."""
    try:
        lines = BUILD_SETTINGS.read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def _compose_problem(verb: str, tail: list[str]) -> EnvironmentProblem:
    text = "\n".join(tail)
    hint = "see the lines above; `edgerig doctor` checks the machine"
    if "no space left on device" in text:
        hint = "the disk is full: `docker system df`, then `docker system prune`"
    elif "port is already allocated" in text or "address already in use" in text:
        hint = "another program holds that port: end it, or change the port"
    elif "Pool overlaps" in text:
        hint = "another Docker network uses these addresses: `edgerig sweep`, or set EDGERIG_SUBNET"
    return EnvironmentProblem(f"`docker compose {verb}` failed", log=tail, hint=hint)


_reserved: list[socket.socket] = []  # names that this process holds until it ends


SUBNET_NAME = "edgerig-subnet"


def _reserve(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Whether no other run that is starting on this host has chosen this subnet.

    Between the choice and the network lies the building of the images. A name of the kernel's (unix(7), abstract
    sockets) goes with its process and leaves no file behind.
    """
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0{SUBNET_NAME}-{subnet}")
    except OSError:
        name.close()
        return False
    _reserved.append(name)
    return True


def free_subnet(engine: Any, devices: int) -> str:
    """The first subnet of the pool that no Docker network overlaps, no starting run has chosen, and that has room
    for `devices`.
    """
    chosen = os.environ.get("EDGERIG_SUBNET")
    if chosen:
        return _named_subnet(chosen)
    prefix = 24 if devices <= 200 else 20
    taken = _taken_subnets(engine)
    for candidate in SUBNET_POOL.subnets(new_prefix=prefix):
        free = not any(other.version == 4 and candidate.overlaps(other) for other in taken)
        if free and _reserve(candidate):
            return str(candidate)
    raise EnvironmentProblem(
        f"no free subnet in {SUBNET_POOL}", hint="remove unused networks: `edgerig sweep`"
    )


def _named_subnet(text: str) -> str:
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError as error:
        hint = "a network is wanted, as in EDGERIG_SUBNET=10.213.7.0/24"
        raise EnvironmentProblem(f"EDGERIG_SUBNET is {text!r}: {error}", hint=hint) from None


def _taken_subnets(engine: Any) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    with blamed():
        networks = engine.networks.list()
    blocks = [
        block for network in networks for block in (network.attrs.get("IPAM") or {}).get("Config") or []
    ]
    return [ipaddress.ip_network(b["Subnet"], strict=False) for b in blocks if b.get("Subnet")]
