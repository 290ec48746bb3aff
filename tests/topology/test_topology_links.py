"""The link model: what may be written, how it resolves, what it draws at random, how it varies. No clock."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topology import traces
from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.host import Host
from topology.link_features import CANNOT, FEATURES, unsupported_link, unsupported_shape
from topology.link_random import JITTER, Losses, loss_variance, mean_loss
from topology.link_tables import with_tables
from topology.links import overlay, resolve_link
from topology.plan import Bursts, Link, RandomWalk, Shape, Sine, Step, Steps, dump_plan, load_plan
from topology.profiles import LINKS, REFUSED_LINKS
from topology.schema import LinkSpec
from topology.validate import load_topology, parse_topology
from topology.variation import NEVER, Course, scaled, still, trace_files

HEAD = "name: x\nseed: 3\ndata: {dataset: mnist-mini}\nmodel: mlp\ntraining: {rounds: 1}\npolicy: {deadline: 10 h}\n"


def links_of(text: str, count: int = 1) -> list[Link]:
    file = f"{HEAD}devices: {{a: {{profile: laptop, cpus: 0.1, count: {count}, link: {text}}}}}\n"
    return [device.link for device in compile_topology(parse_topology(file).topology, "r").devices]


def errors_of(text: str) -> str:
    with pytest.raises(TopologyErrors) as caught:
        links_of(text)
    return str(caught.value)


# --- what is written ---------------------------------------------------------------------------------------


def test_every_key_of_both_directions_and_of_one() -> None:
    (link,) = links_of(
        "{up: {rate: 1 Mbit/s, delay: 50 ms, loss: {p: 1 %, r: 24 %}, reorder: 2 %, queue: 9 kB}, down: 8 Mbit/s, "
        "delay: 20 ms, jitter: {deviation: 4 ms, kind: pareto}, loss: 1 %, duplicate: 3 %, corrupt: 4 %}"
    )
    assert link.up == Shape(
        rate_bit_s=1_000_000,
        delay_s=0.05,
        jitter_s=0.004,
        jitter_kind="pareto",
        loss=pytest.approx(0.04),
        bursts=Bursts(p=0.01, r=0.24),
        reorder=0.02,
        duplicate=0.03,
        corrupt=0.04,
        queue_bytes=9_000,
    )
    assert (link.down.rate_bit_s, link.down.delay_s, link.down.loss, link.down.bursts) == (
        8_000_000,
        0.02,
        0.01,
        None,
    )
    assert (link.down.reorder, link.down.queue_bytes, link.down.queue_s) == (0.0, 200_000, 0.2)
    assert link.name == "custom"


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("{delay: 5 ms, jitter: 6 ms}", "devices.a.link.jitter", "larger than the delay of 5 ms"),
        ("{down: {delay: 5 ms, jitter: 6 ms}}", "devices.a.link.down.jitter", "larger than the delay"),
        ("{reorder: 1 %}", "devices.a.link.reorder", "add a `delay`"),
        ("{loss: {p: 1 %}}", "devices.a.link.loss", "both `p` and `r`"),
        ("{loss: {random: 1 %, p: 1 %, r: 1 %}}", "devices.a.link.loss", "either `random`"),
        ("{loss: 0.01}", "devices.a.link.loss", "needs a unit"),
        ("{jitter: {deviation: 5 ms, kind: gamma}}", "devices.a.link.jitter.kind", "pareto"),
        ("{up: {queue: 10 ms}}", "devices.a.link.up.queue", "needs a rate"),
        ("{up: 1 Mbit/s, queue: 1 B}", "devices.a.link.queue", "less than two full frames"),
        ("{vary: {sine: {amplitude: 10 %, period: 9 s}}}", "devices.a.link.vary", "scales the rate"),
        ("{vary: {}}", "devices.a.link.vary", "nothing varies"),
        ("{vary: {repeat: 3 s}}", "devices.a.link.vary", "nothing varies"),
        (
            "{vary: {steps: [{at: 1 s, loss: 1 %}, {at: 1 s, loss: 2 %}]}}",
            "devices.a.link.vary",
            "at least 0.25 s apart",
        ),
        (
            "{vary: {steps: [{at: 5 s, loss: 1 %}], repeat: 4 s}}",
            "devices.a.link.vary",
            "at least 0.25 s apart",
        ),
        (
            "{loss: {p: 1 %, r: 9 %}, vary: {random_walk: {of: loss, step: 5 %}}}",
            "devices.a.link.vary",
            "loses in bursts",
        ),
        (
            "{up: 1 Mbit/s, vary: {random_walk: {step: 5 %, low: 1, high: 1}}}",
            "devices.a.link.vary.random_walk",
            "no room",
        ),
        ("{up: 999 bit/s}", "devices.a.link.up", "slower than a shaper goes"),
        ("{up: 1 Mbit/s, queue: 24 h}", "devices.a.link.queue", "more than a shaper can hold"),
        ("{loss: {p: 1 %, r: 20 %, bad: 0 %}}", "devices.a.link.loss", "lose nothing"),
        ("{loss: {p: 100 %, r: 0.1 %}}", "devices.a.link.loss", "lose 99.9"),
        ("{loss: {random: 1 %, bad: 50 %}}", "devices.a.link.loss", "are of bursts"),
        ("{vary: {steps: [{at: 0 s, jitter: 5 ms}]}}", "devices.a.link.vary", "larger than the delay"),
        ("{vary: {steps: [{at: 0 s, rate: 1 bit/s}]}}", "devices.a.link.vary", "slower than a shaper"),
        (
            "{delay: 1 s, vary: {sine: {of: delay, amplitude: 9 %, period: 10 s, every: 5 s}}}",
            "devices.a.link.vary",
            "another wave",
        ),
        ("{vary: {trace: {file: nowhere.up}}}", "devices.a.link.vary.trace", "No such file"),
        ("lorawan", "devices.a.link", "carries no model updates"),
        ("{profile: lora}", "devices.a.link.profile", "55 bit/s"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(text: str, path: str, says: str) -> None:
    found = errors_of(text)
    assert f"{path} " in found or f"{path}:" in found, found
    assert says in found
    assert found.startswith("topology: 1 error"), found


def test_profiles_have_a_source_and_say_how_their_delay_became_one_way() -> None:
    for name, profile in LINKS.items():
        (link,) = links_of(name)
        assert link.name == name
        assert profile.source
        if profile.up.delay_s > 0:
            assert "one-way" in profile.converted or "halved" in profile.converted
        assert link.up.jitter_s <= link.up.delay_s
    # The same link as three sources tell it: WebPageTest's round trip, ATC's one-way.
    assert LINKS["2g"].up.delay_s == 1.3 / 2
    assert not set(LINKS) & set(REFUSED_LINKS)


def test_a_changed_link_keeps_what_is_not_given() -> None:
    before = LinkSpec.model_validate(
        {"up": {"rate": "1 Mbit/s", "delay": "50 ms"}, "down": "4 Mbit/s", "delay": "20 ms", "loss": "1 %"}
    )

    def changed(given: object) -> tuple[Shape, Shape]:
        link = resolve_link(overlay(before, LinkSpec.model_validate(given)))
        return link.up, link.down

    up, down = changed({"up": "200 kbit/s"})
    assert (up.rate_bit_s, up.delay_s, up.loss) == (200_000, 0.05, 0.01)
    assert (down.rate_bit_s, down.delay_s) == (4_000_000, 0.02)
    up, down = changed({"delay": "70 ms", "down": {"loss": "2 %"}})
    assert (up.rate_bit_s, up.delay_s, down.delay_s) == (1_000_000, 0.07, 0.07)
    assert (up.loss, down.loss, down.rate_bit_s) == (0.01, 0.02, 4_000_000)


# --- what is drawn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(JITTER))
def test_deviations_have_mean_zero_and_deviation_one(kind: str) -> None:
    rng = random.Random(kind)
    draws = [JITTER[kind](rng) for _ in range(200_000)]  # type: ignore[index]
    assert statistics.fmean(draws) == pytest.approx(0.0, abs=0.01)
    assert statistics.stdev(draws) == pytest.approx(1.0, rel=0.015)
    if kind == "uniform":
        assert max(map(abs, draws)) <= math.sqrt(3)
    if kind == "pareto":
        assert -0.8 < min(draws) < -0.7 < 4.0 < max(draws) < 5.0
        assert statistics.median(draws) < -0.2


def test_burst_losses_have_the_mean_the_bursts_and_the_variance_that_are_claimed() -> None:
    bursts = Bursts(p=0.01, r=0.2, bad=0.9, good=0.001)
    losses = Losses("s")
    drawn = [losses.lost(0.0, bursts) for _ in range(400_000)]
    assert statistics.fmean(drawn) == pytest.approx(mean_loss(bursts), rel=0.03)
    after_loss = [later for now, later in pairwise(drawn) if now]
    assert statistics.fmean(after_loss) > 10 * mean_loss(bursts)  # that is what a burst is
    blocks = [sum(drawn[at : at + 2_000]) for at in range(0, 400_000, 2_000)]
    assert statistics.variance(blocks) / 2_000 == pytest.approx(loss_variance(0.0, bursts), rel=0.35)
    assert loss_variance(0.02, None) == pytest.approx(0.02 * 0.98)


@given(st.integers(0, 2**32), st.floats(0.001, 0.9))
def test_the_same_seed_loses_the_same_packets(seed: int, loss: float) -> None:
    bursts = Bursts(p=0.05, r=0.3)
    for kind in (None, bursts):
        first, again = Losses(str(seed)), Losses(str(seed))
        assert [first.lost(loss, kind) for _ in range(50)] == [again.lost(loss, kind) for _ in range(50)]


# --- how it varies -----------------------------------------------------------------------------------------

BASE = Shape(rate_bit_s=1_000_000, delay_s=0.05, loss=0.01, queue_bytes=25_000, queue_s=0.2)


def course(*parts: Steps | Sine | RandomWalk) -> Course:
    return Course(Link(name="x", up=msgspec.structs.replace(BASE, vary=parts), down=Shape()))


def test_steps_hold_until_the_next_and_repeat() -> None:
    found = course(Steps(steps=(Step(at_s=1, rate_bit_s=500_000), Step(at_s=2, delay_s=0.1)), repeat_s=4))
    assert [found.at(t).up.rate_bit_s for t in (0, 0.9, 1, 3.9, 4, 5)] == [
        1_000_000,
        1_000_000,
        500_000,
        500_000,
        1_000_000,
        500_000,
    ]
    assert [found.at(t).up.delay_s for t in (1.5, 2, 4.5)] == [0.05, 0.1, 0.05]
    assert found.at(1).up.queue_bytes == 12_500  # 200 ms of what the rate is now
    assert [found.next_s(t) for t in (0, 1, 2, 4)] == [1, 2, 4, 5]
    assert found.at(0).down == Shape()


def test_steps_without_repeat_end() -> None:
    found = course(Steps(steps=(Step(at_s=1, loss=0.5),)))
    assert found.at(1e6).up.loss == 0.5
    assert found.next_s(1.0) == NEVER


def test_a_sine_swings_around_its_own_value() -> None:
    found = course(Sine(of="rate", amplitude=0.5, period_s=20, every_s=1))
    rates = [found.at(t).up.rate_bit_s or 0 for t in range(20)]
    assert (max(rates), min(rates)) == (1_500_000, 500_000)
    assert statistics.fmean(rates) == pytest.approx(1_000_000, rel=1e-3)
    assert found.at(3.7) == found.at(3.0)


@given(st.integers(0, 1000), st.floats(0.01, 3.0), st.floats(0.05, 0.9), st.floats(1.1, 20.0))
def test_a_random_walk_stays_within_its_bounds(seed: int, step: float, low: float, high: float) -> None:
    walk = RandomWalk(of="delay", step=step, every_s=0.5, low=low, high=high, seed=str(seed))
    found = course(walk)
    for index in range(60):
        delay_s = found.at(index * 0.5).up.delay_s
        assert 0.05 * low * (1 - 1e-9) <= delay_s <= 0.05 * high * (1 + 1e-9)


def test_a_random_walk_is_its_seeds_whatever_is_asked_when() -> None:
    walk = RandomWalk(of="rate", step=0.2, every_s=1.0, low=0.25, high=4, seed="s")
    forward = [course(walk).at(t).up.rate_bit_s for t in range(30)]
    found = course(walk)
    assert [found.at(t).up.rate_bit_s for t in reversed(range(30))] == forward[::-1]
    assert len(set(forward)) == 30
    other = RandomWalk(of="rate", step=0.2, every_s=1.0, low=0.25, high=4, seed="t")
    assert [course(other).at(t).up.rate_bit_s for t in range(30)] != forward


@given(st.lists(st.floats(0.25, 5), min_size=1, max_size=8), st.floats(0, 40), st.booleans())
def test_next_is_after_now_and_nothing_changes_before_it(
    gaps: list[float], at_s: float, repeat: bool
) -> None:
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    steps = Steps(
        steps=tuple(Step(at_s=t, rate_bit_s=10_000 * (i + 1)) for i, t in enumerate(times)),
        repeat_s=times[-1] + 1 if repeat else 0.0,
    )
    found = course(steps, Sine(of="delay", amplitude=0.5, period_s=10, every_s=0.5))
    then = found.next_s(at_s)
    assert then > at_s
    for share in (0.0, 0.3, 0.9):
        assert found.at(at_s + share * (then - at_s)) == found.at(at_s)


def test_scaling_keeps_within_what_a_link_can_be() -> None:
    assert scaled(BASE, "rate", 1e-9).rate_bit_s == 1_000
    assert scaled(BASE, "loss", 1e9).loss == 0.99
    assert scaled(Shape(), "rate", 2).rate_bit_s is None


def test_variations_reach_the_plan_each_device_with_a_walk_of_its_own(tmp_path: Path) -> None:
    text = "{up: {rate: 1 Mbit/s, vary: {random_walk: {step: 10 %}}}, down: 4 Mbit/s, delay: 10 ms, "
    text += "vary: {steps: [{at: 0 s, loss: 1 %}, {at: 5 s, delay: 30 ms}], repeat: 10 s, sine: "
    text += "{of: delay, amplitude: 50 %, period: 8 s}}}"
    first, second = links_of(text, 2)
    (walk,) = first.up.vary
    assert isinstance(walk, RandomWalk)
    assert walk.seed == "edgerig/3/a-1/up/walk"
    assert first.up.vary != second.up.vary
    assert [type(part) for part in first.down.vary] == [Steps, Sine]
    assert first.down.vary == second.down.vary
    assert still(first).up.vary == ()
    file = f"{HEAD}devices: {{a: {{profile: laptop, cpus: 0.1, link: {text}}}}}\n"
    plan = compile_topology(parse_topology(file).topology, "r")
    (tmp_path / "plan.json").write_bytes(dump_plan(plan))
    assert load_plan(tmp_path / "plan.json") == plan


# --- traces ------------------------------------------------------------------------------------------------


def test_mahimahi_counts_opportunities_per_interval_and_repeats() -> None:
    times = [*range(1, 1001), *[1500] * 500, 3000]  # 1000 packets, then 500, then one at the very end
    found = traces.mahimahi("\n".join(map(str, times)), 1.0)
    assert [step.rate_bit_s for step in found.steps] == [1514 * 8 * 1000, 1514 * 8 * 500, traces.OUTAGE_BIT_S]
    assert [step.at_s for step in found.steps] == [0, 1, 2]
    assert found.repeat_s == 3.0


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=300), st.sampled_from([0.25, 0.5, 1.0]))
def test_mahimahi_keeps_the_bytes_of_whole_intervals(times: list[int], interval_s: float) -> None:
    times = sorted([*times, 20_000])
    found = traces.mahimahi("\n".join(map(str, times)), interval_s)
    carried = sum((s.rate_bit_s or 0) for s in found.steps if s.rate_bit_s != traces.OUTAGE_BIT_S)
    busy = carried * interval_s / (1514 * 8)
    assert busy <= len(times) + 1
    assert found.repeat_s == 20.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no delivery time"),
        ("1\n2\nx", "line 3"),
        ("5\n4", "line 2: time 4 after 5"),
        ("-1", "line 1"),
        ("0", "above 0"),
        ("\n".join(map(str, range(0, 10_000_000, 100_000))), "at most 5000"),
    ],
)
def test_bad_mahimahi(text: str, says: str) -> None:
    with pytest.raises(traces.TraceError, match=says):
        traces.mahimahi(text, 1.0)


def test_csv_rows_hold_until_the_next() -> None:
    found = traces.from_csv("at_s, rate_bit_s, loss\n0,1000000,\n2.5,,0.1\n", 2.5)
    assert found == Steps(steps=(Step(at_s=0, rate_bit_s=1_000_000), Step(at_s=2.5, loss=0.1)), repeat_s=5.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "header"),
        ("at_s\n1", "any of"),
        ("at_s,speed,loss\n1,2,3", "unknown column 'speed'"),
        ("at_s,loss\n", "no row"),
        ("at_s,loss,loss\n0,0.1,0.2", "'loss' is there twice"),
        ("at_s,loss\n0,nan", "0 to 0.99"),
        ("at_s,loss\n0,2", "0 to 0.99"),
        ("at_s,loss\n,0.1", "no at_s"),
        ("at_s,loss\n0,a", "no number"),
        ("at_s,loss\n0", "as many cells"),
        ("at_s,loss\n0,0.1,7", "as many cells"),
        ("at_s,loss\n0,0.1\n0.1,0.2", "less than 0.25 s"),
    ],
)
def test_bad_csv(text: str, says: str) -> None:
    with pytest.raises(traces.TraceError, match=says):
        traces.from_csv(text, 1.0)


@given(st.text(max_size=300))
def test_any_text_is_a_trace_or_an_error(text: str) -> None:
    for parse in traces.FORMATS.values():
        try:
            assert parse(text, 1.0).steps
        except traces.TraceError as error:
            assert str(error)  # noqa: PT017 - either is right


def test_a_trace_is_found_beside_the_topology(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "bus.up").write_text("\n".join(str(t) for t in range(10, 4001, 10)))
    file = tmp_path / "fleet.yaml"
    file.write_text(
        f"{HEAD}devices:\n  a:\n    profile: laptop\n    link:\n      up:\n        rate: 1 Mbit/s\n"
        "        vary: {trace: {file: traces/bus.up}}\n"
    )
    (device,) = compile_topology(load_topology(file).topology, "r").devices
    (steps,) = device.link.up.vary
    assert isinstance(steps, Steps)
    assert [step.rate_bit_s for step in steps.steps] == [1514 * 8 * 100] * 4
    assert trace_files([device.link]) == [str(tmp_path / "traces" / "bus.up")]
    (tmp_path / "traces" / "bus.up").rename(tmp_path / "bus.up")  # as in the container of a compose file
    (device,) = compile_topology(load_topology(file).topology, "r").devices
    assert trace_files([device.link]) == [str(tmp_path / "bus.up")]
    (tmp_path / "traces" / "bus.up").write_text("1\n\nbus")
    with pytest.raises(TopologyErrors, match=r"vary\.trace.*line 3: 'bus' is not a time"):
        load_topology(file)


def test_the_tables_of_the_documentation_have_a_row_for_each() -> None:
    page = with_tables(
        "a\n<!-- table: profiles -->\nold\n<!-- end -->\nb\n<!-- table: backends -->\n<!-- end -->\nc\n"
    )
    assert page.startswith("a\n<!-- table: profiles -->\n| profile")
    assert "old" not in page
    assert page.endswith("<!-- end -->\nc\n")
    for name in (*LINKS, *REFUSED_LINKS):
        assert f"`{name}`" in page
    assert "| duplicate | yes | – | – | – |" in page
    assert with_tables(page) == page


# --- what backends can do ----------------------------------------------------------------------------------

EVERYTHING = Shape(
    rate_bit_s=1,
    delay_s=1,
    jitter_s=1,
    loss=0.1,
    reorder=0.1,
    duplicate=0.1,
    corrupt=0.1,
    queue_bytes=1,
    vary=(Sine(of="rate", amplitude=0.5, period_s=2, every_s=1),),
)


def test_what_a_backend_cannot_do_is_named_with_a_reason() -> None:
    assert unsupported_shape("netem", EVERYTHING) == []
    assert [text.split(":")[0] for text in unsupported_shape("nfqueue", EVERYTHING)] == ["duplicate"]
    assert [text.split(":")[0] for text in unsupported_shape("relay", EVERYTHING)] == [
        "loss",
        "reorder",
        "duplicate",
        "corrupt",
    ]
    bursty = msgspec.structs.replace(EVERYTHING, bursts=Bursts(p=0.1, r=0.1))
    asked = {
        text.split(":")[0] for shape in (EVERYTHING, bursty) for text in unsupported_shape("none", shape)
    }
    assert asked == set(FEATURES)
    link = Link(name="x", up=Shape(), down=Shape(loss=0.1))
    assert [text[:10] for text in unsupported_link("relay", link)] == ["down: loss"]
    assert all(reason for row in CANNOT.values() for reason in row.values())


def problems_here(text: str, *works: str, backend: str = "auto") -> str:
    file = f"{HEAD}devices: {{a: {{profile: laptop, cpus: 0.1, link: {text}}}}}\nnetwork: {{backend: {backend}}}\n"
    host = Host(cores=4, memory_bytes=16 << 30, link_backends=works or None)
    try:
        parse_topology(file, host=host)
    except TopologyErrors as errors:
        return str(errors)
    return ""


def test_what_the_hosts_backend_cannot_do_is_refused_by_name() -> None:
    twice = "{delay: 5 ms, duplicate: 1 %}"
    found = problems_here(twice, "nfqueue", "none")
    assert "devices.a.link" in found
    assert "nfqueue, which shapes links on this host, cannot do up: duplicate" in found
    assert problems_here(twice, "netem", "nfqueue", "none") == ""
    assert "cannot do up: duplicate" in problems_here(twice, "netem", "nfqueue", "none", backend="nfqueue")
    assert "cannot do down: delay: nothing shapes links" in problems_here("{delay: 5 ms}", "none")
    assert problems_here("unshaped", "none") == ""
    assert problems_here(twice, "none", backend="none") == ""  # asked for: the run is marked
    assert "netem does not work on this host" in problems_here("lte", "nfqueue", "none", backend="netem")
    assert problems_here(twice) == ""  # not known here, found out when the run starts
    assert "no such link backend" in problems_here("lte", "nfqueue", backend="tc")
