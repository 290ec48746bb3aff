"""SCAFFOLD's control variates on the device: fetched with the task, durable, moved by what is merged alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from agent_builders import (
    SHA,
    Driver,
    N,
    control,
    keep_pair,
    model,
    names,
    noise,
    only,
    ref,
    report,
    sent,
    task,
    variate,
)

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.jobs import Install, Jobs
from edge_agent.ledger import SpoolError
from edge_agent.spool import Spool
from edge_agent.state import Restored
from learning.autodiff import build_training_graph
from learning.models import build_model
from learning.shard import Shard
from simulation.disk import ForgetfulDisk
from wire import messages as m
from wire import pair
from wire.codecs import CodecSpec, decode, uplink_spec
from wire.codecs import model as versions

# --- the core --------------------------------------------------------------------------------------------------------


def test_the_servers_variate_is_fetched_between_graph_and_version() -> None:
    d = Driver()
    assert names(d.message(task(control=control())))[-1] == "FETCH graph-1"
    (fetch,) = only(d.ready("graph-1", version=None, sha="2"), a.Fetch)
    assert (fetch.object.name, fetch.control, fetch.leads_to) == ("c0", control(), None)
    assert fetch.model is not None, "its size is the model's"
    arrived = e.ObjectReady(task="t1", name="c0", bytes=9, wall_s=0.1, sha256=SHA["c"], control=True)
    assert names(d.feed(arrived)) == ["FETCH v0"]
    (train,) = only(d.ready("v0"), a.Train)
    assert train.control == control()
    assert d.core.state.graph_sha256 == SHA["2"]


def test_it_is_fetched_anew_when_it_is_another_and_not_when_it_is_held() -> None:
    held = Restored(version=0, version_sha256=SHA["a"], graph_sha256=SHA["2"], control_sha256=SHA["c"])
    assert only(Driver(held).message(task(control=control())), a.Train)
    d = Driver(held)
    (fetch,) = only(d.message(task(control=control(1, "d"))), a.Fetch)
    assert fetch.object.name == "c1"
    assert not only(Driver(held).message(task(control=control(1, "c"))), a.Fetch), (
        "it is known by its content"
    )


def test_a_delta_that_leads_nowhere_does_not_cost_the_control_variate() -> None:
    held = Restored(version=0, version_sha256=SHA["a"], graph_sha256=SHA["2"])
    d = Driver(held)
    order = task(model=model(1, [ref("v0-v1", 100, base=0)], sha="b"), control=control(1))
    (fetch,) = only(d.message(order), a.Fetch)
    assert fetch.object.name == "c1"
    d.feed(e.ObjectReady(task="t1", name="c1", bytes=9, wall_s=0.1, sha256=SHA["c"], control=True))
    assert names(d.feed(e.ObjectFailed(task="t1", name="v0-v1", reason="other bits"))) == ["FETCH v1"]
    (train,) = only(d.ready("v1", version=1, sha="b"), a.Train)
    assert train.control == order.control


@pytest.mark.parametrize("kind", ["merged", "refused", "late", "surplus", "stale"])
def test_only_what_is_merged_moves_the_variate(kind: Any) -> None:
    d = Driver()
    d.offered()
    d.acked()
    (settle,) = only(d.message(m.Outcome(task="t1", sha256=SHA["b"], outcome=kind, version=1)), a.Settle)
    assert settle.merged == (kind == "merged")


def test_what_the_coordinator_forgot_moves_nothing() -> None:
    d = Driver()
    d.offered()
    d.acked()
    (settle,) = only(d.message(m.Cancel(task="t1", reason="unknown task")), a.Settle)
    assert not settle.merged


@pytest.mark.parametrize(
    "changes",
    [{"momentum": 0.9}, {"optimizer": "adam"}, {"prox_mu": 0.1}, {"clip_norm": 1.0}, {"lr": 0.0}],
)
def test_what_is_no_plain_sgd_is_refused(changes: dict[str, Any]) -> None:
    train = m.TrainSpec(**{"local_epochs": 1, "batch_size": 16, "lr": 0.1, **changes})
    (failed,) = sent(Driver().message(task(train=train, control=control())), m.Failed)
    assert "plain SGD" in failed.reason


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (control(chain=CodecSpec(quantize="int5")), "cannot compress as asked"),
        (m.ControlRef(object=ref("c0", 10**9), dtype="fp16"), "cannot need objects of more than"),
        (m.ControlRef(object=ref("c0", 1), dtype="fp16"), "more chunks than bytes"),
    ],
)
def test_a_control_variate_that_cannot_be_is_refused(wrong: m.ControlRef, said: str) -> None:
    (failed,) = sent(Driver().message(task(control=wrong)), m.Failed)
    assert said in failed.reason


# --- the spool -------------------------------------------------------------------------------------------------------


def moved_by(*seeds: int) -> Any:
    """Where the changes of these updates lead to."""
    total = np.zeros(N, np.float32)
    for seed in seeds:
        total += noise(seed + 100).astype(np.float16).astype(np.float32)
    return total


def test_a_control_variate_moves_with_what_is_merged_and_with_nothing_else() -> None:
    spool = Spool(disk := ForgetfulDisk(), "run-1")
    for number in range(4):
        keep_pair(spool, f"t{number}", number)
        assert not variate(spool).any(), "a commit, an ack and a grant move nothing"
    spool.acked("t0")
    spool.settle("t0", False, True)
    np.testing.assert_allclose(variate(spool), moved_by(0), atol=1e-6)
    residual = spool.residual(N)
    spool.settle("t1", True)  # late
    assert (spool.residual(N) != residual).any(), "the update alone is given back"
    spool.settle("t2", False)  # refused
    np.testing.assert_allclose(variate(spool), moved_by(0), atol=1e-6)
    again = Spool(disk.after_kill(), "run-1")
    again.settle("t3", False, True)
    np.testing.assert_allclose(variate(again), moved_by(0, 3), atol=1e-6)
    with pytest.raises(SpoolError):
        again.settle("t3", False, True)


def test_an_update_that_carries_nothing_moves_nothing() -> None:
    spool = Spool(ForgetfulDisk(), "run-1")
    spool.prepare("t1", noise(1), m.UplinkSpec(), seed=1, version=0, report=lambda _carried: report())
    spool.commit("t1")
    spool.settle("t1", False, True)
    assert not variate(spool).any()


def test_a_hello_says_whether_this_disk_holds_a_variate_of_the_devices_own() -> None:
    disk = ForgetfulDisk()
    spool = Spool(disk, "run-1")
    keep_pair(spool, "t1", 1)
    assert not spool.restored().variate
    spool.settle("t1", False, True)
    assert Spool(disk.after_kill(), "run-1").restored().variate
    assert not Spool(ForgetfulDisk(), "run-1").restored().variate
    assert [hello.variate for hello in sent(Driver(Restored(variate=True)).log, m.Hello)] == [True]
    d = Driver()
    assert [hello.variate for hello in sent(d.log, m.Hello)] == [False]
    d.feed(e.Disconnected(reason="x"))
    d.feed(e.Connected())
    d.offered()
    d.acked()
    d.message(m.Outcome(task="t1", sha256=SHA["b"], outcome="merged", version=1))
    d.feed(e.Settled(task="t1", residual_norm=0.0, variate=True))
    (hello,) = sent(d.message(m.Resync(epoch=2)), m.Hello)
    assert hello.variate


def test_a_damaged_control_variate_is_left_out_and_fetched_or_begun_anew() -> None:
    disk = ForgetfulDisk()
    spool = Spool(disk, "run-1")
    spool.hold_control(hashlib.sha256(b"c0").hexdigest(), b"c0")
    assert spool.control() == b"c0"
    keep_pair(spool, "t1", 1)
    spool.settle("t1", False, True)
    for name in [name for name in disk.names() if name.startswith(("variate-", "control-"))]:
        disk.write(name, [b"x" * 4 * N])
    found = Spool(disk, "run-1")
    assert len(found.problems) == 2
    assert found.restored().control_sha256 is None
    assert not variate(found).any()
    with pytest.raises(SpoolError, match="the server's control variate is not held"):
        found.control()


# --- the work --------------------------------------------------------------------------------------------------------


def jobs_of(spool: Spool) -> Jobs:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 255, (32, 1, 28, 28)).astype(np.uint8)
    shard = Shard(x, rng.integers(0, 10, 32).astype(np.uint8))
    return Jobs(spool, shard, run="run-1", agent="d", threads=1)


def installed(jobs: Jobs, server: Any, artifact: bytes) -> m.ControlRef:
    """Graph, version 0 of zeros, and the server's control variate, as they come from the network."""
    zeros = versions.to_patterns(np.zeros(server.size, np.float32))
    whole, payload = versions.encode_full(zeros), versions.encode_full(versions.to_patterns(server))

    def named(name: str, content: bytes) -> m.ObjectRef:
        digest = hashlib.sha256(content).hexdigest()
        return m.ObjectRef(name=name, bytes=len(content), chunks=1, sha256=digest)

    reference = m.ModelRef(
        version=0, sha256=versions.version_sha256(zeros), parameters=server.size, dtype="fp16",
        full=named("v0", whole),
    )  # fmt: skip
    found = m.ControlRef(object=named("c0", payload), dtype="fp16")
    for install in (
        Install("t1", named("graph", artifact), None, None, artifact, 0.0),
        Install("t1", found.object, reference, None, payload, 0.0, found),
        Install("t1", reference.full, reference, 0, whole, 0.0),
    ):
        event = jobs.do(install, lambda _done, _total: True)
        assert isinstance(event, e.ObjectReady), event
        assert event.control == (install.control is not None)
    return found


