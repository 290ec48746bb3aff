"""The fault core: triggers and heals, in virtual time."""

from __future__ import annotations

from typing import Any

from emulation.faults.core import Apply, FaultCore, Heal
from history.events import Event
from topology.plan import FaultPlan, Trigger


def event(name: str, at: float, **fields: Any) -> Event:
    return Event(node="coordinator", boot="b", seq=0, mono_s=at, wall_s=at, event=name, fields=fields)


def kill(trigger: Trigger, *targets: str, heal: float | None = 5.0, fault_id: str = "f") -> FaultPlan:
    return FaultPlan(id=fault_id, kind="kill", trigger=trigger, targets=targets, heal_after_s=heal)


def feed(core: FaultCore, *events: Event, late: float = 0.0) -> list[Apply | Heal]:
    return [action for one in events for action in core.handle(one, one.mono_s + late)]


def round_opened(number: int, at: float, *cohort: str) -> list[Event]:
    opened = event("round_opened", at, round=number, cohort=list(cohort))
    tasks = [event("task_opened", at, task=f"r{number}-{a}", agent=a, round=number) for a in cohort]
    return [opened, *tasks]


def progress(number: int, agent: str, at: float, phase: str = "training") -> Event:
    return event("task_progress", at, task=f"r{number}-{agent}", agent=agent, phase=phase)


def closed(number: int, agent: str, at: float) -> Event:
    return event("task_closed", at, task=f"r{number}-{agent}", agent=agent, round=number, state="merged")


def test_time_counts_from_the_first_round_and_lateness_from_the_due_moment() -> None:
    core = FaultCore([kill(Trigger(at_s=10.0), "a")])
    assert core.tick(100.0) == []
    assert feed(core, *round_opened(1, 50.0, "a"), *round_opened(2, 55.0, "a")) == []
    assert core.tick(59.99) == []
    (apply,) = core.tick(60.25)
    assert isinstance(apply, Apply)
    assert (apply.fault.id, apply.lateness_s, apply.round) == ("f", 0.25, 2)
    assert core.tick(61.0) == []


def test_heals_after_its_time_and_only_once() -> None:
    core = FaultCore([kill(Trigger(at_s=0.0), "a", heal=5.0)])
    (apply,) = feed(core, *round_opened(1, 10.0, "a"))
    assert isinstance(apply, Apply)
    assert core.tick(14.9) == []
    assert core.tick(15.0) == [Heal(apply.fault)]
    assert core.tick(16.0) == []
    assert core.finish() == []


def test_training_waits_for_a_target_that_trains() -> None:
    core = FaultCore([kill(Trigger(round=2, state="training"), "a")])
    early = [*round_opened(1, 0.0, "a", "b"), progress(1, "a", 1.0), closed(1, "a", 2.0)]
    assert feed(core, *early, event("round_closed", 3.0, round=1)) == []
    assert (
        feed(core, *round_opened(2, 4.0, "a", "b"), progress(2, "b", 5.0), progress(2, "a", 5.0, "fetching"))
        == []
    )
    (apply,) = feed(core, progress(2, "a", 6.0), late=0.1)
    assert isinstance(apply, Apply)
    assert apply.round == 2
    assert abs(apply.lateness_s - 0.1) < 1e-9


def test_a_target_that_had_finished_is_hit_in_a_later_round() -> None:
    core = FaultCore([kill(Trigger(round=1, state="collecting"), "a")])
    quick = [*round_opened(1, 0.0, "a", "b"), closed(1, "a", 1.0), progress(1, "b", 2.0)]
    offered = event("update_offered", 3.0, task="r1-b", agent="b")
    assert feed(core, *quick, offered, event("round_closed", 4.0, round=1)) == []
    assert feed(core, *round_opened(2, 5.0, "b"), progress(2, "b", 6.0)) == []  # not in this cohort either
    (apply,) = feed(
        core, event("round_closed", 7.0, round=2), *round_opened(3, 8.0, "a", "b"), progress(3, "b", 9.0)
    )
    assert isinstance(apply, Apply)
    assert apply.round == 3


def test_collecting_is_the_first_offer_or_half_of_the_cohort_training() -> None:
    for last in (event("update_offered", 3.0, task="r1-c", agent="c"), progress(1, "b", 3.0)):
        core = FaultCore([kill(Trigger(round=1, state="collecting"), "a")])
        assert feed(core, *round_opened(1, 0.0, "a", "b", "c", "d"), progress(1, "c", 1.0)) == []
        assert len(feed(core, last)) == 1


def test_a_service_is_hit_as_soon_as_any_device_trains() -> None:
    core = FaultCore([kill(Trigger(round=1, state="training"), "broker")])
    assert feed(core, *round_opened(1, 0.0, "a")) == []
    assert len(feed(core, progress(1, "a", 1.0))) == 1


