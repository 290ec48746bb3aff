"""Golden stories of the agent's core: what it does, step by step, when everything goes right and when it does not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from agent_builders import SHA, Driver, grant, model, names, only, ref, report, sent, task

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.state import IllegalTransition, Item, Phase, Restored
from wire import messages as m


def test_the_whole_story_of_one_task() -> None:
    d = Driver()
    assert names(d.log) == ["hello"]
    assert names(d.message(task())) == ["progress t1:fetching", "FETCH graph-1"]
    assert names(d.ready("graph-1", version=None, sha="2")) == ["FETCH v0"]
    assert names(d.ready("v0")) == ["progress t1:training", "TRAIN t1"]
    assert names(d.feed(e.WorkProgressed(task="t1", done=3, total=7), 1.5)) == ["progress t1:training"]
    assert names(d.feed(e.WorkProgressed(task="t1", done=4, total=7), 0.2)) == []
    assert names(d.trained()) == ["progress t1:encoding", "ENCODE t1"]
    assert names(d.encoded()) == ["COMMIT t1"]
    assert names(d.spooled()) == ["progress t1:waiting", "offer t1"]
    assert names(d.message(grant())) == ["progress t1:uploading", "STARTUPLOAD t1"]
    d.feed(e.UploadDone(task="t1", sha256=SHA["b"], payload_bytes=1_224, chunks=4, resent=0))
    assert names(d.acked()) == ["MARKACKED t1"]
    over = m.Outcome(task="t1", sha256=SHA["b"], outcome="merged", version=1)
    assert names(d.message(over)) == ["SETTLE t1 keep sent"]
    assert names(d.settled()) == []
    assert d.core.state.items == {}
    recorded = [x.event for x in only(d.log, a.Record)]
    assert recorded == [
        "connected", "task_received", "model_fetched", "model_fetched", "trained", "encoded", "spooled", "sent",
        "acked", "settled",
    ]  # fmt: skip


def test_the_next_task_fetches_only_what_is_missing() -> None:
    d = Driver()
    d.offered()
    d.acked()
    chain = model(2, [ref("v0-v1", 100, 0), ref("v1-v2", 100, 1)], sha="c")
    assert names(d.message(task("t2", 2, model=chain))) == ["progress t2:fetching", "FETCH v0-v1"]
    assert names(d.ready("v0-v1", "t2", 1, "d")) == ["FETCH v1-v2"]
    assert "TRAIN t2" in names(d.ready("v1-v2", "t2", 2, "c"))
    d.feed(e.WorkFailed(task="t2", reason="loss nan"))
    assert "TRAIN t3" in names(d.message(task("t3", 3, model=chain)))


def test_a_delta_that_leads_nowhere_is_replaced_by_the_whole() -> None:
    d = Driver()
    d.offered()
    newer = model(1, [ref("v0-v1", 100, 0)], sha="c")
    assert "FETCH v0-v1" in names(d.message(task("t2", 2, model=newer)))
    assert names(d.feed(e.ObjectFailed(task="t2", name="v0-v1", reason="other bits"))) == ["FETCH v1"]
    d.feed(e.ObjectFailed(task="t2", name="v1", reason="other bits"))
    failed = d.feed(e.ObjectFailed(task="t2", name="v1", reason="other bits"))
    assert sent(failed, m.Failed)[0].reason == "cannot get v1: other bits"


@pytest.mark.parametrize("phase", ["fetching", "training", "encoding"])
def test_cancelled_while_working(phase: str) -> None:
    d = Driver()
    d.message(task())
    if phase != "fetching":
        d.fetched()
    if phase == "encoding":
        d.trained()
    assert names(d.message(m.Cancel(task="t1", reason="round over"))) == ["STOPWORK t1"]
    assert names(d.message(m.Cancel(task="t1"))) == []
    assert names(d.message(task("t2", 2))) == []  # waits until the worker lets go
    answer = d.encoded() if phase == "encoding" else d.feed(e.WorkStopped(task="t1"))
    assert names(answer)[0] == "DISCARD t1"
    assert d.core.state.hand is not None
    assert d.core.state.hand.task == "t2"
    assert names(d.message(task())) == []  # a late copy of the cancelled one


def test_cancelled_while_the_disk_is_writing() -> None:
    d = Driver()
    d.message(task())
    d.fetched()
    d.trained()
    d.encoded()
    assert names(d.message(m.Cancel(task="t1", reason="round over"))) == []
    assert "SETTLE t1 give back" in names(d.spooled())


def test_cancelled_after_the_offer_gives_the_content_back() -> None:
    d = Driver()
    d.offered()
    d.message(grant())
    assert names(d.message(m.Cancel(task="t1", reason="late"))) == ["STOPUPLOAD t1", "SETTLE t1 give back"]
    d.settled()
    assert names(d.message(task())) == []
    assert names(d.acked()) == []
    assert d.core.state.refused["unknown_task"] == 1


@pytest.mark.parametrize(
    ("kind", "decision"),
    [
        ("merged", "keep sent"),
        ("refused", "keep sent"),
        ("late", "give back"),
        ("surplus", "give back"),
        ("stale", "give back"),
    ],
)
def test_every_outcome_before_and_after_the_ack(kind: m.OutcomeKind, decision: str) -> None:
    for acked in (False, True):
        d = Driver()
        d.offered()
        if acked:
            d.acked()
        over = m.Outcome(task="t1", sha256=SHA["b"], outcome=kind)
        assert names(d.message(over)) == [f"SETTLE t1 {decision}"]
        assert names(d.message(over)) == []
        d.settled()
        assert names(d.message(over)) == []


def test_an_ack_of_other_content_settles_nothing() -> None:
    d = Driver()
    d.offered(sha="b")
    assert names(d.acked(sha="c")) == []
    assert d.core.state.items["t1"].phase is Phase.OFFERED
    # The earlier life's update was merged; ours was never taken: as if it had been cancelled.
    over = m.Outcome(task="t1", sha256=SHA["c"], outcome="merged", version=1)
    assert names(d.message(over)) == ["SETTLE t1 give back"]


def test_an_ack_of_a_task_in_hand_ends_work_that_nobody_needs() -> None:
    d = Driver()
    d.message(task())
    d.fetched()
    assert names(d.acked(sha="c")) == ["STOPWORK t1"]
    assert names(d.feed(e.WorkStopped(task="t1"))) == ["DISCARD t1"]


def test_reconnect_in_mid_upload_waits_for_a_new_grant() -> None:
    d = Driver()
    d.offered()
    d.message(grant())
    assert names(d.feed(e.Disconnected(reason="gone"))) == ["STOPUPLOAD t1"]
    assert names(d.message(grant())) == []  # a grant of the lost connection
    back = d.feed(e.Connected(session_present=False), 3.0)
    assert names(back) == ["hello", "offer t1"]
    assert sent(back, m.Hello)[0].spool == (m.SpoolItem(task="t1", sha256=SHA["b"], bytes=1_000),)
    (start,) = only(d.message(grant(missing=(3, 1, 1, 99))), a.StartUpload)
    assert start.missing == (1, 3)


def test_silence_about_an_offer_is_met_with_ever_rarer_ones() -> None:
    d = Driver()
    d.offered()
    moments = [d.now]
    while len(moments) < 8:
        d.now = d.core.next_wakeup(d.now)
        if sent(d.feed(e.Tick()), m.Offer):
            moments.append(d.now)
            d.message(m.Cancel(task="another"))  # it is there, it only does not answer this
    assert [b - a_ for a_, b in pairwise(moments)] == [5, 10, 20, 40, 60, 60, 60]


def test_an_unsettled_update_is_asked_for_every_15_s() -> None:
    d = Driver()
    d.offered()
    d.acked()
    moments = []
    start = d.now
    while d.now < start + 100:
        d.now = d.core.next_wakeup(d.now)
        if sent(d.feed(e.Tick()), m.Ask):
            moments.append(round(d.now - start))
    assert moments[:6] == [15, 30, 45, 60, 75, 90]


def test_resync_is_answered_with_everything() -> None:
    d = Driver()
    d.offered("t1", "b")
    d.acked("t1", "b")
    d.offered("t2", "c", 2)
    d.message(task("t3", 3))
    hello = sent(d.message(m.Resync(epoch=2)), m.Hello)[0]
    assert (hello.unsettled, [i.task for i in hello.spool], hello.task) == (("t1",), ["t2"], "t3")
    assert hello.version == 0


def test_four_unsettled_updates_are_the_most() -> None:
    d = Driver()
    for number in range(4):
        d.offered(f"t{number}", "b", number)
        d.acked(f"t{number}", "b")
    assert sent(d.message(task("t9", 9)), m.Failed)[0].reason == "4 updates still wait for their outcome"
    d.message(m.Outcome(task="t0", sha256=SHA["b"], outcome="merged"))
    d.settled("t0")
    assert "TRAIN t10" in names(d.message(task("t10", 10)))


def test_a_newer_task_takes_the_place_of_the_one_in_hand() -> None:
    d = Driver()
    d.message(task("t1", 1))
    d.fetched()
    assert names(d.message(task("t2", 2))) == ["STOPWORK t1"]
    assert "TRAIN t2" in names(d.feed(e.WorkStopped(task="t1")))
    late = d.message(task("t0", 1))
    assert "busy with t2" in sent(late, m.Failed)[0].reason
    assert sent(d.message(task("t1", 1)), m.Failed)[0].reason == "by t2"
    d.feed(e.WorkFailed(task="t2", reason="x"))
    assert "TRAIN t1" in names(d.message(task("t1", 1)))  # nothing else to do: it may return


def test_an_update_that_is_nearly_made_is_finished_beside_a_new_task() -> None:
    d = Driver()
    d.message(task("t1", 1))
    d.fetched()
    d.trained()
    assert names(d.message(task("t2", 2))) == []
    d.encoded()
    actions = names(d.spooled())
    assert "offer t1" in actions
    assert "TRAIN t2" in actions


def test_giving_back_waits_while_the_worker_uses_the_residual() -> None:
    d = Driver()
    d.offered("t1", "b")
    d.message(task("t2", 2))
    d.trained("t2")
    assert names(d.message(m.Cancel(task="t1"))) == []
    d.encoded("t2", "c")
    assert names(d.feed(e.Tick(), 5.0)) == []
    assert "SETTLE t1 give back" in names(d.spooled("t2", "c"))


def test_a_full_disk_costs_the_task_not_the_agent() -> None:
    d = Driver()
    d.message(task())
    d.fetched()
    d.trained()
    d.encoded()
    failed = d.feed(e.SpoolFailed(task="t1", reason="No space left on device"))
    assert names(failed) == ["DISCARD t1", "failed t1"]
    assert names(d.message(task())) == ["failed t1"]  # the coordinator missed it
    d.offered("t2", "c", 2)
    d.message(m.Cancel(task="t2"))
    d.feed(e.SettleFailed(task="t2", reason="No space left on device"))
    assert names(d.feed(e.Tick(), 9.0)) == []
    assert names(d.feed(e.Tick(), 1.0)) == ["SETTLE t2 give back"]


def test_a_task_sent_again_is_answered_with_what_there_is() -> None:
    d = Driver()
    d.message(task())
    assert names(d.message(task())) == ["progress t1:fetching"]
    d.fetched()
    d.trained()
    d.encoded()
    d.spooled()
    d.message(task())
    assert names(d.feed(e.Tick(), 1.1)) == ["offer t1"]
    d.acked()
    assert names(d.message(task())) == ["ask ('t1',)"]


def test_nothing_heard_for_long_means_hello() -> None:
    d = Driver()
    moments = [d.now]
    for _ in range(6):
        d.now = d.core.next_wakeup(d.now)
        if sent(d.feed(e.Tick()), m.Hello):
            moments.append(d.now)
    assert [b - a_ for a_, b in pairwise(moments)] == [15, 30, 60, 60, 60, 60]


def test_deadlines_long_gone_end_the_work() -> None:
    d = Driver()
    d.message(task(deadline_s=10.0))
    d.fetched()
    assert "STOPWORK t1" not in names(d.feed(e.Tick(), 69.0))
    given_up = d.feed(e.Tick(), 1.0)
    assert "STOPWORK t1" in names(given_up)
    assert "given up" in sent(given_up, m.Failed)[0].reason


def test_finish_stops_everything() -> None:
    d = Driver()
    d.offered()
    d.message(grant())
    d.message(task("t2", 2))
    assert names(d.message(m.Finish(reason="target reached"))) == ["STOPWORK t2", "STOPUPLOAD t1", "STOP"]
    assert d.message(task("t3", 3)) == []


def test_a_restart_goes_on_with_what_was_on_disk() -> None:
    items = (
        Item(task="t1", sha256=SHA["b"], bytes=10, report=report(), phase=Phase.ACKED, was_acked=True),
        Item(task="t2", sha256=SHA["c"], bytes=10, report=report()),
    )
    d = Driver(Restored(items=items, version=3, version_sha256=SHA["d"]))
    assert names(d.log) == ["hello", "offer t2", "ask ('t1',)"]
    (hello,) = sent(d.log, m.Hello)
    assert (hello.version, hello.unsettled) == (3, ("t1",))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (
            {
                "model": m.ModelRef(
                    version=1, sha256=SHA["a"], parameters=1 << 29, dtype="fp16", full=ref("v1")
                )
            },
            "too_large",
        ),
        (
            {
                "model": m.ModelRef(
                    version=1, sha256=SHA["a"], parameters=10, dtype="fp16", full=ref("v1", 1 << 20)
                )
            },
            "sizes",
        ),
        ({"graph": ref("graph-1", 1 << 28)}, "too_large"),
        ({"graph": ref("graph-1", 1)}, "sizes"),
        ({"train": m.TrainSpec(local_epochs=1, batch_size=1, lr=float("nan"))}, "numbers"),
        ({"train": m.TrainSpec(local_epochs=1, batch_size=1, lr=0.1, momentum=1.0)}, "numbers"),
    ],
)
def test_a_task_that_lies_or_asks_too_much_is_refused(changes: dict[str, object], code: str) -> None:
    d = Driver()
    refused = d.message(task(**changes))
    assert len(sent(refused, m.Failed)) == 1
    assert d.core.state.refused == {code: 1}
    assert d.core.state.hand is None


def test_our_own_bugs_raise_with_the_story() -> None:
    d = Driver()
    d.offered()
    with pytest.raises(IllegalTransition, match="offered -> training is not allowed"):
        d.core.state.go(d.core.state.items["t1"], Phase.TRAINING, 1.0, "wrong")
    with pytest.raises(AssertionError, match="a result for t1"):
        d.trained()


def test_messages_out_of_place_are_counted_and_change_nothing() -> None:
    d = Driver()
    d.offered()
    before = dict(d.core.state.items)
    for message in (
        grant("nobody"), grant("t1", "c"), m.Ack(task="nobody", sha256=SHA["b"]), m.Ack(task="t1", sha256=SHA["0"]),
        m.Cancel(task="stranger"), m.Outcome(task="other", sha256=None, outcome="late"),
    ):  # fmt: skip
        assert names(d.message(message)) == []
    assert d.core.state.items == before
    assert sum(d.core.state.refused.values()) == 4


def test_a_probe_ends_with_its_answer_and_says_it_again() -> None:
    d = Driver()
    probe = task("p1-v0-e1", probe=50)
    assert names(d.message(probe)) == ["progress p1-v0-e1:fetching", "FETCH graph-1"]
    assert names(d.fetched("p1-v0-e1")) == ["progress p1-v0-e1:training", "PROBE p1-v0-e1"]
    (order,) = only(d.log, a.Probe)
    assert (order.samples, order.seed) == (50, 1)
    answered = d.feed(e.Probed(task="p1-v0-e1", loss=2.5, samples=50, wall_s=0.1))
    answer = m.Probed(task="p1-v0-e1", loss=2.5, samples=50, fetch_bytes=2)
    assert sent(answered, m.Probed) == [answer]
    assert d.core.state.hand is None
    assert d.core.state.items == {}
    assert sent(d.message(probe), m.Probed) == [answer]
    assert not only(d.log, a.Discard)
    # What it fetched is there for the round that follows.
    assert names(d.message(task())) == ["progress t1:fetching", "progress t1:training", "TRAIN t1"]


def test_a_probe_that_is_cancelled_or_superseded_leaves_nothing() -> None:
    d = Driver()
    d.message(task("p1-v0-e1", probe=50))
    d.fetched("p1-v0-e1")
    assert names(d.message(task())) == ["STOPWORK p1-v0-e1"]
    late = d.feed(e.Probed(task="p1-v0-e1", loss=2.5, samples=50, wall_s=0.1))
    assert not sent(late, m.Probed)
    assert names(late)[-1] == "TRAIN t1"


def test_new_acks_do_not_put_off_the_question_about_old_ones() -> None:
    """Found by simulation: one lost outcome, an ack every few seconds, and the device never asked."""
    d = Driver()
    asked: list[m.Ask] = []
    for number in range(1, 5):
        d.message(task(f"t{number}", number))
        d.fetched()
        d.trained(f"t{number}")
        d.encoded(f"t{number}")
        d.spooled(f"t{number}")
        d.acked(f"t{number}")
        asked += sent(d.feed(e.Tick(), 10.0), m.Ask)
    assert [x.tasks for x in asked] == [("t1", "t2"), ("t1", "t2", "t3", "t4")]
