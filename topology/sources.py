"""Files that a topology names: a model, a data set, traces. Relative paths start at the topology's own folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from topology.availability import TraceError, read_trace
from topology.errors import TopologyError, TopologyErrors, line_of
from topology.loader import Document
from topology.names import is_path
from topology.plan import Plan
from topology.schema import Topology
from topology.variation import trace_files


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
    devices = {**topology.devices}
    for group, spec in topology.devices.items():
        if spec.availability is not None and spec.availability.file is not None:
            found = _trace(folder, spec.availability.file, group, document, errors)
            availability = spec.availability.model_copy(update={"file": found})
            devices[group] = spec.model_copy(update={"availability": availability})
            update["devices"] = devices
    if errors:
        raise TopologyErrors(errors, document.source)
    return topology.model_copy(update=update) if update else topology


def _trace(folder: Path, name: str, group: str, document: Document, errors: list[TopologyError]) -> str:
    path = ("devices", group, "availability", "file")
    wanted = "a CSV file of `seconds,available` or `seconds,available,device`"
    before = len(errors)
    found = _found(folder, name, path, document, errors, wanted)
    if len(errors) == before:
        try:
            read_trace(Path(found))
        except TraceError as error:
            line = line_of(document.lines, path)
            errors.append(TopologyError(".".join(path), name, str(error), wanted, line))
    return found


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


def files_of(plan: Plan) -> list[str]:
    """The files and folders beside its topology that a plan was made from, each once: model, data, traces."""
    found = [name for name in (plan.graph.source, plan.data.dataset) if is_path(name)]
    changed = [link for fault in plan.faults for link in fault.params.links.values()]
    found += trace_files([*(device.link for device in plan.devices), *changed])
    found += [device.availability.source for device in plan.devices if device.availability is not None]
    return [name for name in dict.fromkeys(found) if name]


def check_names(files: Iterable[str]) -> None:
    """Copies lie in one folder beside the topology's: a second file of a name would replace the first. Raises
    TopologyErrors.
    """
    by_name: dict[str, list[str]] = {}
    for file in files:
        by_name.setdefault(Path(file).name, []).append(file)
    errors = [
        TopologyError(
            "", name, f"files of a run need different names; it is {' and '.join(same)}", "rename one"
        )
        for name, same in by_name.items()
        if len(same) > 1
    ]
    if errors:
        raise TopologyErrors(errors)
