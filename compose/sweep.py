"""Remove what runs left behind whose runner is dead: by label, so it works without the run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compose import engine
from compose.docker_runtime import remove_run
from compose.prepare import draft_of
from compose.services import LOCK_NAME
from compose.session import COMPOSE_NAME, is_driven, is_half_made, remove_secrets


def labelled_runs(client: Any) -> dict[str, str]:
    """Every run that still owns something in this engine: id → the run's folder ("" if unknown)."""
    found: dict[str, str] = {}
    only = {"label": engine.LABEL_RUN}
    containers = client.containers.list(all=True, filters=only, ignore_removed=True)
    for labels in [c.labels for c in containers] + [_labels(o) for o in _networks_and_volumes(client, only)]:
        run = labels.get(engine.LABEL_RUN)
        if run:
            found[run] = labels.get(engine.LABEL_ROOT) or found.get(run, "")
    return found


def _networks_and_volumes(client: Any, only: dict[str, str]) -> Iterator[Any]:
    yield from client.networks.list(filters=only)
    yield from client.volumes.list(filters=only)


def _labels(item: Any) -> dict[str, str]:
    return item.attrs.get("Labels") or {}


def containers_expected(runs: Path, *, everything: bool = False) -> bool:
    """Whether a dead run of the docker runtime still has its credentials, and so most likely its containers."""
    roots = {path.parent for path in runs.glob(f"*/{COMPOSE_NAME}") if (path.parent / "private").exists()}
    return any(not root.is_symlink() and (everything or not is_driven(root)) for root in roots)


def sweep(client: Any, runs: Path, *, everything: bool = False) -> dict[str, list[str]]:
    """Remove the containers, networks, volumes and secrets of dead runs; what was removed, per run.

    A run is dead when nobody holds its runner lock and it was not started with `up`. One without a folder was
    started by plain `docker compose up` and belongs to its user. `everything` takes all of them. Without a
    `client` only secrets are removed.
    """
    removed: dict[str, list[str]] = {}
    for run, folder in sorted(labelled_runs(client).items() if client is not None else ()):
        root = Path(folder) if folder else runs / run
        if not everything and (not folder or is_driven(root)):
            continue
        removed[run] = remove_run(client, run)
        remove_secrets(root)
    secrets = [*runs.glob("*/private"), *runs.glob(f"*/{draft_of(Path('private'))}")]
    for root in sorted({folder.parent for folder in secrets}):
        if root.is_symlink() or root.name in removed or (not everything and is_driven(root)):
            continue
        remove_secrets(root)
        removed[root.name] = ["credentials"]
    for root in sorted(runs.glob(f"*/{LOCK_NAME}")):
        if is_half_made(root.parent):
            shutil.rmtree(root.parent, ignore_errors=True)
            removed.setdefault(root.parent.name, []).append("a run that was never prepared")
    return removed
