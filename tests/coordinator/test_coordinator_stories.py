"""Golden stories of the core, event by event, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_world import REPORT, make_config, sha

from coordinator import actions as a
from coordinator import events as e
from coordinator.config import CoordinatorConfig
from coordinator.core import CoordinatorCore, fresh_state
from coordinator.state import IllegalTransition, RunPhase, TaskState
from wire import messages as m
from wire.codecs import CodecSpec

S = TaskState


class Stage:
    """A core, its clock, and everything it has wanted so far. Commits return at once unless `hold` is set."""

    def __init__(self, config: CoordinatorConfig | None = None, **changes: Any) -> None:
        self.config = config or make_config(3, **changes)
        self.core = CoordinatorCore(self.config, fresh_state(self.config))
        self.now = 100.0
        self.done: list[a.Action] = []
        self.hold = False
        self.feed(e.Started())
        self.feed(e.Connected())

    def feed(self, event: e.Event) -> list[a.Action]:
        actions = self.core.handle(event, self.now)
        self.core.validate()
        self.done += actions
        for action in [] if self.hold else list(actions):
            if isinstance(action, a.JournalUpdate):
                done = e.UpdateJournalled(agent=action.agent, task=action.task, sha256=action.sha256)
                actions = actions + self.feed(done)
            elif isinstance(action, a.CommitVersion):
                actions = actions + self.feed(e.VersionCommitted(version=action.version, sha256=sha("v")))
        return actions

    def say(self, agent: str, message: m.Up) -> list[a.Action]:
        return self.feed(e.MessageArrived(agent=agent, message=message))

    def hello(self, agent: str, boot: str = "b1", **fields: Any) -> list[a.Action]:
        return self.say(agent, m.Hello(boot=boot, **fields))

    def everybody(self) -> None:
        for name in self.config.agents:
            self.hello(name)

    def task(self, agent: str) -> str:
        return self.core.state.agents[agent].task

    def state(self, task: str) -> TaskState:
        return self.core.state.tasks[task].state

    def offer(self, agent: str, content: str = "", size: int = 500, **report: Any) -> list[a.Action]:
        task = self.task(agent)
        kept = m.Report(**{**{f: getattr(REPORT, f) for f in REPORT.__struct_fields__}, **report})
        return self.say(agent, m.Offer(task=task, sha256=sha(content or task), bytes=size, report=kept))

    def receive(self, agent: str, content: str = "", defect: str = "") -> list[a.Action]:
        task = self.task(agent)
        event = e.UpdateReceived(
            agent=agent, task=task, sha256=sha(content or task), bytes=500, payload_bytes=560, chunks=1, defect=defect
        )  # fmt: skip
        return self.feed(event)

    def give(self, agent: str) -> list[a.Action]:
        self.offer(agent)
        return self.receive(agent)

    def wait(self, seconds: float) -> list[a.Action]:
        """Time passes, with a tick at every moment the core asked for."""
        end, actions = self.now + seconds, []
        while (wake := self.core.next_wakeup(self.now)) <= end:
            self.now = wake
            actions += self.feed(e.Tick())
        self.now = end
        return actions + self.feed(e.Tick())

    def offline(self, agent: str, boot: str = "b1") -> list[a.Action]:
        return self.say(agent, m.Status(online=False, boot=boot))


def sent(actions: list[a.Action], kind: type, agent: str | None = None) -> list[Any]:
    messages = [x.message for x in actions if isinstance(x, a.Send) and agent in (None, x.agent)]
    return [message for message in messages if isinstance(message, kind)]


def of(actions: list[a.Action], kind: type, **fields: Any) -> list[Any]:
    matching = [x for x in actions if isinstance(x, kind)]
    return [x for x in matching if all(getattr(x, key) == value for key, value in fields.items())]


def recorded(actions: list[a.Action], event: str) -> list[dict[str, Any]]:
    return [x.fields for x in actions if isinstance(x, a.Record) and x.event == event]


def test_a_round_opens_when_the_whole_cohort_said_hello_and_closes_with_its_last_update() -> None:
    stage = Stage()
    stage.hello("d-0")
    stage.hello("d-1")
    assert not of(stage.done, a.SendTask)
    opened = stage.hello("d-2")
    assert {x.agent for x in of(opened, a.SendTask)} == {"d-0", "d-1", "d-2"}
    first = [type(x) for x in opened].index(a.SendTask)
    assert a.JournalTask in [type(x) for x in opened[:first]], "a task is journalled before it is sent"
    stage.give("d-0")
    stage.give("d-1")
    closing = stage.give("d-2")
    assert [x.outcome for x in sent(closing, m.Outcome)] == ["merged"] * 3
    (commit,) = of(closing, a.CommitVersion)
    assert [item.agent for item in commit.updates] == ["d-0", "d-1", "d-2"]
    assert {(item.samples, item.factor) for item in commit.updates} == {(100, 1.0)}
    assert recorded(closing, "round_closed")[0]["reason"] == "complete"


def test_the_ack_leaves_only_after_the_commit_returned() -> None:
    stage = Stage()
    stage.everybody()
    stage.offer("d-0")
    stage.hold = True
    received = stage.receive("d-0")
    task = stage.task("d-0")
    assert of(received, a.JournalUpdate, task=task)
    assert not sent(received, m.Ack)
    acked = stage.feed(e.UpdateJournalled(agent="d-0", task=task, sha256=sha(task)))
    assert sent(acked, m.Ack, "d-0") == [m.Ack(task=task, sha256=sha(task))]


def test_a_killed_agent_that_comes_back_with_nothing_is_sent_the_same_task_in_the_same_round() -> None:
    stage = Stage(policy={"quorum": 1.0})
    stage.everybody()
    stage.offer("d-0")
    task = stage.task("d-0")
    stage.offline("d-0")
    stage.wait(12.0)
    assert stage.state(task) is S.GRANTED
    back = stage.hello("d-0", boot="b2")
    (again,) = of(back, a.SendTask, agent="d-0")
    assert again.task == task
    assert again.deadline_s == pytest.approx(18.0)
    assert of(back, a.DropAssembly, task=task)
    assert stage.state(task) is S.OPEN


def test_a_killed_agent_with_its_spool_is_granted_at_once() -> None:
    stage = Stage(policy={"quorum": 1.0})
    stage.everybody()
    task = stage.task("d-0")
    stage.offline("d-0")
    item = m.SpoolItem(task=task, sha256=sha("spooled"), bytes=400)
    back = stage.hello("d-0", boot="b2", spool=(item,))
    (grant,) = of(back, a.SendGrant)
    assert (grant.task, grant.sha256, grant.bytes) == (task, sha("spooled"), 400)
    assert not of(back, a.SendTask)


def test_a_round_with_its_quorum_waits_only_the_grace_for_an_agent_that_is_away() -> None:
    stage = Stage(policy={"quorum": 0.6})
    stage.everybody()
    gone = stage.task("d-2")
    stage.give("d-0")
    stage.give("d-1")
    stage.offline("d-2")
    assert not of(stage.wait(4.9), a.CommitVersion)
    closing = stage.wait(0.2)
    assert of(closing, a.CommitVersion)
    assert recorded(closing, "round_closed")[0]["missing"] == ["d-2"]
    assert stage.state(gone) is S.DROPPED
    told = stage.hello("d-2", boot="b2", task=gone)
    assert sent(told, m.Cancel, "d-2")[0].task == gone


def test_a_healed_agent_joins_the_round_that_opened_without_it() -> None:
    stage = Stage(policy={"quorum": 0.6})
    stage.everybody()
    stage.offline("d-2")
    stage.wait(6)
    stage.give("d-0")
    stage.give("d-1")
    stage.wait(6)
    assert stage.core.state.round is not None
    assert stage.core.state.round.number == 2
    back = stage.hello("d-2", boot="b2")
    (task,) = of(back, a.SendTask)
    assert (task.agent, task.round, task.version) == ("d-2", 2, 1)


def test_a_healed_agent_does_not_hold_up_a_round_that_can_do_without_it() -> None:
    stage = Stage(policy={"quorum": 0.6})
    stage.everybody()
    stage.offline("d-2")
    stage.wait(6)
    stage.give("d-0")
    stage.give("d-1")
    stage.give("d-0")
    back = stage.hello("d-2", boot="b2")
    assert not of(back, a.SendTask, agent="d-2")
    assert of(stage.give("d-1"), a.CommitVersion, round=2)


def test_a_restart_while_everybody_goes_waits_for_those_who_are_still_there() -> None:
    config = make_config(2)
    state = fresh_state(config)
    state.finish_reason = "rounds"
    core = CoordinatorCore(config, state)
    assert not of(core.handle(e.Started(resumed=True), 10.0), a.Stop)
    core.handle(e.Connected(), 11.0)
    asked = core.handle(e.MessageArrived(agent="d-0", message=m.Hello(boot="b1")), 12.0)
    assert sent(asked, m.Finish, "d-0")
    assert not of(core.handle(e.Tick(), core.next_wakeup(12.0)), a.Stop)
    gone = core.handle(e.MessageArrived(agent="d-0", message=m.Status(online=False, boot="b1")), 16.0)
    assert of(gone, a.Stop)


def test_gathering_says_whom_it_waits_for() -> None:
    stage = Stage(start_timeout_s=60.0)
    stage.hello("d-1")
    waits = recorded(stage.wait(11.0), "waiting")
    assert [[x["agent"] for x in wait["for"]] for wait in waits] == [["d-0", "d-2"]] * 2
    assert waits[0]["for"][0] == {"agent": "d-0", "phase": "absent", "since_s": 5.0, "until_s": 115.0}


def test_a_broken_last_will_of_an_old_boot_is_no_news() -> None:
    stage = Stage()
    stage.everybody()
    stage.hello("d-0", boot="b2")
    stage.offline("d-0", boot="b1")
    assert stage.core.state.agents["d-0"].online


def test_the_deadline_closes_with_a_quorum_and_cancels_the_slow() -> None:
    stage = Stage(policy={"quorum": 0.6, "deadline_s": 30.0})
    stage.everybody()
    stage.give("d-0")
    stage.give("d-1")
    slow = stage.task("d-2")
    assert not of(stage.wait(29.9), a.CommitVersion)
    closing = stage.wait(0.2)
    assert of(closing, a.CommitVersion)
    assert stage.state(slow) is S.TIMED_OUT
    assert sent(closing, m.Cancel, "d-2")[0].task == slow
    late = stage.say("d-2", m.Offer(task=slow, sha256=sha("x"), bytes=10, report=REPORT))
    assert sent(late, m.Cancel, "d-2")[0].task == slow


def test_an_update_whose_commit_returns_after_the_close_is_late() -> None:
    stage = Stage(policy={"quorum": 0.6, "deadline_s": 30.0})
    stage.everybody()
    stage.give("d-0")
    stage.give("d-1")
    stage.offer("d-2")
    stage.hold = True
    stage.receive("d-2")
    task = stage.task("d-2")
    closing = stage.wait(30.0)
    assert of(closing, a.CommitVersion)
    stage.feed(e.VersionCommitted(version=1, sha256=sha("v")))
    assert stage.state(task) is S.RECEIVED, "bytes on their way to the journal are never forgotten"
    settled = stage.feed(e.UpdateJournalled(agent="d-2", task=task, sha256=sha(task)))
    assert [type(x) for x in sent(settled, m.Ack | m.Outcome, "d-2")] == [m.Ack, m.Outcome]  # type: ignore[arg-type]
    assert sent(settled, m.Outcome)[0].outcome == "late"


def test_what_arrives_beyond_the_cohort_in_the_same_breath_is_surplus() -> None:
    stage = Stage(policy={"cohort": 2, "over_select": 1.5})
    stage.everybody()
    for name in ("d-0", "d-1", "d-2"):
        stage.offer(name)
    stage.hold = True
    tasks = [stage.task(name) for name in ("d-0", "d-1", "d-2")]
    for name in ("d-0", "d-1", "d-2"):
        stage.receive(name)
    stage.feed(e.UpdateJournalled(agent="d-2", task=tasks[2], sha256=sha(tasks[2])))
    closing = stage.feed(e.UpdateJournalled(agent="d-1", task=tasks[1], sha256=sha(tasks[1])))
    (commit,) = of(closing, a.CommitVersion)
    assert [item.task for item in commit.updates] == tasks[1:], "by arrival, not by the order of commits"
    after = stage.feed(e.UpdateJournalled(agent="d-0", task=tasks[0], sha256=sha(tasks[0])))
    assert sent(after, m.Outcome, "d-0")[0].outcome == "late"


def test_without_a_quorum_the_round_is_extended_three_times_and_then_the_run_fails() -> None:
    stage = Stage(policy={"quorum": 1.0, "deadline_s": 30.0})
    stage.everybody()
    stage.give("d-0")
    kept = [name for name in stage.core.state.tasks if stage.state(name) is S.ACKED]
    actions = stage.wait(30.5 * 4)
    assert len([x for x in recorded(actions, "lapse") if x["what"] == "round_deadline"]) == 3
    assert recorded(actions, "run_finished")[0]["reason"] == "failed"
    assert [x.outcome for x in sent(actions, m.Outcome)] == ["late"], "what was acked is settled even now"
    assert stage.state(kept[0]) is S.LATE
    assert {x.reason for x in sent(actions, m.Finish)} == {"failed"}
    (stop,) = of(stage.wait(20.0), a.Stop)
    assert not stop.ok


def test_nobody_comes_and_the_run_fails_with_their_names() -> None:
    stage = Stage(start_timeout_s=60.0)
    stage.hello("d-1")
    actions = stage.wait(121.0)
    assert recorded(actions, "run_finished")[0]["reason"] == "failed"
    assert "d-0, d-2" in recorded(actions, "lapse")[0]["detail"]


def test_a_failing_agent_is_replaced_but_not_for_ever() -> None:
    stage = Stage(policy={"quorum": 1.0})
    stage.everybody()
    for _ in range(2):
        stage.say("d-0", m.Failed(task=stage.task("d-0"), reason="no memory"))
    assert stage.task("d-0") == ""
    attempts = stage.core.state.round.attempts if stage.core.state.round else {}
    assert attempts["d-0"] == 2


def test_a_duplicate_is_acked_again_with_what_is_in_the_journal() -> None:
    stage = Stage()
    stage.everybody()
    task = stage.task("d-0")
    stage.give("d-0")
    again = stage.say("d-0", m.Offer(task=task, sha256=sha("retrained"), bytes=9, report=REPORT))
    assert sent(again, m.Ack) == [m.Ack(task=task, sha256=sha(task))]
    assert not of(again, a.JournalUpdate)
    assert not of(again, a.SendGrant)


def test_a_question_is_answered_once_there_is_an_answer() -> None:
    stage = Stage()
    stage.everybody()
    task = stage.task("d-0")
    stage.give("d-0")
    assert not sent(stage.say("d-0", m.Ask(tasks=(task,))), m.Outcome)
    stage.give("d-1")
    stage.give("d-2")
    (outcome,) = sent(stage.say("d-0", m.Ask(tasks=(task,))), m.Outcome)
    assert (outcome.outcome, outcome.version, outcome.sha256) == ("merged", 1, sha(task))
    assert sent(stage.hello("d-0", unsettled=(task,)), m.Outcome, "d-0") == [outcome]


def test_another_agents_task_is_nobodys() -> None:
    stage = Stage()
    stage.everybody()
    theirs = stage.task("d-1")
    stolen = stage.say("d-0", m.Offer(task=theirs, sha256=sha("x"), bytes=10, report=REPORT))
    assert of(stolen, a.Refused, agent="d-0", reason="not_its_task")
    assert stage.state(theirs) is S.OPEN
    assert of(stage.say("d-0", m.Failed(task=theirs, reason="")), a.Refused)
    assert of(stage.say("x-9", m.Failed(task=theirs, reason="")), a.Refused, reason="unknown_agent")


@pytest.mark.parametrize(("claimed", "counted"), [(10**12, 100.0), (100, 100.0), (7, 7.0)])
def test_a_claim_counts_up_to_what_the_shard_holds(claimed: int, counted: float) -> None:
    stage = Stage(policy={"cohort": 1})
    stage.everybody()
    (name,) = {task.agent for task in stage.core.state.tasks.values()}
    stage.offer(name, samples=claimed)
    (commit,) = of(stage.receive(name), a.CommitVersion)
    assert [item.samples for item in commit.updates] == [counted]


def test_devices_that_went_over_their_shards_five_times_weigh_as_their_shards_do() -> None:
    stage = Stage(make_config(2, samples={"d-0": 10, "d-1": 50}))
    stage.everybody()
    stage.offer("d-0", samples=5 * 10)
    stage.receive("d-0")
    stage.offer("d-1", samples=5 * 50)
    (commit,) = of(stage.receive("d-1"), a.CommitVersion)
    assert {item.agent: item.samples for item in commit.updates} == {"d-0": 10, "d-1": 50}


def test_a_claim_of_no_samples_and_a_defect_are_acked_and_then_refused() -> None:
    stage = Stage()
    stage.everybody()
    stage.offer("d-0", samples=0)
    empty = stage.receive("d-0")
    assert [x.outcome for x in sent(empty, m.Outcome, "d-0")] == ["refused"]
    stage.offer("d-1")
    defect = stage.receive("d-1", defect="NaN")
    assert [type(x) for x in sent(defect, m.Ack | m.Outcome, "d-1")] == [m.Ack, m.Outcome]  # type: ignore[arg-type]
    assert sent(defect, m.Outcome)[0].reason == "NaN"


def test_an_offer_that_is_too_large_is_refused_without_a_grant() -> None:
    stage = Stage()
    stage.everybody()
    refused = stage.offer("d-0", size=stage.config.update_bytes_max + 1)
    assert not of(refused, a.SendGrant)
    (outcome,) = sent(refused, m.Outcome, "d-0")
    assert (outcome.outcome, outcome.sha256) == ("refused", None)


def test_grants_stay_within_the_budget_and_go_in_the_order_of_offers() -> None:
    stage = Stage(open_grant_bytes_max=1_000)
    stage.everybody()
    assert of(stage.offer("d-2", size=600), a.SendGrant, agent="d-2")
    assert not of(stage.offer("d-0", size=600), a.SendGrant)
    assert not of(stage.offer("d-1", size=100), a.SendGrant), "the small one does not overtake"
    after = stage.receive("d-2")
    assert [x.agent for x in of(after, a.SendGrant)] == ["d-0", "d-1"]


def test_a_grant_without_chunks_is_repeated_and_broken_bytes_end_the_task() -> None:
    stage = Stage()
    stage.everybody()
    stage.offer("d-0")
    assert of(stage.wait(10.1), a.SendGrant, agent="d-0")
    task = stage.task("d-0")
    for _ in range(2):
        broken = stage.feed(e.UpdateBroken(agent="d-0", task=task, reason="sha256"))
        assert of(broken, a.SendGrant, agent="d-0")
    stage.feed(e.UpdateBroken(agent="d-0", task=task, reason="sha256"))
    assert stage.state(task) is S.FAILED


def test_a_task_without_a_sign_is_sent_again() -> None:
    stage = Stage()
    stage.everybody()
    stage.say("d-0", m.Progress(task=stage.task("d-0"), phase="training", done=0, total=1))
    again = {x.agent for x in of(stage.wait(10.1), a.SendTask)}
    assert again == {"d-1", "d-2"}


def test_a_device_that_lost_its_control_variate_is_named_once() -> None:
    """Under SCAFFOLD what it had moved c by stays in c for ever."""
    stage = Stage(control=CodecSpec(quantize="fp16"))
    for name in stage.config.agents:
        stage.hello(name, variate=False)
    for name in stage.config.agents:
        task = stage.task(name)
        stage.give(name)
    assert stage.core.state.version == 1

    def told(boot: str, **fields: Any) -> list[str]:
        return [x["node"] for x in recorded(stage.hello("d-2", boot, **fields), "lapse")]

    assert told("b1", variate=False) == [], "within a boot no disk is lost: this hello is an old one"
    assert told("b2", variate=False, unsettled=(task,)) == [], "what it has not settled has not moved it yet"
    assert told("b3", variate=True) == []
    assert told("b4", variate=False) == ["d-2"]
    assert told("b5", variate=False) == [], "the same loss"


def test_without_control_variates_nobody_can_lose_one() -> None:
    stage = Stage()
    stage.everybody()
    for name in stage.config.agents:
        stage.give(name)
    assert recorded(stage.hello("d-2", "b2", variate=False), "lapse") == []


def test_after_a_reconnect_nobody_counts_as_online_before_a_hello() -> None:
    stage = Stage()
    stage.everybody()
    actions = stage.feed(e.Connected())
    assert of(actions, a.Republish)
    assert len(sent(actions, m.Resync)) == 3
    assert not any(agent.online for agent in stage.core.state.agents.values())
    again = stage.hello("d-0")
    assert of(again, a.SendTask, agent="d-0"), "a task that the broker forgot is sent again"


def test_waiting_says_for_whom_how_long_and_until_when() -> None:
    stage = Stage()
    stage.everybody()
    stage.give("d-0")
    stage.offline("d-2")
    waits = recorded(stage.wait(11.0), "waiting")
    assert len(waits) == 2
    assert [(x["agent"], x["phase"]) for x in waits[0]["for"]] == [
        (task.agent, "away" if task.agent == "d-2" else "sent")
        for task in stage.core.state.tasks.values()
        if task.agent != "d-0"
    ]
    assert waits[0]["for"][0]["until_s"] == pytest.approx(25.0)


def test_goodbye_waits_for_the_agents_and_answers_those_who_ask() -> None:
    stage = Stage(rounds=1)
    stage.everybody()
    for name in stage.config.agents:
        stage.give(name)
    assert stage.core.state.phase is RunPhase.EVALUATING
    end = stage.feed(e.Evaluated(version=1, accuracy=0.5, loss=1.0, samples=10))
    assert recorded(end, "run_finished") == [{"reason": "rounds", "version": 1, "accuracy": 0.5}]
    assert len(sent(end, m.Finish)) == 3
    stage.offline("d-0")
    again = stage.hello("d-1", boot="b2")
    assert sent(again, m.Finish, "d-1")
    stage.offline("d-1", boot="b2")
    (stop,) = of(stage.offline("d-2"), a.Stop)
    assert stop.ok


def test_an_illegal_transition_tells_the_story() -> None:
    stage = Stage()
    stage.everybody()
    task = stage.core.state.tasks[stage.task("d-0")]
    with pytest.raises(IllegalTransition, match=r"open -> merged is not allowed(.|\n)*version 0"):
        task.go(S.MERGED, 1.0, "never")


def test_every_action_names_the_event_that_caused_it() -> None:
    stage = Stage()
    actions = stage.core.handle(e.MessageArrived(id=77, agent="d-0", message=m.Hello(boot="b1")), stage.now)
    assert actions
    assert {x.cause for x in actions} == {77}
    ids = [x.id for x in stage.done + actions]
    assert ids == sorted(set(ids))


def test_who_waits_for_a_grant_gets_the_room_of_a_task_that_ran_out_of_time() -> None:
    policy = {"kind": "buffered", "concurrency": 3, "buffer": 2}
    stage = Stage(policy=policy, open_grant_bytes_max=1_600)
    stage.everybody()
    stage.offer("d-0", size=1_000)
    stage.now += 10.0
    stage.say("d-1", m.Failed(task=stage.task("d-1"), reason="no memory"))  # and is given a younger one
    assert not of(stage.offer("d-1", size=1_000), a.SendGrant)
    assert of(stage.wait(20.0), a.SendGrant, agent="d-1")


def test_who_waits_for_a_grant_gets_the_room_of_an_update_that_grew_too_large() -> None:
    stage = Stage(open_grant_bytes_max=1_600)
    stage.everybody()
    stage.offer("d-0", size=1_000)
    assert not of(stage.offer("d-1", size=1_000), a.SendGrant)
    assert of(stage.offer("d-0", content="others", size=1 << 29), a.SendGrant, agent="d-1")
