"""What single stages promise: statistics, error bounds, sizes against their theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.codecs import CodecError, CodecSpec, Sparsify, decode, layers_of, make_chain
from wire.codecs.entropy import PACKINGS, PLACES, read_places, write_places
from wire.codecs.entropy.gaps import gap_bytes
from wire.codecs.payload import HEADER, Reader, Writer
from wire.codecs.quantize import QUANTIZERS, Options
from wire.codecs.quantize.eden import LEVELS, codebook, pack_bits, unpack_bits
from wire.codecs.rotate.hadamard import BLOCK_MAX, Hadamard, block_sizes, padded
from wire.codecs.schedules import aged, warm_up
from wire.codecs.sparsify.random_k import draw_distinct

CNN = 1_663_370
RAW, ALL = [PACKINGS.named("raw")], list(PACKINGS)


def heavy_tailed(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(3, n) * 1e-3).astype(np.float32)


def nmse(values: np.ndarray, vector: np.ndarray) -> float:
    exact = vector.astype(np.float64)
    return float(np.sum((values - exact) ** 2) / np.sum(exact**2))


# --- sparsify -----------------------------------------------------------------------------------------------


def test_threshold_takes_exactly_what_reaches_it() -> None:
    vector = heavy_tailed(10_000)
    chain = make_chain(CodecSpec(sparsify=Sparsify(kind="threshold", threshold=0.002)))
    decoded = decode(chain.encode(vector, seed=0), n=10_000)
    assert np.array_equal(decoded.positions, np.flatnonzero(np.abs(vector) >= np.float32(0.002)))


def test_per_layer_top_k_serves_every_layer() -> None:
    vector = heavy_tailed(10_000)
    vector[:5_000] *= 100
    layers = layers_of([(50, 100), (4_990,), (10,)])
    chain = make_chain(CodecSpec(sparsify=Sparsify(kind="top_k", fraction=0.02, per_layer=True)))
    positions = decode(chain.encode(vector, seed=0, layers=layers), n=10_000).positions
    assert positions is not None
    assert [int(np.count_nonzero((positions >= s.start) & (positions < s.stop))) for s in layers] == [
        100,
        100,
        1,
    ]
    with pytest.raises(CodecError, match="needs the layers"):
        chain.encode(vector, seed=0)


@pytest.mark.parametrize("kind", ["top_k", "random_k"])
@pytest.mark.parametrize("budget", [200, 3_000, 60_000, 10_000_000])
def test_a_byte_budget_is_kept_and_used(kind: str, budget: int) -> None:
    vector = heavy_tailed(100_000)
    chain = make_chain(CodecSpec(sparsify=Sparsify(kind=kind, bytes=budget), quantize="int8"))
    payload = chain.encode(vector, seed=0)
    everything = 100_000
    assert len(payload) <= budget
    sent = decode(payload, n=100_000).values.size
    assert len(payload) >= 0.9 * budget or sent == everything or budget == 200
    assert chain.encode(vector, seed=0) == payload


def test_a_budget_too_small_for_one_element_is_the_configurations_fault() -> None:
    # One rotated element is a block of 128 floats.
    spec = CodecSpec(sparsify=Sparsify(kind="top_k", bytes=128), rotate="hadamard", entropy="none")
    chain = make_chain(spec)
    with pytest.raises(CodecError, match="not one element fits"):
        chain.encode(heavy_tailed(100_000), seed=0)


@given(n=st.integers(1, 500), data=st.data(), seed=st.integers(0, 2**64 - 1))
def test_random_positions_are_distinct_and_the_same_on_both_sides(
    n: int, data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(0, n))
    positions = draw_distinct(n, count, seed)
    assert positions.size == count
    assert np.all(np.diff(positions) > 0)
    assert count == 0 or (positions[0] >= 0 and positions[-1] < n)
    assert np.array_equal(positions, draw_distinct(n, count, seed))


def test_random_k_is_uniform_unbiased_without_feedback_and_plain_with_it() -> None:
    vector = heavy_tailed(400)
    spec = CodecSpec(sparsify=Sparsify(kind="random_k", fraction=0.25))
    unbiased, plain = make_chain(spec, feedback=False), make_chain(spec)
    runs = 2_000
    total, chosen = np.zeros(400), np.zeros(400)
    for seed in range(runs):
        decoded = decode(unbiased.encode(vector, seed=seed), n=400)
        decoded.add_into(total)
        chosen[decoded.positions] += 1
    # A count is binomial(2,000, 1/4): deviation 19.4; 400 of them, five sigmas. The mean follows from the
    # counts.
    assert np.max(np.abs(chosen - runs / 4)) < 5 * math.sqrt(runs * 3 / 16)
    assert np.allclose(total / runs, vector * chosen / (runs / 4), rtol=1e-4, atol=1e-7)
    sent = decode(plain.encode(vector, seed=1), n=400)
    assert np.array_equal(sent.values, vector[sent.positions])


# --- positions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaps", "rice", "binned", "turned"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_position_codes_round_trip(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 2**31))
    chosen = data.draw(st.sets(st.integers(0, n - 1), max_size=40))
    if n < 10**7:
        chosen |= set(range(data.draw(st.integers(0, min(n, 300)))))
    positions = np.array(sorted(chosen), np.int64)
    if name == "gaps" and n > 10**8:  # one byte per 255 elements left out: correct, and too slow to try
        return
    if name == "rice" and positions.size and n // positions.size > 10**8:
        return
    rows = data.draw(st.integers(2, 70))
    layers = layers_of([(3,), (rows, 97), (7, 5, 211), (11,)]) if n >= 14_000 else ()
    writer = Writer(RAW)
    write_places(writer, (PLACES.named(name),), positions, n, layers)
    reader = Reader(writer.bytes(), PACKINGS)
    assert np.array_equal(read_places(reader, positions.size, n), positions)
    reader.end()


def coded_bits(name: str, positions: np.ndarray, n: int, packings: list) -> float:
    writer = Writer(packings)
    write_places(writer, (PLACES.named(name),), positions, n)
    return 8 * writer.size / positions.size


@pytest.mark.parametrize("share", [1 / 100, 1 / 400])
def test_golomb_rice_comes_within_a_percent_of_the_bound_on_uniform_positions(share: float) -> None:
    count = round(CNN * share)
    positions = draw_distinct(CNN, count, seed=5)
    bound = (
        (math.lgamma(CNN + 1) - math.lgamma(count + 1) - math.lgamma(CNN - count + 1)) / math.log(2) / count
    )
    assert bound < coded_bits("rice", positions, CNN, RAW) < 1.01 * bound
    assert coded_bits("binned", positions, CNN, ALL) < 1.03 * bound


@pytest.mark.parametrize(("share", "paper"), [(1 / 100, 351), (1 / 400, 1152)])
def test_sparse_ternary_compression_reaches_the_papers_ratio_on_uniform_positions(
    share: float, paper: float
) -> None:
    spec = CodecSpec(sparsify=Sparsify(kind="top_k", fraction=share), quantize="ternary", entropy="golomb")
    ratio = 4 * CNN / len(make_chain(spec).encode(heavy_tailed(CNN), seed=1))
    assert ratio == pytest.approx(paper, rel=0.01)


@pytest.mark.parametrize("entropy", ["zstd", "smallest"])
@pytest.mark.parametrize("clustered", [False, True])
def test_positions_never_take_more_than_zstd_on_gaps(entropy: str, clustered: bool) -> None:
    vector = heavy_tailed(300_000)
    if clustered:
        vector *= np.repeat(np.random.default_rng(1).lognormal(0, 2, 3_000), 100).astype(np.float32)
    spec = CodecSpec(sparsify=Sparsify(kind="top_k", fraction=0.01), entropy=entropy)
    payload = make_chain(spec).encode(vector, seed=0)
    positions = decode(payload, n=300_000).positions
    assert positions is not None
    values = len(PACKINGS.named("raw").pack(vector[positions].tobytes(), 4))
    plain = len(zstandard.ZstdCompressor(level=3).compress(gap_bytes(positions)))
    overhead = HEADER.size + 5 + 1 + 10  # header, values' stream, place code, two stream headers
    assert len(payload) <= values + plain + overhead


# --- packings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ALL, ids=lambda packing: packing.name)
@given(data=st.binary(max_size=400), width=st.sampled_from([1, 2, 4]))
def test_packings_round_trip(packing: object, data: bytes, width: int) -> None:
    data = data[: len(data) // width * width]
    packed = packing.pack(data, width)  # type: ignore[attr-defined]
    if packed is not None:
        assert bytes(packing.unpack(memoryview(packed), len(data))) == data  # type: ignore[attr-defined]
        if data:
            with pytest.raises(CodecError):
                packing.unpack(memoryview(packed), len(data) - 1)  # type: ignore[attr-defined]


def test_byte_planes_beat_zstd_on_floats_and_are_exact() -> None:
    vector = heavy_tailed(200_000)
    payload = make_chain(CodecSpec(entropy="lossless")).encode(vector, seed=0)
    assert decode(payload, n=200_000).values.tobytes() == vector.tobytes()
    assert len(payload) < 0.93 * len(zstandard.ZstdCompressor(level=3).compress(vector.tobytes()))


# --- rotate and eden ----------------------------------------------------------------------------------------


@given(count=st.integers(0, 100_000))
def test_blocks_are_powers_of_two_and_padding_is_small(count: int) -> None:
    sizes = block_sizes(count)
    assert all(size & (size - 1) == 0 and size <= BLOCK_MAX for size, _ in sizes)
    assert count <= padded(count) < count + 128
    assert padded(padded(count)) == padded(count)


@pytest.mark.parametrize("count", [1, 128, 129, 5_000, 16_384, 100_003])
def test_the_rotation_is_orthonormal_and_undone_by_its_inverse(count: int) -> None:
    vector = heavy_tailed(count)
    rotated = Hadamard().forward(vector, seed=9)
    assert rotated.size == padded(count)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    assert np.allclose(Hadamard().backward(rotated, count, seed=9), vector, atol=1e-8, rtol=1e-4)
    if count > 1_000:
        assert not np.allclose(rotated, Hadamard().forward(vector, seed=10))


def test_the_transform_of_one_block_is_the_hadamard_matrix() -> None:
    size = 128
    matrix = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
    images = np.stack([Hadamard().forward(row, seed=4) for row in np.eye(size, dtype=np.float32)])
    # Rows of images are columns of P H D: a permuted Hadamard matrix with signs; so their products are those
    # of H.
    assert np.allclose(images @ images.T, np.eye(size), atol=1e-6)
    assert np.allclose(np.abs(images), 1 / math.sqrt(size))
    assert np.allclose(np.sort(np.abs(images @ matrix).max(axis=1)) <= math.sqrt(size) + 1e-3, True)


def test_a_spike_becomes_flat() -> None:
    vector = np.zeros(BLOCK_MAX, np.float32)
    vector[777] = 1.0
    assert np.allclose(np.abs(Hadamard().forward(vector, seed=1)), 1 / math.sqrt(BLOCK_MAX))


@pytest.mark.parametrize("bits", list(LEVELS))
def test_levels_are_those_of_lloyd_and_max(bits: int) -> None:
    """Every level is the mean of a Gaussian over the values nearest to it."""
    levels = codebook(bits).astype(np.float64)
    middles = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    density = np.exp(-(middles**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-m / math.sqrt(2)) for m in middles])
    means = (density[:-1] - density[1:]) / (below[1:] - below[:-1])
    assert np.allclose(levels, means, atol=2e-5)


@given(bits=st.sampled_from([1, 2, 3, 4]), data=st.data())
def test_bits_are_packed_tightly(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=50))
    indices = np.array(values, np.uint8)
    packed = pack_bits(indices, bits)
    assert packed.size == -(-bits * len(values) // 8)
    assert unpack_bits(packed, bits, len(values)).tolist() == values


@pytest.mark.parametrize(("bits", "error"), [(1, 0.572), (2, 0.134), (3, 0.036), (4, 0.0096)])
def test_eden_reaches_its_error_and_its_mean_converges(bits: int, error: float) -> None:
    """vNMSE of the unbiased scale, and that of the mean of twenty rotations: a twentieth if unbiased."""
    rng = np.random.default_rng(2)
    vector = (rng.lognormal(size=1 << 16) * rng.choice([-1, 1], 1 << 16)).astype(np.float32)
    chain = make_chain(
        CodecSpec(rotate="hadamard", quantize="eden", bits=bits, entropy="none"), feedback=False
    )
    payloads = [chain.encode(vector, seed=seed) for seed in range(20)]
    decoded = [decode(payload, n=vector.size).values for payload in payloads]
    assert np.mean([nmse(values, vector) for values in decoded]) == pytest.approx(error, rel=0.03)
    assert nmse(np.mean(decoded, axis=0, dtype=np.float64), vector) == pytest.approx(error / 20, rel=0.1)
    assert len(payloads[0]) < 1.01 * vector.size * bits / 8


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_under_feedback_eden_takes_the_scale_of_least_error(bits: int) -> None:
    vector = heavy_tailed(1 << 15)
    spec = CodecSpec(rotate="hadamard", quantize="eden", bits=bits)
    least, unbiased = (
        nmse(decode(make_chain(spec, feedback=feedback).encode(vector, seed=3), n=vector.size).values, vector)
        for feedback in (True, False)
    )
    # With distortion D the least error is D, the unbiased one D / (1 - D) (Vargaftik et al. 2022, section 3).
    assert unbiased == pytest.approx(least / (1 - least), rel=0.02)


# --- quantize -----------------------------------------------------------------------------------------------


def test_the_ternary_magnitude_is_the_mean_of_what_is_sent() -> None:
    """OpenFL takes it over all coordinates and shrinks the update by the sparsity, here a hundredfold."""
    vector = heavy_tailed(100_000)
    spec = CodecSpec(sparsify=Sparsify(kind="top_k", fraction=0.01), quantize="ternary")
    decoded = decode(make_chain(spec).encode(vector, seed=0), n=vector.size)
    chosen = vector[decoded.positions]
    assert np.allclose(np.abs(decoded.values), np.abs(chosen).mean(), rtol=1e-6)
    assert np.array_equal(np.sign(decoded.values), np.sign(chosen))


@pytest.mark.parametrize(
    "spec", [CodecSpec(quantize="qsgd", levels=4, block=100), CodecSpec(quantize="int4")], ids=str
)
def test_stochastic_quantizers_are_right_on_average(spec: CodecSpec) -> None:
    vector = heavy_tailed(1_000)
    chain = make_chain(spec)
    runs = 600
    decoded = np.stack([decode(chain.encode(vector, seed=s), n=1_000).values for s in range(runs)])
    options = Options(spec, np.random.default_rng(0), chain.block)
    step = QUANTIZERS.named(spec.quantize).error_bound(vector, options)
    assert np.max(np.abs(decoded - vector)) <= step
    # Rounding to either end of a step deviates by half of it at most: a thousand means, five sigmas.
    assert np.max(np.abs(decoded.mean(axis=0) - vector)) < 5 * step / 2 / math.sqrt(runs)
    assert abs(float((decoded - vector).mean())) < 5 * step / 2 / math.sqrt(decoded.size)


def test_bfloat16_rounds_to_nearest_even() -> None:
    exact = np.array([1.0, 1.00390625, 1.01171875, -2.5, 3.3e38, 0.0], np.float32)
    decoded = decode(make_chain(CodecSpec(quantize="bf16")).encode(exact, seed=0), n=exact.size).values
    # 1 + 2^-8 lies between 1 and 1 + 2^-7: to the even 1; 1 + 3 * 2^-8 to the even 1 + 2^-6.
    assert decoded[:4].tolist() == [1.0, 1.0, 1.015625, -2.5]
    assert np.allclose(decoded, exact, rtol=2**-8)


# --- schedules ----------------------------------------------------------------------------------------------


def test_warm_up_goes_from_a_quarter_to_the_fraction_geometrically() -> None:
    fractions = [warm_up(0.001, number, 4) for number in range(6)]
    assert fractions[0] == 0.25
    assert fractions[4:] == [0.001, 0.001]
    assert np.allclose(np.diff(np.log(fractions[:5])), math.log(0.001 / 0.25) / 4)
    assert warm_up(0.5, 0, 4) == 0.5


def test_an_old_residual_fades_after_its_grace() -> None:
    assert [aged(versions, 3, 0.5) for versions in (0, 3, 4, 6)] == [1.0, 1.0, 0.5, 0.125]
