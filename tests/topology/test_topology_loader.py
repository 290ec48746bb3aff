"""YAML without its traps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topology.errors import TopologyErrors
from topology.loader import DEPTH_MAX, FILE_BYTES_MAX, load_bytes, load_file


def loaded(text: str) -> object:
    return load_bytes(text.encode()).data


def refused(content: str | bytes) -> TopologyErrors:
    with pytest.raises(TopologyErrors) as caught:
        load_bytes(content.encode() if isinstance(content, str) else content, "f.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o10", "0o10"),
        ("1_000", "1_000"),
        ("7", 7),
        ("-7", -7),
        ("0", 0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("'7'", "7"),
        ("5 Mbit/s", "5 Mbit/s"),
        ("zero-*", "zero-*"),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    result = loaded(f"key: {text}")
    assert result == {"key": value}
    assert type(result["key"]) is type(value)  # type: ignore[index]


def test_lines_of_keys_and_items() -> None:
    document = load_bytes(b"a: 1\nb:\n  c: [x,\n    y]\n")
    assert document.lines[("a",)] == 1
    assert document.lines[("b", "c")] == 3
    assert document.lines[("b", "c", 1)] == 4


def test_all_duplicate_keys_at_once_with_both_lines() -> None:
    errors = refused("a: 1\nb: {x: 1, x: 2}\na: 3\n").errors
    assert [(error.path, error.line) for error in errors] == [("b.x", 2), ("a", 3)]
    assert "first in line 1" in errors[1].message


def test_a_tab_is_named_with_line_and_column() -> None:
    (error,) = refused("a:\n\tb: 1\n").errors
    assert error.line == 2
    assert "column 1" in error.message
    assert "tab" in error.message
    assert error.hint == "use spaces"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: b: c\n", "column 5"),
        ("a: [1, 2\n", "expected"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
        ("- 1\n- 2\n", "a mapping is wanted"),
        ("", "a mapping is wanted"),
        ("just text", "a mapping is wanted"),
        ("a: !!python/object/apply:os.system [id]\n", "tags"),
        ("a: !secret x\n", "tags"),
        ("a: !!int abc\n", "not a value of type int"),
        ("a: 1e999\n", "not a value of type float"),
        ("a: " + "9" * 100_000 + "\n", "a number of more than"),
        ("? [a]\n: 1\n", "plain text"),
        ("~: 1\n", "plain text"),
        ("<<: 5\n", "merges mappings only"),
        ("a: \x00\n", "not YAML"),
        (b"\xff\xfe\x00a", "not UTF-8"),
        (b"a: " + b"x" * FILE_BYTES_MAX, "larger than"),
        ("a: " + "[" * 5000 + "]" * 5000, "levels"),
        ("a: " + "[" * (DEPTH_MAX + 2) + "]" * (DEPTH_MAX + 2), "levels"),
        ("a: &a [*a]\n", "levels"),
    ],
)
def test_refusals(content: str | bytes, words: str) -> None:
    assert words in str(refused(content))


def test_a_billion_laughs_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "counting aliases" in str(refused("\n".join(lines)))


def test_anchors_and_merges() -> None:
    text = "base: &base {x: 1, y: 2}\nuse: {<<: *base, y: 3}\nagain: *base\n"
    assert loaded(text) == {"base": {"x": 1, "y": 2}, "use": {"x": 1, "y": 3}, "again": {"x": 1, "y": 2}}


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TopologyErrors) as caught:
        load_file(tmp_path / "absent.yaml")
    assert "cannot be read: No such file" in str(caught.value)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="ab:- []{}&*!<\n\t'\"#|>1.e~,?", max_size=80)))
def test_any_bytes_load_or_are_refused(content: bytes | str) -> None:
    try:
        data = load_bytes(content if isinstance(content, bytes) else content.encode()).data
    except TopologyErrors:
        return
    assert isinstance(data, dict)
