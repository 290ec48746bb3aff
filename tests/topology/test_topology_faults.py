"""Faults as written: targets, triggers, what is drawn, what contradicts; each a whole file through all checks."""

from __future__ import annotations

import contextlib
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.host import Host, host_problems
from topology.plan import FaultPlan, Plan, Trigger
from topology.plan.faults import HOLDS, contradict
from topology.schema.faults import FAULTS, parse_when
from topology.validate import parse_topology

FILE = """
name: faults
seed: {seed}
devices:
  pi4: {{profile: raspberry-pi-4, count: 3, link: {{profile: home-wifi, loss: 1 %}}}}
  zero: {{profile: raspberry-pi-zero-2w, count: 4, link: 3g}}
data: {{dataset: mnist-mini}}
model: mlp
training: {{rounds: 10}}
faults:
{faults}
"""


def plan_of(*faults: str, seed: int = 1) -> Plan:
    text = FILE.format(seed=seed, faults="\n".join(f"  - {{{fault}}}" for fault in faults))
    return compile_topology(parse_topology(text).topology, "r")


def errors_of(*faults: str) -> dict[str, str]:
    with pytest.raises(TopologyErrors) as caught:
        plan_of(*faults)
    return {error.path: error.message for error in caught.value.errors}


def hit(aim: str, seed: int = 1) -> tuple[str, ...]:
    comes_back = "" if aim == "hostd" else ", heal_after: 1 s"
    return plan_of(f"at: 1 s, kill: {aim}{comes_back}", seed=seed).faults[0].targets


ZEROES = ("zero-1", "zero-2", "zero-3", "zero-4")
ALL = ("pi4-1", "pi4-2", "pi4-3", *ZEROES)


@pytest.mark.parametrize(
    ("aim", "targets"),
    [
        ("pi4-2", ("pi4-2",)),
        ('"zero-*"', ZEROES),
        ("everyone", ALL),
        ("broker", ("broker",)),
        ("{service: coordinator}", ("coordinator",)),
        ("hostd", ("hostd",)),
        ("{group: zero}", ZEROES),
        ("{profile: raspberry-pi-4}", ("pi4-1", "pi4-2", "pi4-3")),
    ],
)
def test_targets_by_name_glob_group_profile_and_service(aim: str, targets: tuple[str, ...]) -> None:
    assert hit(aim) == targets


