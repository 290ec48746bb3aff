"""Models of the devices' own: what each kind trains, what it keeps, what it never sends, and what is said of it."""

from __future__ import annotations

import typing

import msgspec
import numpy as np
import pytest

from learning.artifact import Flat, TrainingArtifact
from learning.autodiff import AutodiffError, build_training_graph, initial_parameters
from learning.heads import head_names
from learning.making import with_local
from learning.models import build_model
from learning.personal import KINDS, LocalTask, survey, train
from learning.shard import Shard
from learning.trainer import Own, Trainer, TrainingCancelled, TrainingDiverged, TrainingSpec
from learning.travelling import take_local, travelling
from topology.names import PERSONALIZATIONS
from wire import messages as m

BATCH = 8
MODEL = build_model("mobile-cnn", 3)
RNG = np.random.default_rng(5)
CLASSES = np.array([2, 7])  # all that this device ever sees


def samples(count: int) -> Shard:
    y = RNG.choice(CLASSES, count)
    x = RNG.integers(0, 60, (count, 28, 28), np.uint8) + (y * 19).astype(np.uint8)[:, None, None]
    return Shard(x, y)


SHARD, TEST = samples(40), samples(24)
PLAIN = build_training_graph(MODEL, batch_size=BATCH)
INITIAL = initial_parameters(MODEL, PLAIN)
HEADED = with_local(PLAIN, head_names(MODEL, PLAIN, None), INITIAL)


def artifact_for(kind: str) -> TrainingArtifact:
    return HEADED if KINDS[kind].heads else PLAIN


def received(artifact: TrainingArtifact) -> Flat:
    return travelling(artifact).cut(INITIAL.copy())


def task(kind: str, own: Own | None = None, **changes: typing.Any) -> LocalTask:
    artifact = artifact_for(kind)
    spec = TrainingSpec(batch_size=BATCH, lr=0.05, momentum=0.9)
    options = m.Personal(kind=kind, steps=changes.pop("steps", 6), proximal=changes.pop("proximal", 0.1))
    given: dict[str, typing.Any] = {
        "trainer": Trainer(artifact, SHARD), "received": received(artifact), "spec": spec, "seed": 9,
        "options": options, "own": own or Own(), "test": TEST,
    }  # fmt: skip
    return LocalTask(**(given | changes))


def distance(a: Flat, b: Flat) -> float:
    return float(np.linalg.norm(a - b))


def test_the_names_of_a_topology_are_the_kinds_of_a_device() -> None:
    assert tuple(KINDS) == PERSONALIZATIONS
    for kind in KINDS:  # an order with it is a message that decodes
        personal = m.Personal(kind=kind)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(personal), type=m.Personal) == personal


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_carries_only_what_travels_and_is_the_same_with_every_seed(kind: str) -> None:
    first, again = (train(KINDS[kind], task(kind), 3, evaluate=True) for _ in range(2))
    assert first.delta.size == travelling(artifact_for(kind)).size
    np.testing.assert_array_equal(first.delta, again.delta)
    assert first.local == again.local
    assert (first.steps, first.samples) == (5, 40), "only the steps of the update count for the merge"
    assert first.local is not None
    assert first.local.version == 3
    assert (first.local.received is None) == KINDS[kind].heads


@pytest.mark.parametrize("kind", ["ditto", "fine_tune"])
def test_a_model_beside_changes_nothing_of_the_update(kind: str) -> None:
    alone = Trainer(PLAIN, SHARD).train(received(PLAIN), task(kind).spec, 9)
    beside = train(KINDS[kind], task(kind), 0, evaluate=True)
    np.testing.assert_array_equal(alone.delta, beside.delta)


@pytest.mark.parametrize("kind", ["fedper", "fedrep"])
def test_a_head_of_ones_own_goes_on_from_task_to_task(kind: str) -> None:
    first = train(KINDS[kind], task(kind), 0, evaluate=True)
    assert first.own.local is not None
    assert first.own.local.size == HEADED.size - travelling(HEADED).size
    second = train(KINDS[kind], task(kind, first.own), 1, evaluate=True)
    fresh = train(KINDS[kind], task(kind), 1, evaluate=True)
    assert second.loss_mean < fresh.loss_mean
    assert first.own.optimizer is None


def test_fedper_trains_head_and_body_together_and_tests_the_head_it_had() -> None:
    head = np.zeros(HEADED.size - travelling(HEADED).size, np.float32)
    result = train(KINDS["fedper"], task("fedper", Own(local=head)), 0, evaluate=True)
    assert result.local is not None
    assert result.local.personal is not None
    assert result.local.personal.loss == pytest.approx(np.log(10), rel=1e-4)  # a head of zeros knows nothing
    assert result.own.local is not None
    assert result.own.local.any()
    assert result.delta.any()


def test_fedrep_trains_the_head_on_the_received_body_and_then_the_body_under_the_fixed_head() -> None:
    made = KINDS["fedrep"].make(task("fedrep"))
    np.testing.assert_array_equal(travelling(HEADED).cut(made.model.copy()), received(HEADED))
    head = take_local(HEADED, made.model)
    assert head is not None
    assert distance(head, take_local(HEADED, INITIAL)) > 0  # type: ignore[arg-type]
    result = train(KINDS["fedrep"], task("fedrep"), 0, evaluate=False)
    np.testing.assert_array_equal(result.own.local, head)
    assert result.delta.any()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_what_is_fixed_does_not_move_whatever_the_optimizer_does(decay: float) -> None:
    """Neither momentum nor weight decay of a fixed part may leak into it."""
    spec = TrainingSpec(batch_size=BATCH, lr=0.05, momentum=0.9, weight_decay=decay)
    result = Trainer(HEADED, SHARD).train(received(HEADED), spec, 1, fixed=HEADED.local)
    np.testing.assert_array_equal(result.own.local, take_local(HEADED, INITIAL))


