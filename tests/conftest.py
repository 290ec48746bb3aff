"""Rings of tests: pure ones always run; `netns` needs root, `containers` needs a Docker Engine, `torch` needs PyTorch.

Where those are missing a test is skipped and says why; in CI (CI=true) a missing engine is a failure, never a skip.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib.util import find_spec

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # also for tests that import onnxruntime before learning


@cache
def missing_docker() -> str:
    """Why containers cannot be used here, or an empty string."""
    try:
        done = subprocess.run(
            ["docker", "info", "-f", "{{.ServerVersion}}"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no docker command that answers: {error}"
    return (
        "" if done.returncode == 0 else f"no Docker Engine: {done.stderr.strip()[-200:]} (run `make setup`)"
    )


@cache
def missing_namespaces() -> str:
    """Why network namespaces cannot be used here, or an empty string."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"edgerig-probe-{os.getpid()}"
    try:
        done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=10)
    except OSError as error:
        return f"no `ip` command: {error}"
    if done.returncode != 0:
        return f"`ip netns add` failed: {done.stderr.strip()[-200:]}"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10, check=False)
    return ""


def missing_torch() -> str:
    """Why PyTorch cannot be the oracle here, or an empty string. Looked for, not imported: that takes seconds."""
    return "" if find_spec("torch") else "no PyTorch here (make test-torch)"


def missing_accountant() -> str:
    return "" if find_spec("dp_accounting") else "the extra [privacy] is not installed (make test-torch)"


RINGS = {
    "containers": missing_docker,
    "netns": missing_namespaces,
    "torch": missing_torch,
    "privacy": missing_accountant,
}
# Another job of CI has these (.ci/run).
ELSEWHERE = {"torch", "privacy"}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in RINGS.items():
        if item.get_closest_marker(marker) is None:
            continue
        reason = missing()
        if reason and os.environ.get("CI") == "true" and marker not in ELSEWHERE:
            pytest.fail(f"CI must run the {marker} tests: {reason}", pytrace=False)
        if reason:
            pytest.skip(reason)
