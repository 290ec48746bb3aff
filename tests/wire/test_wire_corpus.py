"""The fuzzer's corpus, replayed: every input that once reached new code, and every one that once crashed."""

from __future__ import annotations

from pathlib import Path

import pytest
from wire_fuzz_targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_corpus_raises_nothing_unexpected(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs, "the corpus is kept in git"
    for path in inputs:
        TARGETS[target](path.read_bytes())