def test_ditto_without_a_pull_is_fine_tuning_and_a_strong_pull_holds_it_at_the_version() -> None:
    distances = []
    for proximal in (0.0, 0.5, 5.0):
        made = KINDS["ditto"].make(task("ditto", proximal=proximal, steps=20))
        distances.append(distance(made.model, INITIAL))
        assert made.own.personal is made.model
    assert distances[0] > distances[1] > distances[2] > 0
    tuned = KINDS["fine_tune"].make(task("fine_tune", steps=20))
    assert distance(tuned.model, INITIAL) == pytest.approx(distances[0])


def test_ditto_goes_on_with_the_model_it_kept_and_is_pulled_to_the_newest_version() -> None:
    kept = INITIAL + np.float32(0.05)
    still = KINDS["ditto"].make(task("ditto", Own(personal=kept), steps=1, proximal=0.0))
    assert distance(still.model, kept) < distance(still.model, INITIAL)
    pulled = KINDS["ditto"].make(task("ditto", Own(personal=kept), steps=1, proximal=5.0))
    assert distance(pulled.model, INITIAL) < distance(still.model, INITIAL)
    other = KINDS["ditto"].make(task("ditto", Own(personal=np.zeros(3, np.float32)), steps=1))
    assert other.model.size == PLAIN.size  # of another model: begun anew


def test_fine_tuning_keeps_nothing() -> None:
    result = train(KINDS["fine_tune"], task("fine_tune"), 0, evaluate=True)
    assert (result.own.local, result.own.personal, result.own.optimizer) == (None, None, None)


def test_a_personal_model_beats_the_shared_one_where_a_device_knows_two_classes() -> None:
    figures = survey(KINDS["fine_tune"], task("fine_tune", steps=60), 4)
    assert figures.received is not None
    assert figures.personal is not None
    assert figures.received.samples == figures.received.answers == len(TEST)
    assert (figures.personal.correct or 0) > (figures.received.correct or 0)
    assert figures.personal.loss < figures.received.loss


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_without_tests_of_its_own_a_device_says_nothing(kind: str | None) -> None:
    found = KINDS[kind] if kind is not None else None
    here = task(kind or "ditto", test=None)
    assert train(found, here, 0, evaluate=True).local is None
    assert survey(found, task(kind or "ditto", test=None), 2) == m.LocalFigures(version=2)
    assert train(found, task(kind or "ditto"), 0, evaluate=False).local is None


def test_tests_alone_are_of_the_version_received() -> None:
    figures = survey(None, task("ditto"), 2)
    assert figures.received is not None
    assert figures.personal is None


@pytest.mark.parametrize("kind", KINDS)
def test_progress_counts_every_part_and_any_step_can_be_the_last(kind: str) -> None:
    seen: list[tuple[int, int]] = []
    train(KINDS[kind], task(kind, on_step=lambda *at: seen.append(at)), 0, evaluate=False)
    total = 5 if kind == "fedper" else 11
    assert seen == [(step, total) for step in range(1, total + 1)]
    for last in (1, total):
        with pytest.raises(TrainingCancelled):
            train(KINDS[kind], task(kind, on_step=lambda at, _all, last=last: at < last), 0, evaluate=False)


def test_a_personal_model_that_diverges_is_a_task_that_fails() -> None:
    wild = TrainingSpec(batch_size=BATCH, lr=1e30)
    with pytest.raises(TrainingDiverged):
        train(KINDS["ditto"], task("ditto", spec=wild, steps=30), 0, evaluate=False)


def test_a_loss_that_is_no_number_is_not_sent() -> None:
    broken = INITIAL.copy()
    broken[:] = np.float32(1e30)
    figures = survey(None, task("ditto", received=broken), 2)
    assert figures.received is None


# --- heads


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("mlp", {"fc3.weight", "fc3.bias"}),
        ("cnn", {"fc2.weight", "fc2.bias"}),
        ("gru", {"head.weight", "head.bias"}),
        ("transformer", {"head.weight", "head.bias"}),  # a product and a sum, two nodes
    ],
)
def test_the_last_layer_is_the_head(model: str, head: set[str]) -> None:
    made = build_model(model, 0)
    loss = "next_token" if model == "transformer" else "softmax_cross_entropy"
    assert head_names(made, build_training_graph(made, loss=loss, batch_size=2), None) == head


def test_a_head_can_be_named_and_must_be_a_part() -> None:
    made = build_model("mlp", 0)
    artifact = build_training_graph(made, batch_size=2)
    assert head_names(made, artifact, ["fc2*", "fc3.bias"]) == {"fc2.weight", "fc2.bias", "fc3.bias"}
    with pytest.raises(AutodiffError, match=r"head nothing\* takes no parameter.*fc1.weight"):
        head_names(made, artifact, ["nothing*"])
    with pytest.raises(AutodiffError, match="takes every parameter"):
        head_names(made, artifact, ["*"])