@pytest.mark.parametrize(
    ("aim", "count"),
    [
        ("one", 1),
        ("majority", 4),
        ("{group: zero, pick: majority}", 3),
        ("{device: '*', pick: 30 %}", 3),
        ("{group: zero, pick: 0.5}", 2),
        ("{group: zero, count: 2}", 2),
    ],
)
def test_picks_take_so_many_by_the_seed(aim: str, count: int) -> None:
    assert len(hit(aim)) == count
    assert hit(aim) == hit(aim)
    assert len({hit(aim, seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("round 3 collecting", Trigger(round=3, state="collecting")),
        ("40 % of bytes sent", Trigger(bytes_share=0.4)),
        ("12.5% of bytes sent", Trigger(bytes_share=0.125)),
        ("5 updates merged", Trigger(updates_merged=5)),
        ("1 update merged", Trigger(updates_merged=1)),
        ("version 4", Trigger(version=4)),
    ],
)
def test_triggers(text: str, trigger: Trigger) -> None:
    assert parse_when(text) == trigger
    assert plan_of(f"when: {text}, pause: pi4-1, heal_after: 1 s").faults[0].trigger == trigger


@given(st.text(max_size=30))
def test_no_text_breaks_the_trigger_parser(text: str) -> None:
    with contextlib.suppress(PydanticCustomError):
        assert parse_when(text).text


def test_a_link_change_keeps_what_it_does_not_name() -> None:
    (fault,) = plan_of(
        "at: 1 s, link_change: {device: pi4-1, link: {up: 200 kbit/s}}, heal_after: 1 s"
    ).faults
    changed = fault.params.links["pi4-1"]
    planned = plan_of("at: 1 s, kill: pi4-1").device("pi4-1").link
    assert changed.up.rate_bit_s == 200_000
    assert (changed.up.loss, changed.up.delay_s) == (0.01, planned.up.delay_s)
    assert changed.down == planned.down


def test_a_link_change_to_a_profile_is_that_profile_alone() -> None:
    (fault,) = plan_of('at: 1 s, link_change: {device: "*", link: 3g}, heal_after: 1 s').faults
    assert {link.up.loss for link in fault.params.links.values()} == {0.0}
    assert set(fault.params.links) == set(ALL)


def test_every_kind_can_be_written_and_brings_its_keys() -> None:
    more = {
        "link_change": "link: 3g",
        "poison": "how: scaled, factor: 50",
        "clock_offset": "offset: -2 h",
        "late_delivery": "delay: 7 s",
        "corrupt_payload": "share: 25 %",
        "cpu_slowdown": "factor: 0.5",
    }
    entries = [
        f"at: {10 * number} s, {kind}: {{device: pi4-1, {more.get(kind, '')}}}, heal_after: 1 s"
        for number, kind in enumerate(FAULTS, start=1)
    ]
    found = {fault.kind: fault.params for fault in plan_of(*entries).faults}
    assert set(found) == set(FAULTS)
    assert (found["poison"].how, found["poison"].factor) == ("scaled", 50.0)
    assert found["clock_offset"].offset_s == -7200.0
    assert found["late_delivery"].delay_s == 7.0
    assert found["corrupt_payload"].share == 0.25


# --- drawn --------------------------------------------------------------------------------------------------

CHURN = "churn: {device: 'zero-*', every: 60 s, down: 10 s, during: 20 min}"


def test_churn_is_a_poisson_process_per_device_and_the_same_for_the_same_seed() -> None:
    faults = plan_of(CHURN).faults
    assert faults == plan_of(CHURN).faults != plan_of(CHURN, seed=2).faults
    assert {fault.kind for fault in faults} == {"kill"}
    gaps, downs = [], []
    for device in ZEROES:
        mine = [fault for fault in faults if fault.targets == (device,)]
        ends = [0.0, *(fault.trigger.at_s + fault.heal_after_s for fault in mine)]  # type: ignore[operator]
        gaps += [fault.trigger.at_s - end for fault, end in zip(mine, ends, strict=False)]  # type: ignore[operator]
        downs += [fault.heal_after_s or 0.0 for fault in mine]
    assert len(gaps) > 40
    assert min(gaps) >= 0
    assert 40 < statistics.mean(gaps) < 90
    assert 6 < statistics.mean(downs) < 15
    assert max(fault.trigger.at_s or 0.0 for fault in faults) < 1200


def test_a_random_plan_never_contradicts_itself() -> None:
    entry = (
        "at: 5 s, random: {count: 60, kinds: [kill, pause, partition, cpu_slowdown, restart], during: 200 s, "
        "heal_after: 8 s}"
    )
    faults = plan_of(entry).faults
    assert faults == plan_of(entry).faults
    assert len(faults) >= 50
    assert {fault.kind for fault in faults} == {"kill", "pause", "partition", "cpu_slowdown", "restart"}
    assert all(5 <= (fault.trigger.at_s or 0.0) <= 205 for fault in faults)
    for one in faults:
        for other in faults:
            assert one is other or not overlap(one, other)


def overlap(one: FaultPlan, other: FaultPlan) -> bool:
    begin, second = one.trigger.at_s or 0.0, other.trigger.at_s or 0.0
    lasting = begin <= second < begin + (one.heal_after_s or 0.1)
    return lasting and one.targets == other.targets and contradict(other.kind, one.kind)


def test_a_seed_of_its_own_keeps_a_random_plan_whatever_the_runs_seed() -> None:
    entry = "random: {count: 5, kinds: [kill], during: 100 s, seed: 4}"
    assert plan_of(entry, seed=1).faults == plan_of(entry, seed=2).faults


# --- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("at: 5 s, kill: pi4-1, heal_after: 10 s", "at: 9 s, pause: pi4-1, heal_after: 1 s"),
        ("at: 5 s, partition: '*', heal_after: 10 s", "at: 9 s, flap: pi4-1, heal_after: 1 s"),
        ("at: 5 s, kill: pi4-1", "at: 900 s, cpu_slowdown: pi4-1"),
        ("when: version 3, stop: {group: zero}, heal_after: 1 s", "when: version 3, restart: zero-2"),
        ("at: 1 s, kill: broker, heal_after: 9 s", "at: 2 s, pause: broker, heal_after: 9 s"),
        ("when: version 2, kill: pi4-1", "when: version 5, pause: pi4-1, heal_after: 1 s"),
        ("when: 5 updates merged, stop: pi4-1", "when: 6 updates merged, poison: {device: pi4-1, how: nan}"),
        ("at: 5 s, kill: hostd", "at: 5.1 s, kill: hostd"),
    ],
)
def test_contradictions_are_found_where_times_are_known(first: str, second: str) -> None:
    assert "contradicts" in errors_of(first, second)["faults[1]"]


