"""Surveys, and what a device keeps for itself, through core, jobs and spool."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from agent_builders import Driver, names, sent, task

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.jobs import Jobs
from edge_agent.spool import Spool
from learning.autodiff import build_training_graph, initial_parameters
from learning.heads import head_names
from learning.making import with_local
from learning.models import build_model
from learning.personal import KINDS
from learning.shard import Shard
from learning.travelling import travelling
from simulation.disk import ForgetfulDisk
from wire import messages as m
from wire.codecs import decode, uplink_spec
from wire.codecs.model import to_patterns, version_sha256

FIGURES = m.LocalFigures(version=0, received=m.Measured(samples=9, loss=0.5, answers=9, correct=3))


def survey(name: str = "survey-v0", **changes: object) -> m.Task:
    return task(name, 9, survey=True, **changes)


def done(name: str = "survey-v0") -> e.Surveyed:
    return e.Surveyed(task=name, figures=FIGURES)


# --- the core


def test_the_whole_story_of_a_survey() -> None:
    d = Driver()
    d.message(survey())
    assert "SURVEY survey-v0" in names(d.fetched("survey-v0"))
    said = d.feed(done())
    assert sent(said, m.Surveyed) == [m.Surveyed(task="survey-v0", figures=FIGURES)]
    assert d.core.state.hand is None
    assert d.core.state.items == {}
    # The answer got lost: whoever asks again is answered again.
    assert sent(d.message(survey()), m.Surveyed) == [m.Surveyed(task="survey-v0", figures=FIGURES)]


def test_a_survey_needs_no_room_for_an_update() -> None:
    d = Driver()
    for number in range(4):
        d.offered(f"t{number}", "b", number + 1)
    assert sent(d.message(task("t9", 8)), m.Failed)
    assert not sent(d.message(survey()), m.Failed)


def test_a_survey_takes_the_place_of_what_is_in_hand_and_can_be_stopped() -> None:
    d = Driver()
    d.message(task())
    d.fetched()
    assert names(d.message(survey())) == ["STOPWORK t1"]
    d.feed(e.WorkStopped(task="t1"))
    assert names(d.message(m.Cancel(task="survey-v0"))) == ["STOPWORK survey-v0"]
    assert not sent(d.feed(done()), m.Surveyed), "nobody wants it any more"
    d.message(m.Finish())
    assert d.core.state.finished


def test_a_survey_that_fails_says_so() -> None:
    d = Driver()
    d.message(survey())
    d.fetched("survey-v0")
    failed = d.feed(e.WorkFailed(task="survey-v0", reason="not enough memory"))
    assert [x.reason for x in sent(failed, m.Failed)] == ["not enough memory"]


@pytest.mark.parametrize("proximal", [float("nan"), float("inf"), -1.0])
def test_a_pull_that_is_no_number_is_refused(proximal: float) -> None:
    train = msgspec.structs.replace(task().train, personal=m.Personal(kind="ditto", proximal=proximal))
    assert "cannot train" in sent(Driver().message(task(train=train)), m.Failed)[0].reason


# --- jobs, on a real graph

BATCH = 4
MODEL = build_model("mobile-cnn", 1)
PLAIN = build_training_graph(MODEL, batch_size=BATCH)
INITIAL = initial_parameters(MODEL, PLAIN)
HEADED = with_local(PLAIN, head_names(MODEL, PLAIN, None), INITIAL)
RNG = np.random.default_rng(2)
SHARD = Shard(RNG.integers(0, 256, (12, 28, 28), np.uint8), RNG.integers(0, 3, 12))
UPLINK = m.UplinkSpec(chain=uplink_spec(0.1, "int8"))


class Device:
    """Jobs on a spool that holds a graph and version 5 of it."""

    def __init__(self, kind: str, test: Shard | None = SHARD) -> None:
        self.artifact = HEADED if kind in KINDS and KINDS[kind].heads else PLAIN
        self.disk, self.kind, self.test = ForgetfulDisk(), kind, test
        self.spool = Spool(self.disk, "run")
        graph = self.artifact.to_bytes()
        self.spool.hold_graph(hashlib.sha256(graph).hexdigest(), graph)
        patterns = to_patterns(travelling(self.artifact).cut(INITIAL.copy()))
        self.spool.hold(5, version_sha256(patterns), "fp16", patterns)
        self.jobs = self._jobs()

    def _jobs(self) -> Jobs:
        return Jobs(self.spool, SHARD, run="run", agent="d-1", threads=1, test=self.test)

    @property
    def spec(self) -> m.TrainSpec:
        personal = m.Personal(kind=self.kind, steps=3)
        return m.TrainSpec(batch_size=BATCH, lr=0.05, personal=personal, evaluate=True)

    def train(self, name: str) -> m.Report:
        assert isinstance(self.do(a.Train(task=name, spec=self.spec, seed=1)), e.Trained)
        encoded = self.do(a.Encode(task=name, version=5, uplink=UPLINK, fetch_s=0.0, fetch_bytes=0))
        assert isinstance(encoded, e.Encoded)
        return encoded.report

    def do(self, job: a.Train | a.Encode | a.Survey) -> e.Event:
        return self.jobs.do(job, lambda _done, _total: True)

    def reboot(self) -> None:
        self.disk = self.disk.after_kill()
        self.spool = Spool(self.disk, "run")
        assert not self.spool.problems
        self.jobs = self._jobs()


@pytest.mark.parametrize("kind", KINDS)
def test_figures_go_with_the_update_and_what_is_local_does_not(kind: str) -> None:
    device = Device(kind)
    report = device.train("t1")
    assert report.local is not None
    assert report.local.version == 5
    assert report.local.personal is not None
    assert report.local.personal.samples == len(SHARD)
    size = travelling(device.artifact).size
    assert report.raw_bytes == 4 * size
    device.spool.commit("t1")
    assert decode(device.spool.payload("t1"), n=size).n == size


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_counts_with_the_update_and_survives_a_kill(kind: str) -> None:
    device = Device(kind)
    device.train("t1")
    device.reboot()  # before the commit: nothing of the task is left
    own = device.spool.own()
    assert (own.local, own.personal) == (None, None)
    device.train("t1")
    device.spool.commit("t1")
    before = device.spool.own()
    assert (before.local is not None) == KINDS[kind].heads
    assert (before.personal is not None) == (kind == "ditto")
    device.train("t2")  # and is dropped
    device.jobs.discard("t2")
    device.reboot()
    after = device.spool.own()
    for one, other in ((before.local, after.local), (before.personal, after.personal)):
        np.testing.assert_array_equal(one, other)
    files = [name for name in device.disk.names() if name.startswith("own-")]
    assert len(files) == (before.local is not None) + (before.personal is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_survey_leaves_nothing_behind(kind: str) -> None:
    device = Device(kind)
    device.train("t1")
    device.spool.commit("t1")
    names_before = sorted(device.disk.names())
    answer = device.do(a.Survey(task="survey-v5", spec=device.spec, seed=2))
    assert isinstance(answer, e.Surveyed)
    assert answer.figures.version == 5
    assert answer.figures.personal is not None
    assert sorted(device.disk.names()) == names_before


def test_a_damaged_personal_model_is_left_out_whole_and_begun_anew() -> None:
    device = Device("ditto")
    device.train("t1")
    device.spool.commit("t1")
    (name,) = [name for name in device.disk.names() if name.startswith("own-")]
    content = bytearray(device.disk.read(name, 1 << 24))
    content[17] ^= 1
    device.disk.write(name, [bytes(content)])
    device.disk.sync()
    device.spool = Spool(device.disk, "run")
    assert ["damaged" in problem for problem in device.spool.problems] == [True]
    assert device.spool.own().personal is None
    device.jobs = device._jobs()
    assert device.train("t2").local is not None


def test_a_kind_that_this_device_does_not_know_is_a_failed_task() -> None:
    answer = Device("next-years").do(a.Train(task="t1", spec=Device("next-years").spec, seed=1))
    assert isinstance(answer, e.WorkFailed)
    assert "this device knows fedper, fedrep, ditto, fine_tune" in answer.reason


def test_a_device_without_tests_of_its_own_trains_all_the_same() -> None:
    assert Device("ditto", test=None).train("t1").local is None


def test_a_version_of_another_size_than_the_graph_fails() -> None:
    device = Device("fedper")
    patterns = to_patterns(INITIAL)
    device.spool.hold(6, version_sha256(patterns), "fp16", patterns)
    answer = device.do(a.Train(task="t1", spec=device.spec, seed=1))
    assert isinstance(answer, e.WorkFailed)
    assert f"a version of {INITIAL.size}" in answer.reason
