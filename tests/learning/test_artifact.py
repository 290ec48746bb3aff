"""The training artifact: deterministic bytes, flat vectors without copies, hostile bytes."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.artifact import ARTIFACT_BYTES_MAX, ArtifactError, TrainingArtifact, flatten, unflatten
from learning.autodiff import build_training_graph, initial_parameters
from learning.models import build_model


@pytest.fixture(scope="module")
def artifact():
    return build_training_graph(build_model("mlp", 3), batch_size=8)


def test_parameter_counts_are_the_papers():
    assert build_training_graph(build_model("cnn"), batch_size=1).size == 1_663_370
    assert build_training_graph(build_model("mlp"), batch_size=1).size == 199_210


def test_same_input_same_bytes(artifact):
    again = build_training_graph(build_model("mlp", 3), batch_size=8)
    assert again.to_bytes() == artifact.to_bytes()


def test_parameters_differ_by_seed_only(artifact):
    first, second, other = (initial_parameters(build_model("mlp", seed), artifact) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.01


def test_round_trip(artifact):
    assert TrainingArtifact.from_bytes(artifact.to_bytes()) == artifact


def test_unflatten_gives_views(artifact):
    flat = np.zeros(artifact.size, np.float32)
    views = unflatten(artifact, flat)
    views["fc2.weight"][...] = 1.0
    assert flat.sum() == 200 * 200
    np.testing.assert_array_equal(flatten(artifact, views), flat)


def test_a_flat_vector_of_wrong_size_or_type_is_refused(artifact):
    with pytest.raises(ArtifactError, match="expected 199210"):
        unflatten(artifact, np.zeros(3, np.float32))
    with pytest.raises(ArtifactError, match="float64"):
        unflatten(artifact, np.zeros(artifact.size))
    with pytest.raises(ArtifactError, match="expected \\(200, 784\\)"):
        flatten(artifact, {s.name: np.zeros(1, np.float32) for s in artifact.parameters})


def test_small_parts_are_the_biases(artifact):
    assert sum(part.stop - part.start for part in artifact.small) == 200 + 200 + 10


def changed(artifact, **values):
    fields = msgspec.to_builtins(artifact, builtin_types=(bytes,))
    return msgspec.msgpack.encode({**fields, **values})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"schema": 99}, "schema 99"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"parameters": []}, "parameters"),
        ({"parameters": [{"name": "a", "shape": [1 << 27, 4], "kind": "weight"}]}, "parameters: at most"),
        ({"parameters": [{"name": "a", "shape": [-3], "kind": "weight"}]}, "shape"),
        ({"parameters": [{"name": "a", "shape": [1], "kind": "weight"}] * 2}, "two parameters of one name"),
        ({"parameters": [{"name": "a", "shape": [1], "kind": "code"}]}, "kind"),
        ({"input": {"dtype": "object", "shape": [1]}}, "dtype"),
        ({"input": {"dtype": "uint8", "shape": [1], "scale": float("inf")}}, "not finite"),
        ({"training": "text"}, "training"),
    ],
)
def test_contradictions_are_refused(artifact, values, reason):
    with pytest.raises(ArtifactError, match=reason):
        TrainingArtifact.from_bytes(changed(artifact, **values))


def test_too_many_bytes_are_not_even_decoded():
    with pytest.raises(ArtifactError, match="at most"):
        TrainingArtifact.from_bytes(bytes(ARTIFACT_BYTES_MAX + 1))


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_raise_artifact_error(data):
    with pytest.raises(ArtifactError):
        TrainingArtifact.from_bytes(data)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_artifacts_decode_or_raise_artifact_error(artifact, data):
    raw = bytearray(artifact.to_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(1, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(ArtifactError):
            TrainingArtifact.from_bytes(damaged)
