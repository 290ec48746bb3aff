"""The services' fuzzing corpora, replayed: every input that once reached new code, and every one that crashed."""

from __future__ import annotations

from pathlib import Path

import pytest
from service_fuzz_targets import TARGETS, joined, pieces, seeds

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_corpus_raises_nothing_unexpected(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs, "the corpus is kept in git"
    for path in inputs:
        TARGETS[target](path.read_bytes())


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_honest_inputs_pass_too(target: str) -> None:
    for data in seeds()[target]:
        TARGETS[target](data)


def test_pieces_are_what_was_joined() -> None:
    assert list(pieces(joined(b"", b"ab", b"c" * 300))) == [b"", b"ab", b"c" * 300]
