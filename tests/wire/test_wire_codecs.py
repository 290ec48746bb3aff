"""Every chain: round trips, error bounds, exactness of top-k, hostile bytes, golden bytes."""

from __future__ import annotations

import itertools
import random
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire.codecs import (
    Chain,
    CodecError,
    CodecSpec,
    Limits,
    Sparsify,
    decode,
    make_chain,
    rounding_seed,
    uplink_spec,
)
from wire.codecs.payload import HEADER
from wire.codecs.quantize import QUANTIZERS, Options
from wire.codecs.sparsify.top_k import top_k

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = hnp.arrays(np.float32, st.integers(0, 300), elements=FINITE)
SPARSE = [None, Sparsify(kind="top_k", fraction=0.1), Sparsify(kind="top_k", fraction=1.0)]
SPECS = [
    CodecSpec(sparsify=sparsify, quantize=quantize, entropy=entropy, block=block)
    for sparsify, quantize, entropy, block in itertools.product(
        SPARSE, ("none", "fp16", "int8"), ("none", "zstd"), (None, 7)
    )
] + [
    CodecSpec(quantize="bf16", entropy="lossless"),
    CodecSpec(sparsify=SPARSE[1], quantize="int4", entropy="smallest"),
    CodecSpec(quantize="int4", entropy="none"),
    CodecSpec(quantize="qsgd", levels=3),
    CodecSpec(sparsify=SPARSE[1], quantize="ternary", entropy="golomb"),
    CodecSpec(sparsify=SPARSE[1], quantize="ternary", entropy="smallest"),
    CodecSpec(sparsify=Sparsify(kind="threshold", threshold=0.5), quantize="fp16", entropy="smallest"),
    CodecSpec(sparsify=Sparsify(kind="random_k", fraction=0.3), quantize="int8"),
    CodecSpec(sparsify=Sparsify(kind="random_k", fraction=0.8), quantize="none", entropy="lossless"),
]
ROTATED = [
    CodecSpec(rotate="hadamard", quantize="eden", bits=bits, entropy=entropy)
    for bits, entropy in ((1, "none"), (2, "zstd"), (3, "none"), (4, "smallest"))
] + [
    CodecSpec(sparsify=SPARSE[1], rotate="hadamard", quantize="eden", bits=4),
    CodecSpec(rotate="hadamard", quantize="int4", block=0),
]


def options_of(chain: Chain) -> Options:
    return Options(chain.spec, np.random.default_rng(0), chain.block, unbiased=not chain.feedback)


def heavy_tailed(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(3, n) * 1e-3).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(vector=VECTORS, seed=st.integers(0, 2**64 - 1))
@settings(max_examples=15, deadline=None)
def test_round_trip_keeps_what_was_chosen_within_the_bound(
    spec: CodecSpec, vector: np.ndarray, seed: int
) -> None:
    chain = make_chain(spec)
    payload = chain.encode(vector, seed=seed)
    decoded = decode(payload, n=vector.size)
    assert chain.encode(vector, seed=seed) == payload
    chosen = vector if decoded.positions is None else vector[decoded.positions]
    bound = QUANTIZERS.named(spec.quantize).error_bound(chosen, options_of(chain))
    assert np.all(np.abs(chosen.astype(np.float64) - decoded.values) <= bound)
    if decoded.positions is not None:
        assert np.all(np.diff(decoded.positions) > 0)


@given(vector=VECTORS, k=st.integers(0, 310))
@settings(deadline=None)
def test_top_k_leaves_out_nothing_larger_than_what_it_takes(vector: np.ndarray, k: int) -> None:
    positions = top_k(vector, k)
    taken = np.abs(vector[positions])
    left = np.abs(np.delete(vector, positions))
    assert positions.size == min(k, np.count_nonzero(vector))
    assert np.all(np.diff(positions) > 0)
    if taken.size and left.size:
        assert taken.min() >= left.max()