def test_what_fits_together_is_let_through() -> None:
    plan = plan_of(
        "at: 5 s, cpu_slowdown: pi4-1, heal_after: 10 s",
        "at: 6 s, pause: pi4-1, heal_after: 1 s",
        "at: 6 s, partition: pi4-1, heal_after: 10 s",
        "at: 16 s, flap: pi4-1, heal_after: 1 s",
        "at: 6 s, kill: pi4-2, heal_after: 1 s",
        "when: round 2 training, kill: pi4-1, heal_after: 1 s",
        "at: 5 s, kill: hostd",  # Docker starts it again: the second needs no heal of the first
        "at: 60 s, kill: hostd",
        "when: version 2, kill: pi4-3, heal_after: 1 s",
        "when: version 5, kill: pi4-3",
    )
    assert [fault.kind for fault in plan.faults].count("kill") == 6
    assert len(plan.faults) == 10


@pytest.mark.parametrize(
    ("fault", "path", "says"),
    [
        ("when: version 11, kill: pi4-1", "faults[0].when", "ends after round 10"),
        ("at: 2 h, kill: pi4-1", "faults[0].at", "the run is over after"),
        ("when: 71 updates merged, kill: pi4-1", "faults[0].when", "at most 70 updates"),
        ("when: 100 % of bytes sent, kill: pi4-1", "faults[0].when", "not a share"),
        ("when: 40 % of bytes sent, kill: broker", "faults[0].when", "sends no update"),
        ("when: round 3 resting, kill: pi4-1", "faults[0].when", "not a state"),
        ("at: 1 s, partition: broker", "faults[0].partition.service", "cannot hit the broker"),
        ("at: 1 s, pause: hostd", "faults[0].pause.service", "cannot hit the hostd"),
        ("at: 1 s, kill: hostd, heal_after: 2 s", "faults[0].heal_after", "by itself"),
        ("at: 1 s, kill: {group: pi5}", "faults[0].kill.group", "matches no device"),
        ("at: 1 s, kill: {profile: laptop-x}", "faults[0].kill.profile", "no such device profile"),
        ("at: 1 s, kill: {profile: raspberry-pi-5}", "faults[0].kill.profile", "matches no device"),
        ("at: 1 s, kill: {device: pi4-1, group: pi4}", "faults[0].kill", "more than one"),
        ("at: 1 s, kill: {group: pi4, count: 1, pick: one}", "faults[0].kill", "both"),
        ("at: 1 s, kill: {group: pi4, pick: some}", "faults[0].kill.pick", "not a way to pick"),
        ("at: 1 s, link_change: {device: pi4-1, link: {}}", "faults[0].link_change.link", "nothing would"),
        ("at: 1 s, clock_offset: {device: pi4-1, offset: 0 s}", "faults[0].clock_offset.offset", "offset"),
        ("at: 1 s, poison: {device: pi4-1, how: badly}", "faults[0].poison.how", "not allowed"),
        ("at: 1 s, kill: {service: broker, count: 3}, heal_after: 1 s", "faults[0].kill.count", "one broker"),
        ("at: 1 s, kill: coordinator", "faults[0]", "nobody brings the coordinator back"),
        ("at: 1 s, pause: broker", "faults[0]", "nobody brings the broker back"),
        ("at: 1 s, kill: pi4-1, heal_after: 1 ms", "faults[0].heal_after", "needs a turn"),
        ("at: 1 s, flap: {device: pi4-1, period: 1 us}", "faults[0].flap.period", "greater than or equal"),
        ("at: 1 s, poison: {device: pi4-1, how: nan, factor: 5}", "faults[0].poison.factor", "multiplies by"),
        ("at: 1 s, cpu_slowdown: {device: pi4-1, factor: 0.01}", "faults[0].cpu_slowdown", "cannot give so"),
        (
            "random: {count: 3, kinds: [kill], during: 1 h}",
            "faults[0].random.during",
            "the run is over after",
        ),
        (
            "at: 40 min, churn: {device: '*', every: 60 s, down: 1 s, during: 9 min}",
            "faults[0].churn.during",
            "the run is over after",
        ),
        (
            "churn: {device: '*', every: 1 us, down: 1 us, during: 10 min}",
            "faults[0].churn.every",
            "takes 2000",
        ),
        (f"when: version 2, {CHURN}", "faults[0].when", "draws its own times"),
        ("churn: {device: x-*, every: 1 s, down: 1 s, during: 9 s}", "faults[0].churn.device", "matches no"),
    ],
)
def test_bad_faults_are_named_with_their_path(fault: str, path: str, says: str) -> None:
    found = errors_of(fault)
    assert says in found[path], found


