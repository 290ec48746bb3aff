"""Files that a topology names: a model, a data set. Relative paths start at the topology's own folder."""

from __future__ import annotations

from pathlib import Path

from topology.errors import TopologyError, TopologyErrors, line_of
from topology.loader import Document
from topology.schema import Topology


def with_paths(topology: Topology, document: Document) -> Topology:
    """The topology with absolute paths. Raises TopologyErrors for files that are not there.

    Where a path leads nowhere its last part beside the topology counts: a run's folder and the containers of
    `edgerig compose` keep copies there.
    """
    folder = Path(document.source).resolve().parent if document.source else Path.cwd()
    errors: list[TopologyError] = []
    update: dict[str, object] = {}
    if topology.model.is_file:
        path = ("model", "source") if isinstance(document.data.get("model"), dict) else ("model",)
        found = _found(folder, topology.model.source, path, document, errors, "an .onnx file")
        update["model"] = topology.model.model_copy(update={"source": found})
    if topology.data.is_file:
        wanted = "a folder (train and test, .npz or .csv) or a .txt file"
        found = _found(folder, topology.data.dataset, ("data", "dataset"), document, errors, wanted)
        update["data"] = topology.data.model_copy(update={"dataset": found})
    if errors:
        raise TopologyErrors(errors, document.source)
    return topology.model_copy(update=update) if update else topology


def _found(
    folder: Path,
    name: str,
    path: tuple[str, ...],
    document: Document,
    errors: list[TopologyError],
    wanted: str,
) -> str:
    for place in (folder / name, folder / Path(name).name):
        if place.exists():
            return str(place)
    errors.append(
        TopologyError(
            ".".join(path),
            name,
            f"there is no {folder / name}",
            f"{wanted}, relative to the topology's folder",
            line_of(document.lines, path),
        )
    )
    return name


def files_of(topology: Topology) -> list[Path]:
    """The files and folders that a topology with absolute paths needs beside itself."""
    found = [Path(topology.model.source)] if topology.model.is_file else []
    return found + ([Path(topology.data.dataset)] if topology.data.is_file else [])