def test_a_task_sends_both_vectors_and_counts_both() -> None:
    artifact = build_training_graph(build_model("mlp", 1), batch_size=16)
    spool = Spool(ForgetfulDisk(), "run-1")
    jobs, server = jobs_of(spool), np.float32(0.01) * noise(1, artifact.size)
    found = installed(jobs, server, artifact.to_bytes())
    spec = m.TrainSpec(local_steps=3, batch_size=artifact.batch_size, lr=0.1)
    train = a.Train(task="t1", spec=spec, seed=1, control=found)
    plain = jobs.train(a.Train(task="t1", spec=spec, seed=1), lambda _done, _total: True)
    corrected = jobs.train(train, lambda _done, _total: True)
    # A linear drift: three steps of 0.1 against c, for gradients that hardly change meanwhile.
    drift = corrected.delta - plain.delta
    assert np.corrcoef(drift, -server)[0, 1] > 0.9
    assert isinstance(jobs.do(train, lambda _done, _total: True), e.Trained)
    uplink = m.UplinkSpec(chain=uplink_spec(None, "none"))
    done = jobs.do(
        a.Encode(task="t1", version=0, uplink=uplink, fetch_s=0, fetch_bytes=0), lambda _d, _t: True
    )
    assert isinstance(done, e.Encoded), done
    spool.commit("t1")
    first, second = pair.split(spool.payload("t1"))
    assert done.bytes == len(spool.payload("t1"))
    assert done.report.raw_bytes == 8 * artifact.size
    change = decode(second, n=artifact.size).dense()
    half = server.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(decode(first, n=artifact.size).dense(), corrected.delta, atol=1e-4)
    np.testing.assert_allclose(change, -half - corrected.delta / 0.3, atol=2e-3)
    spool.settle("t1", False, True)
    moved = np.zeros(artifact.size, np.float32)
    spool.take_variate_from(moved)
    np.testing.assert_array_equal(-moved, change)
    again = jobs.correction(train, artifact.size)
    np.testing.assert_allclose(again, half - change, atol=1e-6)


@pytest.mark.parametrize("damage", ["cut", "nan", "short"])
def test_a_control_variate_that_is_none_fails_the_fetch(damage: str) -> None:
    jobs, n = jobs_of(Spool(ForgetfulDisk(), "run-1")), 40
    patterns = versions.to_patterns(np.ones(n if damage != "short" else n - 1, np.float32))
    if damage == "nan":
        patterns[3] = 0x7E00
    payload = versions.encode_full(patterns)
    payload = payload[:-3] if damage == "cut" else payload
    full = ref("v0")
    digest = hashlib.sha256(payload).hexdigest()
    named = m.ObjectRef(name="c0", bytes=len(payload), chunks=1, sha256=digest)
    reference = m.ModelRef(version=0, sha256=SHA["a"], parameters=n, dtype="fp16", full=full)
    found = m.ControlRef(object=named, dtype="fp16")
    event = jobs.do(Install("t1", named, reference, None, payload, 0.0, found), lambda _d, _t: True)
    assert isinstance(event, e.ObjectFailed), event
