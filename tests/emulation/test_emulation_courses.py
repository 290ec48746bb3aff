"""Which links vary when: no clock, no link."""

from __future__ import annotations

from emulation.courses import Courses, varying
from topology.plan import Link, Shape, Sine, Step, Steps

STEPS = Steps(steps=(Step(at_s=1, rate_bit_s=500_000), Step(at_s=3, rate_bit_s=1_000_000)), repeat_s=4)
MOVING = Link(name="m", up=Shape(rate_bit_s=1_000_000, vary=(STEPS,)), down=Shape())
STILL = Link(name="s", up=Shape(delay_s=0.1), down=Shape())


def rate(link: Link | None) -> int | None:
    assert link is not None
    return link.up.rate_bit_s


def test_nothing_varies_before_the_start() -> None:
    courses = Courses({"a": MOVING, "b": STILL})
    assert courses.due(1e6) == []
    assert courses.at_s(5.0) == 0.0
    assert courses.now("a").up == Shape(rate_bit_s=1_000_000)


def test_only_changes_come_out_and_only_when_due() -> None:
    courses = Courses({"a": MOVING, "b": STILL})
    courses.start(100.0)
    assert courses.due(100.0) == ["a"]
    assert courses.advance("a", 100.0) is None  # its own numbers still
    assert courses.due(100.9) == []
    assert rate(courses.advance("a", 101.0)) == 500_000
    assert courses.due(102.9) == []
    assert rate(courses.advance("a", 107.5)) == 1_000_000  # looked at late: what it is then
    assert courses.advance("b", 107.5) is None


def test_a_held_link_waits_and_then_is_what_it_should_be_by_then() -> None:
    courses = Courses({"a": MOVING})
    courses.start(0.0)
    courses.advance("a", 0.0)
    with courses.held(["a"]):
        assert courses.due(1.5) == []
        assert courses.advance("a", 1.5) is None
        assert courses.now("a").up.rate_bit_s == 1_000_000
    assert courses.due(1.5) == ["a"]
    assert rate(courses.advance("a", 1.5)) == 500_000


def test_a_fault_ends_the_course_and_its_heal_takes_it_up_where_it_would_be() -> None:
    courses = Courses({"a": MOVING})
    courses.start(0.0)
    changed = Link(name="m, changed", up=Shape(rate_bit_s=9_000), down=Shape())
    assert rate(courses.follow("a", changed)) == 9_000
    assert courses.due(2.0) == []
    courses.follow("a", MOVING)
    assert courses.due(2.0) == ["a"]
    assert rate(courses.advance("a", 2.0)) == 500_000


def test_the_record_has_what_can_vary() -> None:
    sine = Sine(of="delay", amplitude=0.5, period_s=8, every_s=1)
    courses = Courses({"a": Link(name="x", up=Shape(delay_s=0.1, vary=(sine,)), down=Shape())})
    courses.start(0.0)
    link = courses.advance("a", 2.0)
    assert link is not None
    assert varying(link.up) == {"rate_bit_s": None, "delay_s": 0.15, "jitter_s": 0.0, "loss": 0.0}
