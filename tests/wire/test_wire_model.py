"""Versions of a model: a whole download and every delta path end in the same bits."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire.codecs import CodecError
from wire.codecs.model import (
    KEY_EVERY,
    SCALE_BLOCK,
    WIDTHS,
    Dtype,
    Rounding,
    apply_delta,
    as_rounding,
    decode_full,
    encode_delta,
    encode_full,
    from_patterns,
    items,
    parameters_of,
    to_patterns,
    version_sha256,
)

DTYPES: list[Dtype] = ["fp16", "none", "int8"]
UINTS = {"fp16": np.uint16, "none": np.uint32, "int8": np.uint8}


def patterns_of(dtype: Dtype, n: int, seed: int = 0) -> np.ndarray:
    return to_patterns((np.random.default_rng(seed).standard_normal(n) * 0.05).astype(np.float32), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_full_and_delta_chain_give_the_same_bits(dtype: Dtype, data: st.DataObject) -> None:
    """Any bit patterns, NaN payloads and both zeros included: the wire never looks at them as numbers."""
    n = data.draw(st.integers(0, 200))
    versions = [data.draw(hnp.arrays(UINTS[dtype], n)) for _ in range(3)]
    held = versions[0]
    for old, new in pairwise(versions):
        held = apply_delta(held, encode_delta(old, new))
        whole = decode_full(encode_full(new), n, dtype)
        assert held.tobytes() == new.tobytes() == whole.tobytes()
        assert version_sha256(held) == version_sha256(whole) == version_sha256(new)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.3, 1.0])
def test_sparse_and_dense_deltas_both_are_exact(dtype: Dtype, share: float) -> None:
    base = patterns_of(dtype, 20_000)
    rng = np.random.default_rng(1)
    change = (rng.random(20_000) < share) * rng.standard_normal(20_000) * 1e-3
    new = to_patterns(from_patterns(base) + change.astype(np.float32), dtype)
    copy = base.copy()
    payload = encode_delta(base, new)
    assert np.array_equal(apply_delta(base, payload), new)
    assert np.array_equal(base, copy)
    if share <= 0.2:
        assert len(payload) < len(encode_full(new)) / 2


def test_a_version_is_the_decoded_model() -> None:
    vector = (np.random.default_rng(0).standard_normal(1_000) * 0.05).astype(np.float32)
    model = from_patterns(to_patterns(vector))
    assert np.array_equal(model, vector.astype(np.float16).astype(np.float32))
    assert np.array_equal(to_patterns(model), to_patterns(vector))
    assert np.array_equal(from_patterns(to_patterns(vector, "none")), vector)
    assert np.array_equal(from_patterns(to_patterns(np.array([1e6, -1e6], np.float32))), [65504.0, -65504.0])
    with pytest.raises(CodecError, match="not_finite"):
        to_patterns(np.array([np.nan], np.float32))
    with pytest.raises(CodecError, match="not_finite"):
        from_patterns(np.array([0x7C00], np.uint16))


def test_the_name_of_a_version_is_the_sha256_of_its_little_endian_bytes() -> None:
    # sha256 of 00 3c 00 c0, the float16 numbers 1 and -2, from sha256sum.
    name = "0c82e2008d4b1c37a2604f1dee0db584daf39b6ab140aaa834d3eac1df0b9458"
    patterns = to_patterns(np.array([1.0, -2.0], np.float32))
    assert version_sha256(patterns) == version_sha256(patterns.astype(">u2")) == name
    assert patterns.tobytes() == b"\x00\x3c\x00\xc0"


def test_golden_bytes() -> None:
    base = to_patterns(np.linspace(-1, 1, 12, dtype=np.float32))
    new = base.copy()
    new[[3, 7]] += np.uint16(1)
    full, delta = encode_full(base).hex(), encode_delta(base, new).hex()
    assert full == FULL
    assert delta == DELTA


FULL = "454d0100020000000c0000000c000000001800000000bc8cba17b946b75db4d1add12d5d34463717398c3a003c"
DELTA = "454d0101020000000c000000020000000200020000000303000400000001000100"


@pytest.mark.parametrize("dtype", DTYPES)
def test_hostile_bytes_raise_codec_error_or_decode_to_the_right_size(dtype: Dtype) -> None:
    base = patterns_of(dtype, 500)
    new, sparse = patterns_of(dtype, 500, seed=1), base.copy()
    sparse[10:40] = new[10:40]
    rng = random.Random(1)
    refused = 0
    for payload in (encode_full(new), encode_delta(base, new), encode_delta(base, sparse)):
        for _ in range(400):
            data = bytearray(payload)
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            for read in (lambda b: decode_full(b, base.size, dtype), lambda b: apply_delta(base, b)):
                try:
                    assert read(bytes(data)).shape == base.shape
                except CodecError:
                    refused += 1
    assert refused > 1_200


@given(st.binary(max_size=100))
def test_any_bytes_raise_codec_error(data: bytes) -> None:
    base = np.zeros(50, np.uint16)
    with pytest.raises(CodecError):
        decode_full(data, 50)
    with pytest.raises(CodecError):
        apply_delta(base, data)


def test_a_delta_for_another_model_is_refused() -> None:
    delta = encode_delta(patterns_of("fp16", 10), patterns_of("fp16", 10, 1))
    for base in (patterns_of("fp16", 11), patterns_of("none", 10)):
        with pytest.raises(CodecError) as caught:
            apply_delta(base, delta)
        assert caught.value.reason == "n"
    with pytest.raises(CodecError, match="base"):
        encode_delta(patterns_of("fp16", 10), patterns_of("none", 10))


def test_int8_versions_are_within_half_a_step_and_survive_extremes() -> None:
    rng = np.random.default_rng(2)
    vector = (rng.standard_t(3, 5_000) * 0.05).astype(np.float32)
    model = from_patterns(to_patterns(vector, "int8"))
    assert model.shape == vector.shape
    for start in range(0, 5_000, SCALE_BLOCK):
        piece, made = vector[start : start + SCALE_BLOCK], model[start : start + SCALE_BLOCK]
        step = 2.0 ** np.ceil(np.log2(np.abs(piece).max() / 127))
        assert np.abs(piece - made).max() <= step / 2 * 1.0001
    assert np.array_equal(to_patterns(model, "int8"), to_patterns(vector, "int8")), (
        "rounding again changes nothing"
    )
    largest = np.finfo(np.float32).max
    extremes = np.array([largest, -largest, 1e-45, 0.0], np.float32)
    assert np.isfinite(from_patterns(to_patterns(extremes, "int8"))).all()
    assert not from_patterns(to_patterns(np.zeros(7, np.float32), "int8")).any()
    with pytest.raises(CodecError, match="scale"):
        from_patterns(np.array([1, 0], np.uint8))


@given(n=st.integers(0, 5_000))
def test_the_number_of_parameters_follows_from_the_number_of_patterns(n: int) -> None:
    for dtype, width in WIDTHS.items():
        assert parameters_of(np.zeros(items(n, dtype), f"<u{width}")) == n


def test_small_steps_of_an_int8_version_make_a_small_delta() -> None:
    rng = np.random.default_rng(3)
    vector = (rng.standard_normal(100_000) * 0.05).astype(np.float32)
    base = to_patterns(vector, "int8")
    new = to_patterns(vector + (rng.standard_normal(100_000) * 2e-4).astype(np.float32), "int8")
    payload = encode_delta(base, new)
    assert np.array_equal(apply_delta(base, payload), new)
    assert len(payload) < 0.5 * len(encode_full(new))


def test_a_version_renews_its_share_and_what_is_left_out_comes_later() -> None:
    """Error feedback on the server's side: a model that stands still is reached, whatever was left out before."""
    rng = np.random.default_rng(4)
    target = (rng.standard_normal(20_000) * 0.05).astype(np.float32)
    rounding, patterns = Rounding("fp16", 0.1), to_patterns(np.zeros(20_000, np.float32))
    drifts = []
    for version in range(1, 10):
        before = patterns
        patterns = rounding.patterns(version, target, before)
        assert np.count_nonzero(patterns != before) <= 2_000
        held = apply_delta(before, encode_delta(before, patterns))
        assert np.array_equal(held, decode_full(encode_full(patterns), 20_000))
        drifts.append(float(np.abs(target - from_patterns(patterns)).max()))
    assert drifts == sorted(drifts, reverse=True)
    assert np.array_equal(rounding.patterns(KEY_EVERY, target, patterns), to_patterns(target))
    assert np.array_equal(rounding.patterns(3, target, None), to_patterns(target))
    assert np.array_equal(
        as_rounding("none").patterns(3, target, to_patterns(target, "none")), target.view("<u4")
    )


def test_golden_bytes_of_int8_versions() -> None:
    base = to_patterns(np.linspace(-1, 1, 12, dtype=np.float32), "int8")
    new = base + np.uint8(1)
    new[-1] = base[-1]
    assert (encode_full(base).hex(), encode_delta(base, new).hex()) == (FULL_INT8, STEPS_INT8)
    assert np.array_equal(decode_full(bytes.fromhex(FULL_INT8), items(12, "int8"), "int8"), base)
    assert np.array_equal(apply_delta(base, bytes.fromhex(STEPS_INT8)), new)


FULL_INT8 = "454d0100010000000d0000000d000000000d000000c0ccd7e3effa06111d2934407a"
STEPS_INT8 = "454d0103010000000d0000000d000000000d00000001010101010101010101010100"