@pytest.mark.parametrize("k", [1, 100, 16_634, 400_000])
@pytest.mark.parametrize("kind", ["heavy", "clustered", "ties", "few"])
def test_top_k_is_exact_on_large_vectors_whatever_the_sample_says(k: int, kind: str) -> None:
    vector = heavy_tailed(1_000_003)
    if kind == "clustered":  # everything large sits where a strided sample sees little of it
        vector[:] = 0
        vector[5_000:45_000] = heavy_tailed(40_000)
    elif kind == "ties":
        vector = np.sign(vector)
    elif kind == "few":
        vector[np.abs(vector) < 0.01] = 0
    positions = top_k(vector, k)
    expected = np.sort(np.abs(vector))[::-1][: min(k, np.count_nonzero(vector))]
    assert np.array_equal(np.sort(np.abs(vector[positions]))[::-1], expected)


def test_bypassed_runs_arrive_as_float16_beside_a_sparse_and_a_dense_body() -> None:
    vector = heavy_tailed(5_000)
    bypass = [slice(4_990, 5_000), slice(100, 132)]
    inside = np.r_[100:132, 4_990:5_000]
    for spec in (uplink_spec(0.01, "int8"), uplink_spec(None, "int8")):
        dense = decode(make_chain(spec).encode(vector, seed=1, bypass=bypass), n=5_000).dense()
        assert np.array_equal(dense[inside], vector[inside].astype(np.float16).astype(np.float32))
        assert np.count_nonzero(dense) >= 42 + 50


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[-1], ROTATED[0], uplink_spec(0.01, "int8")], ids=str)
def test_exact_runs_arrive_bit_for_bit_beside_bypassed_ones(spec: CodecSpec) -> None:
    vector = np.random.default_rng(3).standard_normal(2_000).astype(np.float32)
    before = vector.copy()
    exact, plain = [slice(100, 164), slice(1_990, 2_000)], [slice(90, 100), slice(100, 164)]
    decoded = decode(make_chain(spec).encode(vector, seed=1, bypass=plain, exact=exact), n=2_000).dense()
    assert np.array_equal(vector, before), "the caller's vector was left changed"
    for part in exact:
        assert np.array_equal(decoded[part], vector[part])
    assert np.array_equal(decoded[90:100], vector[90:100].astype(np.float16).astype(np.float32))
    alone = decode(make_chain(spec).encode(vector, seed=1, exact=exact[:1]), n=2_000).dense()
    assert np.array_equal(alone[exact[0]], vector[exact[0]])


def test_overlapping_bypass_runs_are_the_callers_fault() -> None:
    with pytest.raises(CodecError, match="bypass"):
        make_chain(CodecSpec()).encode(heavy_tailed(100), seed=1, bypass=[slice(0, 10), slice(9, 12)])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spec", SPECS[:3] + SPECS[-3:], ids=str)
def test_a_diverged_update_is_refused_at_the_source(spec: CodecSpec, bad: float) -> None:
    vector = heavy_tailed(2_000)
    vector[777] = bad
    with pytest.raises(CodecError) as caught:
        make_chain(spec).encode(vector, seed=1)
    assert caught.value.reason == "not_finite"


@pytest.mark.parametrize("block", [0, 64])
def test_stochastic_rounding_is_unbiased_and_never_off_by_a_step(block: int) -> None:
    vector = heavy_tailed(2_000, seed=3)
    chain = make_chain(CodecSpec(quantize="int8", block=block))
    decoded = np.stack([decode(chain.encode(vector, seed=seed), n=2_000).values for seed in range(400)])
    bound = QUANTIZERS.named("int8").error_bound(vector, options_of(chain))
    assert np.max(np.abs(decoded - vector)) <= bound
    # The error of one rounding has at most the deviation of half a step: 2,000 means of 400, five sigmas.
    assert np.max(np.abs(decoded.mean(axis=0) - vector)) < 5 * 0.5 * bound / 20
    assert abs(float((decoded - vector).mean())) < 5 * 0.5 * bound / np.sqrt(decoded.size)


def test_seeds_differ_by_run_device_and_task_and_decide_the_bytes() -> None:
    seeds = {rounding_seed(*name) for name in itertools.product(("r1", "r2"), ("a", "b"), ("t1", "t2"))}
    assert len(seeds) == 8
    chain = make_chain(uplink_spec(0.01, "int8"))
    vector = heavy_tailed(50_000)
    payloads = {chain.encode(vector, seed=seed) for seed in seeds}
    assert len(payloads) == 8
    assert chain.encode(vector, seed=b"abc") == chain.encode(vector, seed=b"abc")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec", [uplink_spec(0.01, "int8"), uplink_spec(None, "fp16")], ids=str)
