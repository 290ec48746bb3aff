"""Ten broken files: every error is reported at once, with its path, its line and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from topology.errors import TopologyErrors
from topology.host import Host
from topology.validate import load_topology

BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))
HOST = Host(cores=2, memory_bytes=24 << 30)


def expected_paths(file: Path) -> list[str]:
    """The files say themselves what is wrong with them: `# error: <path>`."""
    return [
        line.removeprefix("# error: ")
        for line in file.read_text().splitlines()
        if line.startswith("# error: ")
    ]


def errors_of(file: Path) -> TopologyErrors:
    with pytest.raises(TopologyErrors) as caught:
        load_topology(file, host=HOST)
    return caught.value


def test_there_are_ten() -> None:
    assert len(BROKEN) == 10
    assert all(len(expected_paths(file)) >= 3 for file in BROKEN)


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_every_error_is_reported_with_its_path(file: Path) -> None:
    errors = errors_of(file)
    assert sorted({error.path for error in errors.errors}) == sorted(expected_paths(file)), "\n".join(
        errors.lines()
    )


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_every_error_has_a_line_that_shows_the_key(file: Path) -> None:
    lines = file.read_text().splitlines()
    for error in errors_of(file).errors:
        if "missing" in error.message:
            continue
        assert error.line > 0
        key = error.path.rsplit(".", 1)[-1].split("[")[0]
        assert key in lines[error.line - 1] or "[" in error.path


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_the_text_names_file_count_and_each_error_once(file: Path) -> None:
    errors = errors_of(file)
    head, *rest = errors.lines()
    assert head == f"{file}: {len(errors.errors)} errors"
    assert len(rest) == len(errors.errors) == len(set(rest))


def hint_of(name: str, path: str) -> str:
    (file,) = (file for file in BROKEN if file.stem.endswith(name))
    return next(error.hint for error in errors_of(file).errors if error.path == path)


@pytest.mark.parametrize(
    ("name", "path", "hint"),
    [
        ("units", "devices.pi4.link.up", "write 5 Mbit/s"),
        ("units", "devices.pi4.link.delay", "write 80 s"),
        ("units", "policy.deadline", "write 30 s"),
        ("units", "faults[0].heal_after", "write 20 s"),
        ("unknown-keys", "sead", "did you mean 'seed'?"),
        ("unknown-keys", "devices.pi4.cuont", "did you mean 'count'?"),
        ("unknown-keys", "devices.pi4.link.delai", "did you mean 'delay'?"),
        ("unknown-keys", "faults[0].kil", "did you mean 'kill'?"),
        ("unknown-keys", "expect.acuracy", "did you mean 'accuracy'?"),
        ("unknown-names", "devices.pi4.profile", "did you mean 'raspberry-pi-4'?"),
        ("unknown-names", "devices.pi4.link", "did you mean 'home-wifi'?"),
        ("unknown-names", "compression.uplink.quantize", "did you mean 'int8'?"),
        ("impossible-fleet", "policy.cohort", "at most 201"),
        ("faults", "faults[0].kill.device", "did you mean 'pi4-1'?"),
    ],
)
def test_hints_say_what_to_write(name: str, path: str, hint: str) -> None:
    assert hint_of(name, path) == hint