@pytest.mark.parametrize(
    ("link", "path", "says"),
    [
        ("{jitter: 5 s}", "jitter", "larger than the delay"),
        ("{queue: 1 B}", "queue", "less than two full frames"),
        ("{vary: {sine: {of: delay, amplitude: 9 %, period: 1 us}}}", "vary", "another wave"),
        ("{profile: unshaped, queue: 50 ms}", "queue", "needs a rate"),
        ("{up: 15 Mbit/s, loss: 1 %}", "", "nothing would change"),
        ("{profile: home-wifi, loss: 1 %}", "", "nothing would change"),
    ],
)
def test_a_link_that_a_fault_brings_is_held_to_the_same_rules(link: str, path: str, says: str) -> None:
    found = errors_of(f"at: 1 s, link_change: {{device: pi4-1, link: {link}}}, heal_after: 5 s")
    assert says in found[".".join(filter(None, ["faults[0].link_change.link", path]))], found


def test_a_link_change_that_changes_one_group_only_is_let_through() -> None:
    plan = plan_of(
        "at: 1 s, link_change: {device: '*', link: {profile: home-wifi, loss: 1 %}}, heal_after: 5 s"
    )
    assert [fault.kind for fault in plan.faults] == ["link_change"]


@pytest.mark.parametrize("works", ["nfqueue", "netem"])
def test_what_a_fault_asks_of_a_link_and_the_backend_cannot_do_is_refused_by_name(works: str) -> None:
    fault = "at: 1 s, link_change: {device: pi4-1, link: {duplicate: 5 %}}, heal_after: 5 s"
    topology = parse_topology(FILE.format(seed=1, faults=f"  - {{{fault}}}")).topology
    host = Host(cores=16, memory_bytes=64 << 30, link_backends=(works, "none"))
    found = [(problem.path, problem.message) for problem in host_problems(topology, host, "docker")]
    assert bool(found) == (works == "nfqueue")
    assert all(path == ("faults", 0, "link_change") and "duplicate" in text for path, text in found)


def test_every_held_kind_exists() -> None:
    assert set(HOLDS) <= set(FAULTS)