def test_adding_into_an_accumulator_is_adding_the_dense_update(spec: CodecSpec, dtype: type) -> None:
    vector = heavy_tailed(200_000)
    decoded = decode(make_chain(spec).encode(vector, seed=1), n=vector.size)
    start = heavy_tailed(200_000, seed=9).astype(dtype)
    accumulator = start.copy()
    decoded.add_into(accumulator, 0.37)
    assert np.array_equal(accumulator, start + decoded.dense().astype(dtype) * dtype(0.37))
    with pytest.raises(ValueError, match="accumulator"):
        decoded.add_into(np.zeros(3, dtype))


def test_norm_does_not_overflow() -> None:
    vector = np.full(10, 3e38, np.float32)
    assert decode(make_chain(CodecSpec()).encode(vector, seed=0), n=10).norm() == pytest.approx(
        3e38 * 10**0.5
    )


# --- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (CodecSpec(quantize="int9"), "'int9' is not one of"),
        (CodecSpec(entropy="gzip"), "'gzip' is not one of"),
        (CodecSpec(sparsify=Sparsify(kind="best", fraction=0.1)), "'best' is not one of"),
        (CodecSpec(sparsify=Sparsify(kind="top_k", fraction=0.0)), "0 < fraction <= 1"),
        (CodecSpec(sparsify=Sparsify(kind="top_k")), "fraction"),
        (CodecSpec(quantize="int8", block=-1), "block"),
        (CodecSpec(sparsify=Sparsify(kind="top_k", fraction=0.1, bytes=999)), "exactly one of"),
        (CodecSpec(sparsify=Sparsify(kind="random_k", bytes=9)), "at least 128"),
        (CodecSpec(sparsify=Sparsify(kind="random_k", fraction=0.1, per_layer=True)), "per_layer"),
        (CodecSpec(sparsify=Sparsify(kind="threshold", fraction=0.1)), "a positive number"),
        (CodecSpec(sparsify=Sparsify(kind="threshold", threshold=0.1, bytes=200)), "do not apply"),
        (CodecSpec(quantize="ternary"), "needs a sparsifier"),
        (CodecSpec(quantize="eden"), "needs rotate: hadamard"),
        (CodecSpec(rotate="hadamard", quantize="eden", bits=7), "allowed are 1, 2, 3, 4"),
        (CodecSpec(quantize="qsgd", levels=128), "1 to 127"),
        (CodecSpec(rotate="givens"), "'givens' is not one of"),
    ],
)
def test_an_impossible_chain_is_refused_with_what_is_allowed(spec: CodecSpec, says: str) -> None:
    with pytest.raises(CodecError, match=says) as caught:
        make_chain(spec)
    assert caught.value.reason == "spec"


# --- hostile bytes ------------------------------------------------------------------------------------------


def _mutated(payload: bytes, rng: random.Random) -> bytes:
    data = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 9)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif kind == 3 and len(data) > 4:
            data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 1, rng.randrange(2**20)]))
        elif data:
            data[at:] = b""
    return bytes(data)


@pytest.mark.parametrize("spec", SPECS + ROTATED, ids=str)
def test_mutated_payloads_decode_cleanly_or_raise_codec_error(spec: CodecSpec) -> None:
    rng = random.Random(str(spec))
    payload = make_chain(spec).encode(heavy_tailed(600), seed=5, bypass=[slice(10, 20), slice(590, 600)])
    refused = 0
    for _ in range(400):
        try:
            decoded = decode(_mutated(payload, rng), n=600)
        except CodecError:
            refused += 1
            continue
        assert np.isfinite(decoded.values).all()
        if decoded.positions is not None:
            assert decoded.positions.size == 0 or (decoded.positions[0] >= 0 and decoded.positions[-1] < 600)
            assert np.all(np.diff(decoded.positions) > 0)
    assert refused > 100