def test_closed_fires_at_the_close() -> None:
    core = FaultCore([kill(Trigger(round=1, state="closed"), "a")])
    assert feed(core, *round_opened(1, 0.0, "a"), progress(1, "a", 1.0), closed(1, "a", 2.0)) == []
    assert len(feed(core, event("round_closed", 3.0, round=1))) == 1


def test_the_final_heal_takes_everything_back_latest_first_and_nothing_fires_after_it() -> None:
    first, second = (kill(Trigger(at_s=float(i)), "a", heal=None, fault_id=f"f{i}") for i in range(2))
    never = kill(Trigger(round=9, state="closed"), "a", fault_id="never")
    core = FaultCore([first, second, never])
    feed(core, *round_opened(1, 0.0, "a"))
    core.tick(2.0)
    assert core.active == (first, second)
    assert core.finish() == [Heal(second, final=True), Heal(first, final=True)]
    assert core.tick(1e6) == []
    assert feed(core, event("round_closed", 5.0, round=9)) == []


def test_what_was_fired_before_a_restart_is_not_fired_again() -> None:
    core = FaultCore([kill(Trigger(at_s=0.0), "a")], done=["f"])
    assert feed(core, *round_opened(1, 0.0, "a")) == []
    assert core.armed == ()


def test_broken_fields_are_no_trigger() -> None:
    core = FaultCore([kill(Trigger(round=1, state="training"), "a")])
    broken = [
        event("round_opened", 0.0),
        event("task_progress", 1.0, task=None),
        event("round_closed", 2.0, round="x"),
    ]
    assert feed(core, *broken) == []


def granted(number: int, agent: str, at: float, size: int) -> list[Event]:
    task = f"r{number}-{agent}"
    return [
        event("update_offered", at, task=task, agent=agent, bytes=size),
        event("update_granted", at, task=task, agent=agent),
    ]


def test_a_share_of_the_bytes_counts_from_the_grant_of_the_target_alone() -> None:
    core = FaultCore([kill(Trigger(bytes_share=0.4), "a")])
    assert core.watched() == {"a"}
    feed(core, *round_opened(1, 0.0, "a", "b"))
    assert core.sent("a", 50_000, 1.0) == []  # the model's acknowledgements, before any upload
    feed(core, *granted(1, "b", 1.5, 10_000), *granted(1, "a", 2.0, 10_000))
    assert core.sent("b", 90_000, 2.1) == []
    assert core.sent("a", 53_999, 2.2) == []
    (apply,) = core.sent("a", 54_000, 2.3)
    assert isinstance(apply, Apply)
    assert apply.round == 1
    assert core.watched() == frozenset()


def test_an_upload_that_was_over_before_it_was_seen_is_not_hit_and_the_next_one_is() -> None:
    core = FaultCore([kill(Trigger(bytes_share=0.4), "a")])
    feed(core, *round_opened(1, 0.0, "a"))
    core.sent("a", 1_000, 0.5)
    feed(core, *granted(1, "a", 1.0, 10_000), event("update_received", 1.1, task="r1-a", agent="a"))
    assert core.sent("a", 20_000, 1.2) == []
    feed(core, *round_opened(2, 2.0, "a"), *granted(2, "a", 3.0, 10_000))
    assert len(core.sent("a", 24_000, 3.1)) == 1


def test_a_counter_that_begins_anew_is_no_upload() -> None:
    core = FaultCore([kill(Trigger(bytes_share=0.1), "a")])
    core.sent("a", 9_000, 0.5)
    feed(core, *round_opened(1, 0.0, "a"), *granted(1, "a", 1.0, 10_000))
    assert core.sent("a", 100, 2.0) == []  # restarted: another veth
    assert core.sent("a", 9_000, 3.0) == []


def committed(version: int, at: float, updates: int) -> Event:
    return event("version_committed", at, version=version, updates=[{"task": str(n)} for n in range(updates)])


def test_updates_merged_and_versions_fire_with_the_commit_that_reaches_them() -> None:
    core = FaultCore(
        [
            kill(Trigger(updates_merged=5), "a", fault_id="five"),
            kill(Trigger(version=3), "a", fault_id="third"),
        ]
    )
    assert feed(core, committed(1, 1.0, 3)) == []
    (five,) = feed(core, committed(2, 2.0, 2), late=0.2)
    (third,) = feed(core, committed(3, 3.0, 2))
    assert isinstance(five, Apply)
    assert isinstance(third, Apply)
    assert (five.fault.id, third.fault.id) == ("five", "third")
    assert abs(five.lateness_s - 0.2) < 1e-9


def test_a_fault_by_hand_strikes_at_once_and_is_healed_in_time_or_by_hand() -> None:
    core = FaultCore([])
    feed(core, *round_opened(4, 0.0, "a"))
    apply = core.inject(kill(Trigger(), "a", heal=5.0, fault_id="hand"), 10.0)
    assert (apply.round, apply.lateness_s) == (4, 0.0)
    assert core.tick(14.9) == []
    assert core.heal_now("other") is None
    assert core.heal_now("hand") == Heal(apply.fault)
    assert core.tick(16.0) == []
