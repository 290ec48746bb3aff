"""Payloads that were once sent: they decode to the same bits for ever, on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wire.codecs import decode
from wire.codecs.entropy import PACKINGS, PLACES
from wire.codecs.payload import HEADER
from wire.codecs.quantize import QUANTIZERS
from wire.codecs.sparsify import SPARSIFIERS

GOLDEN = json.loads((Path(__file__).parent / "golden" / "payloads.json").read_text())


@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_payloads_decode_to_the_same_bits(name: str) -> None:
    golden = GOLDEN[name]
    decoded = decode(bytes.fromhex(golden["payload"]), n=golden["n"])
    assert decoded.positions is not None
    assert decoded.positions.astype("<u2").tobytes().hex() == golden["positions"]
    assert decoded.values.astype("<f4").tobytes().hex() == golden["values"]
    assert np.array_equal(np.sort(decoded.positions), decoded.positions)


def test_every_quantizer_and_sparsifier_has_a_golden_payload() -> None:
    """A new stage comes with its golden bytes: python scripts/add_golden_payloads.py."""
    headers = [HEADER.unpack(bytes.fromhex(golden["payload"])[: HEADER.size]) for golden in GOLDEN.values()]
    assert {header[4] for header in headers} == {stage.code for stage in QUANTIZERS}
    assert {header[2] for header in headers} - {0} == {stage.code for stage in SPARSIFIERS} - {0}


def test_codes_are_never_given_to_another_stage() -> None:
    """The bytes that payloads carry. Only additions to this table are ever right."""
    assert {stage.code: stage.name for stage in SPARSIFIERS} == {1: "top_k", 2: "threshold", 3: "random_k"}
    assert {stage.code: stage.name for stage in QUANTIZERS} == {
        0: "none", 1: "fp16", 2: "int8", 3: "bf16", 4: "int4", 5: "ternary", 6: "qsgd", 7: "eden",
    }  # fmt: skip
    assert {stage.code: stage.name for stage in PACKINGS} == {0: "raw", 1: "zstd", 2: "huffman", 3: "planes"}
    assert {stage.code: stage.name for stage in PLACES} == {0: "gaps", 1: "rice", 2: "binned", 3: "turned"}
