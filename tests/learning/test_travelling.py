"""What travels of a model and what stays: every split into the two, and artifacts that contradict themselves."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.artifact import ArtifactError, ParameterSpec, TrainingArtifact
from learning.making import with_local
from learning.travelling import put_local, take_local, travelling

PARTS = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8)


def artifact_of(parts: list[tuple[int, bool]]) -> TrainingArtifact:
    specs = tuple(ParameterSpec(name=f"p{i}", shape=(n,), kind="weight") for i, (n, _) in enumerate(parts))
    artifact = TrainingArtifact(
        model="m", loss="softmax_cross_entropy", batch_size=1, input={}, labels={}, parameters=specs,
        output_shape=(2,), training=b"", inference=b"",
    )  # fmt: skip
    initial = -np.arange(1, artifact.size + 1, dtype=np.float32)
    return with_local(artifact, {f"p{i}" for i, (_, local) in enumerate(parts) if local}, initial)


@given(parts=PARTS, half=st.booleans())
def test_cutting_and_widening_lose_nothing(parts: list[tuple[int, bool]], half: bool) -> None:
    artifact = artifact_of(parts)
    moving = travelling(artifact)
    assert moving.size == sum(n for n, local in parts if not local)
    whole = np.arange(1, artifact.size + 1, dtype=np.float32)
    local = np.concatenate([np.full(n, is_local) for n, is_local in parts])
    sent = moving.cut(whole.copy())
    np.testing.assert_array_equal(sent, whole[~local])
    back = moving.widen(sent.astype(np.float16) if half else sent)
    np.testing.assert_array_equal(back, np.where(local, -whole, whole))  # its own are the artifact's
    own = take_local(artifact, whole)
    assert put_local(artifact, back, own) == bool(local.any())
    np.testing.assert_array_equal(back, whole)


@given(parts=PARTS)
def test_slices_are_those_of_the_tensors_that_travel(parts: list[tuple[int, bool]]) -> None:
    moving = travelling(artifact_of(parts))
    assert [part.stop - part.start for part in moving.slices] == [n for n, local in parts if not local]
    # Neighbours are one pair: a model without local parts is worked through in one piece.
    assert all(a.whole.stop < b.whole.start for a, b in zip(moving.pairs, moving.pairs[1:], strict=False))


def test_values_of_another_layout_are_not_taken() -> None:
    artifact = artifact_of([(2, False), (3, True)])
    whole = np.zeros(5, np.float32)
    assert not put_local(artifact, whole, np.ones(2, np.float32))
    assert not put_local(artifact, whole, None)
    assert not whole.any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"local_values": b"1234"}, "4 bytes of local values for 3 parameters"),
        ({"local_values": np.full(3, np.nan, "<f4").tobytes()}, "not finite"),
    ],
)
def test_an_artifact_whose_local_values_make_no_sense_is_refused(
    change: dict[str, bytes], reason: str
) -> None:
    data = msgspec.structs.replace(artifact_of([(2, False), (3, True)]), **change).to_bytes()
    with pytest.raises(ArtifactError, match=reason):
        TrainingArtifact.from_bytes(data)


def test_an_artifact_of_which_nothing_travels_is_refused() -> None:
    with pytest.raises(ArtifactError, match="nothing travels"):
        TrainingArtifact.from_bytes(artifact_of([(3, True)]).to_bytes())