@given(st.binary(max_size=200))
def test_any_bytes_raise_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode(data, n=100)


def _reason(payload: bytes, n: int = 1_000, **limits: int) -> str:
    with pytest.raises(CodecError) as caught:
        decode(payload, n=n, limits=Limits(**limits))
    return caught.value.reason


def _header(**fields: int) -> bytes:
    values = {"sparsify": 0, "rotate": 0, "quantize": 0, "runs": 0, "n": 1_000, "count": 1_000} | fields
    return HEADER.pack(b"ER", 1, *values.values())


def _stream(packing: int, body: bytes) -> bytes:
    return struct.pack("<BI", packing, len(body)) + body


def test_each_lie_has_its_reason() -> None:
    good = make_chain(uplink_spec(0.1, "int8")).encode(heavy_tailed(1_000), seed=1)
    assert _reason(good[:-1]) == "truncated"
    assert _reason(good + b"x") == "trailing"
    assert _reason(good, n=999) == "n"
    assert _reason(b"XX" + good[2:]) == "magic"
    assert _reason(good[:2] + b"\x09" + good[3:]) == "version"
    assert _reason(good, payload_bytes_max=20) == "too_large"
    assert _reason(_header(quantize=99)) == "stage"
    assert _reason(_header(rotate=99)) == "stage"
    assert _reason(_header(count=7)) == "count"
    assert _reason(_header(count=2**32 - 1)) == "count"
    assert _reason(_header() + _stream(0, b"\0" * 3_999)) == "count"
    assert _reason(_header() + _stream(7, b"")) == "stage"
    assert _reason(_header() + _stream(1, b"no zstd at all")) == "compression"
    assert _reason(_header() + _stream(0, np.full(1_000, np.inf, "<f4").tobytes())) == "not_finite"
    assert _reason(_header(runs=1) + struct.pack("<II", 990, 11) + b"\0" * 99) == "bypass"
    for scale in (-1.0, float("nan"), float("inf")):
        assert _reason(_header(quantize=2) + struct.pack("<If", 0, scale)) == "scale"
        assert _reason(_header(quantize=2) + struct.pack("<Iff", 500, 1.0, scale)) == "scale"
    two = _header(sparsify=1, count=2) + b"\0"
    assert _reason(two + _stream(0, b"\xff\xff\xff\xff")) == "positions"
    assert _reason(two + _stream(0, b"\xff\xff\xff\xeb\x00")) == "positions"  # 1,000 is one too many


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(b"\0" * 50_000_000)
    assert len(bomb) < 10_000
    assert _reason(_header() + _stream(1, bomb)) == "count"
    nameless = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 4_000)
    assert _reason(_header() + _stream(1, nameless)) == "count"
    # A frame that says 4,000 and holds more.
    liar = bytearray(zstandard.ZstdCompressor().compress(b"\0" * 4_001))
    at = liar.index(struct.pack("<H", 4_001 - 256))
    liar[at : at + 2] = struct.pack("<H", 4_000 - 256)
    assert _reason(_header() + _stream(1, bytes(liar))) == "compression"


def test_a_declared_block_is_not_a_size_to_allocate() -> None:
    payload = _header(quantize=2) + struct.pack("<If", 2**32 - 1, 1.0) + _stream(0, b"\1" * 1_000)
    assert np.array_equal(decode(payload, n=1_000).values, np.ones(1_000, np.float32))


# --- golden bytes -------------------------------------------------------------------------------------------


GOLDEN = "4552010100020000280000000400000000000400000002091005000000000402813c000400000050a98168"


def test_old_bytes_stay_decodable() -> None:
    vector = np.zeros(40, np.float32)
    vector[[2, 12, 29, 35]] = [1.25, -1.375, -2.0, 1.625]
    payload = bytes.fromhex(GOLDEN)
    assert make_chain(uplink_spec(0.1, "int8", "none")).encode(vector, seed=7) == payload
    decoded = decode(payload, n=40)
    assert decoded.positions is not None
    assert decoded.positions.tolist() == [2, 12, 29, 35]
    assert np.abs(decoded.values - vector[decoded.positions]).max() < 2 / 127
