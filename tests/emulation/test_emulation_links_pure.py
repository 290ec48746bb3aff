"""Shapes to commands and limits, the delay line's statistics, netlink bytes: no root, no clock."""

from __future__ import annotations

import random
import statistics
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulation.judge import Effective, judge, loss_plausible
from emulation.links import nfnetlink
from emulation.links.delay_line import (
    CORRUPT,
    DROP,
    HOLD,
    OVERTAKE,
    BitFlipper,
    DelayLine,
    LineShape,
    tick_s,
)
from emulation.links.netem import TABLE_DEVIATION, limit_packets, netem_mismatches, shape_argvs
from emulation.links.nfqueue import QUEUE_PACKETS_MAX, queue_packets, rule
from emulation.links.tbf import TbfState, burst_bytes, limit_bytes, mismatch, tbf_argv
from emulation.measure import RatePlan, arrival_rate, probe_schedule
from topology.link_random import MEDIANS, Losses
from topology.plan import Bursts, Shape, Tolerance

FIELD = Shape(rate_bit_s=1_000_000, delay_s=0.08, jitter_s=0.02, loss=0.01)


def test_tbf_argv_has_every_parameter_in_bits_and_bytes() -> None:
    assert tbf_argv("eth0", FIELD) == (
        [
            "tc",
            "qdisc",
            "replace",
            "dev",
            "eth0",
            "root",
            "handle",
            "1:",
            "tbf",
            "rate",
            "1000000bit",
            "burst",
            "2040b",
            "limit",
            "25000b",
        ]
    )


@pytest.mark.parametrize(
    ("rate", "burst", "limit"),
    [
        (18_000, 1549, 3028),
        (200_000, 1640, 5000),
        (30_000_000, 16_540, 750_000),
        (200_000_000, 101_540, 5_000_000),
    ],
)
def test_burst_and_limit(rate: int, burst: int, limit: int) -> None:
    assert burst_bytes(rate) == burst
    assert limit_bytes(Shape(rate_bit_s=rate)) == limit


def test_queue_bytes_are_taken_but_never_below_two_frames() -> None:
    assert limit_bytes(Shape(rate_bit_s=10_000_000, queue_bytes=40_000)) == 40_000
    assert limit_bytes(Shape(rate_bit_s=10_000_000, queue_bytes=10)) == 3028


def test_tbf_read_back_tells_what_is_wrong() -> None:
    found = [{"kind": "tbf", "options": {"rate": 125_000, "burst": 1540, "lat": 187_680}, "drops": 4}]
    state = TbfState.of(found)
    assert state == TbfState(1_000_000, 1540, 25_000, 4)
    assert mismatch("up", FIELD, state) is None
    assert "no tbf" in str(mismatch("up", FIELD, None))
    assert "1000000 bit/s, 2000000" in str(mismatch("up", Shape(rate_bit_s=2_000_000), state))
    assert "queue of 25000" in str(mismatch("up", Shape(rate_bit_s=1_000_000, queue_bytes=90_000), state))
    assert "none was asked" in str(mismatch("up", Shape(), state))


def test_netem_argvs() -> None:
    assert shape_argvs("eth0", Shape()) == []
    assert shape_argvs("eth0", Shape(rate_bit_s=1_000_000)) == [tbf_argv("eth0", Shape(rate_bit_s=1_000_000))]
    assert [" ".join(argv) for argv in shape_argvs("eth0", FIELD)] == [
        f"tc qdisc replace dev eth0 root handle 1: netem limit {limit_packets(FIELD)} delay 80000us 20000us "
        "distribution normal rate 1000000000000bit loss random 1%",
        "tc qdisc replace dev eth0 parent 1:1 handle 10: tbf rate 1000000bit burst 2040b limit 25000b",
    ]


def test_netem_read_back_tells_what_is_wrong() -> None:
    good = {
        "delay": {"delay": 0.08, "jitter": 0.02},
        "loss-random": {"loss": 0.01},
        "limit": limit_packets(FIELD),
    }
    assert netem_mismatches("up", FIELD, [{"kind": "netem", "options": good}]) == []
    for change in (
        {"delay": {"delay": 0.16, "jitter": 0.02}},
        {"loss-random": {"loss": 0.02}},
        {"limit": 1000},
    ):
        assert len(netem_mismatches("up", FIELD, [{"kind": "netem", "options": good | change}])) == 1
    assert netem_mismatches("up", FIELD, []) == ["up: no netem, a delay or loss was asked"]
    assert netem_mismatches("up", Shape(), [{"kind": "netem", "options": good}]) == [
        "up: a netem where none was asked"
    ]


RICH = Shape(
    delay_s=0.05,
    jitter_s=0.01,
    jitter_kind="pareto",
    loss=0.04,
    bursts=Bursts(p=0.01, r=0.24, bad=0.9, good=0.001),
    reorder=0.02,
    duplicate=0.03,
    corrupt=0.005,
)


def test_netem_says_everything_a_shape_can_say() -> None:
    (argv,) = shape_argvs("eth0", RICH)
    assert " ".join(argv) == (
        "tc qdisc replace dev eth0 root handle 1: netem limit 100000 delay 50000us 12200us distribution pareto rate "
        "1000000000000bit loss gemodel 1% 24% 90% 0.1% reorder 2% duplicate 3% corrupt 0.5%"
    )
    even = Shape(delay_s=0.05, jitter_s=0.01, jitter_kind="uniform")
    assert " ".join(shape_argvs("eth0", even)[0]).endswith("delay 50000us 17321us rate 1000000000000bit")


def test_netem_reads_everything_back() -> None:
    good = {
        "limit": 100_000,
        "delay": {"delay": 0.05, "jitter": 0.0122},
        "loss-gemodel": {"p": 0.01, "r": 0.24, "1-h": 0.9, "1-k": 0.001},
        "reorder": {"reorder": 0.02},
        "duplicate": {"duplicate": 0.03},
        "corrupt": {"corrupt": 0.005},
    }
    assert netem_mismatches("up", RICH, [{"kind": "netem", "options": good}]) == []
    for key in set(good) - {"limit"}:
        without = {name: value for name, value in good.items() if name != key}
        wrong = netem_mismatches("up", RICH, [{"kind": "netem", "options": without}])
        assert wrong, key
        assert all("was asked" in text for text in wrong)
    extra = good | {"loss-random": {"loss": 0.5}}
    assert netem_mismatches("up", RICH, [{"kind": "netem", "options": extra}]) == [
        "up: loss 0.5, 0.0 was asked"
    ]


def test_the_deviation_of_netems_own_tables_is_what_is_assumed() -> None:
    folder = next((p for p in map(Path, TABLES) if p.is_dir()), None)
    if folder is None:
        pytest.skip("iproute2's tables are not installed here")
    for kind in ("normal", "pareto"):
        lines = (folder / f"{kind}.dist").read_text().splitlines()
        values = [int(word) / 8192 for line in lines if not line.startswith("#") for word in line.split()]
        assert statistics.pstdev(values) == pytest.approx(TABLE_DEVIATION[kind], rel=1e-3)  # type: ignore[index]


TABLES = ("/usr/lib/x86_64-linux-gnu/tc", "/usr/lib/aarch64-linux-gnu/tc", "/usr/lib/tc", "/usr/share/tc")


def test_nfqueue_rule_selects_the_device_and_bypasses() -> None:
    assert " ".join(rule("eth1", 3, "edgerig d2", "10.1.0.12")) == (
        "INPUT -i eth1 -s 10.1.0.12/32 -m comment --comment edgerig d2 -j NFQUEUE --queue-num 3 --queue-bypass"
    )
    assert "-s" not in rule("eth0", 3, "edgerig d2", None)


def test_queue_packets_are_bounded() -> None:
    assert queue_packets(Shape(delay_s=0.1)) == QUEUE_PACKETS_MAX
    assert queue_packets(FIELD) == 1_000 + 455
    assert queue_packets(Shape(rate_bit_s=10**10, delay_s=1.0)) == QUEUE_PACKETS_MAX


# --- the delay line ----------------------------------------------------------------------------------------


def test_constant_delay_releases_in_order_at_the_due_time() -> None:
    line = DelayLine(LineShape(delay_s=0.1), "s")
    assert [line.arrive(i, i * 0.01) for i in range(3)] == [HOLD] * 3
    assert line.release(0.0999) is None
    assert line.release(0.1101) == 1
    assert line.next_due_s == pytest.approx(0.12)
    assert line.release(1.0) == 2
    assert (line.held, line.counters.released) == (0, 3)
    assert line.counters.late_s_max == pytest.approx(0.88)


def test_jitter_of_spaced_packets_has_the_deviation_asked_for() -> None:
    line = DelayLine(LineShape(delay_s=0.1, jitter_s=0.01), "s")
    delays = []
    for index in range(5_000):
        line.arrive(index, float(index))
        due = line.next_due_s
        assert due is not None
        delays.append(due - index)
        line.release(due)
    assert statistics.stdev(delays) == pytest.approx(0.01, rel=0.04)
    assert statistics.mean(delays) == pytest.approx(0.1, rel=0.01)


@given(st.integers(0, 2**32), st.lists(st.floats(0, 0.05), min_size=2, max_size=60))
def test_jitter_never_reorders_and_never_shortens_below_zero(seed: int, gaps: list[float]) -> None:
    line = DelayLine(LineShape(delay_s=0.02, jitter_s=0.05), str(seed))
    now, dues = 0.0, []
    for index, gap in enumerate(gaps):
        now += gap
        line.arrive(index, now)
        dues.append(line._held[-1][0])
        assert dues[-1] >= now
    assert dues == sorted(dues)


def test_loss_is_exactly_the_seeded_sequence_whatever_the_jitter() -> None:
    expected = random.Random("7/d/up/loss")
    wanted = [DROP if expected.random() < 0.02 else HOLD for _ in range(20_000)]
    for jitter in (0.0, 0.03):
        line = DelayLine(LineShape(delay_s=0.05, jitter_s=jitter, loss=0.02), "7/d/up")
        assert [line.arrive(i, i * 1e-3) for i in range(20_000)] == wanted
        assert loss_plausible(line.counters.dropped, line.counters.packets, 0.02)


@pytest.mark.parametrize(
    ("shortest_s", "tick"),
    [(0.0005, 0.00025), (0.002, 0.0005), (0.004, 0.001), (0.015, 0.0015), (0.1, 0.002)],
)
def test_ticks_grow_with_the_shortest_delay(shortest_s: float, tick: float) -> None:
    assert tick_s(shortest_s) == pytest.approx(tick)


def test_a_change_keeps_what_is_under_way_in_order() -> None:
    line = DelayLine(LineShape(delay_s=1.0), "s")
    line.arrive(1, 0.0)
    line.change(LineShape(delay_s=0.1))
    line.arrive(2, 0.5)
    assert line.release(0.7) is None
    assert line.release(1.0) == 2


def everything(seed: str) -> DelayLine:
    return DelayLine(LineShape(delay_s=0.1, jitter_s=0.01, loss=0.05, reorder=0.1, corrupt=0.03), seed)


def test_each_packet_is_lost_held_or_overtakes_and_some_are_corrupted() -> None:
    line = everything("s")
    decisions = [line.arrive(i, i * 1e-3) for i in range(50_000)]
    counters = line.counters
    assert decisions.count(DROP) == counters.dropped == pytest.approx(2_500, rel=0.1)
    assert sum(d & OVERTAKE > 0 for d in decisions) == counters.overtook == pytest.approx(4_750, rel=0.1)
    assert sum(d & CORRUPT > 0 for d in decisions) == counters.corrupted == pytest.approx(1_425, rel=0.1)
    assert line.held == sum(d & HOLD > 0 for d in decisions)


def test_the_seed_decides_and_one_thing_does_not_move_another() -> None:
    first, again, other = everything("s"), everything("s"), everything("t")
    decisions = [first.arrive(i, i * 1e-3) for i in range(2_000)]
    assert [again.arrive(i, i * 1e-3) for i in range(2_000)] == decisions
    assert [other.arrive(i, i * 1e-3) for i in range(2_000)] != decisions
    plain = DelayLine(LineShape(loss=0.05), "s")
    assert [plain.arrive(i, 0.0) == DROP for i in range(2_000)] == [d == DROP for d in decisions]


def test_bursts_lose_the_seeded_sequence() -> None:
    bursts = Bursts(p=0.02, r=0.25)
    line, losses = DelayLine(LineShape(loss=0.074, bursts=bursts), "s"), Losses("s")
    assert [line.arrive(i, 0.0) == DROP for i in range(5_000)] == [
        losses.lost(0.0, bursts) for _ in range(5_000)
    ]


@given(st.integers(0, 99), st.binary(max_size=80))
def test_a_flipped_packet_keeps_its_header_and_changes_one_bit(seed: int, body: bytes) -> None:
    packet = b"\x45" + bytes(19) + body
    flipped = BitFlipper(str(seed)).flip(packet)
    assert flipped[:20] == packet[:20]
    changed = sum((a ^ b).bit_count() for a, b in zip(flipped, packet, strict=True))
    assert changed == (1 if body else 0)
    assert BitFlipper(str(seed)).flip(body[:19]) == body[:19]


# --- netlink bytes -----------------------------------------------------------------------------------------


def packet_message(number: int) -> bytes:
    header = nfnetlink.attribute(1, struct.pack("!IHBx", number, 0x0800, 1)[:7])
    return nfnetlink.message(nfnetlink.MESSAGE_PACKET, 3, header)


def test_packet_ids_are_found_in_one_or_more_messages() -> None:
    assert nfnetlink.packet_ids(packet_message(5)) == [5]
    assert nfnetlink.packet_ids(packet_message(5) + packet_message(6)) == [5, 6]


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_without_end(data: bytes) -> None:
    assert all(0 <= number < 2**32 for number in nfnetlink.packet_ids(data))


def test_a_payload_is_found_behind_other_attributes_and_given_back() -> None:
    header = nfnetlink.attribute(1, struct.pack("!IHBx", 5, 0x0800, 1)[:7])
    body = header + nfnetlink.attribute(5, b"1234") + nfnetlink.attribute(10, b"E...packet")
    assert nfnetlink.payload_of(nfnetlink.message(nfnetlink.MESSAGE_PACKET, 3, body)) == b"E...packet"
    assert nfnetlink.payload_of(packet_message(5)) is None
    changed = nfnetlink.replace(3, 5, b"E..!packet")
    assert struct.unpack_from("!II", changed, 24) == (nfnetlink.VERDICT_ACCEPT, 5)
    assert nfnetlink.payload_of(changed) == b"E..!packet"


@given(st.binary(max_size=300))
def test_any_bytes_have_a_payload_or_none(data: bytes) -> None:
    found = nfnetlink.payload_of(data)
    assert found is None or len(found) <= len(data)


def test_batch_verdict_bytes() -> None:
    data = nfnetlink.accept_up_to(3, 77)
    assert struct.unpack_from("=IHH", data) == (len(data), 3 << 8 | 3, 1)
    assert struct.unpack_from("!II", data, 24) == (nfnetlink.VERDICT_ACCEPT, 77)


# --- what a measurement plans and concludes ----------------------------------------------------------------


def test_probes_are_spaced_by_rate_and_jitter() -> None:
    assert probe_schedule(Shape()) == (41, 0.012)
    assert probe_schedule(FIELD) == (41, pytest.approx(0.1))
    count, gap = probe_schedule(Shape(rate_bit_s=18_000))
    assert gap == pytest.approx(4 * 60 * 8 / 18_000)
    assert count * gap < 4.6


def test_slow_links_are_measured_with_small_frames() -> None:
    assert RatePlan.of(30_000_000).payload_bytes == 1472
    slow = RatePlan.of(18_000)
    assert slow.payload_bytes + 42 < 70
    assert slow.duration_s == 1.5


def test_arrival_rate_leaves_out_the_credit() -> None:
    burst = [(0.0, 1000)] * 5
    steady = [(0.1 * index, 1000) for index in range(1, 11)]
    assert arrival_rate(burst + steady, 5_000) == pytest.approx(80_000)
    assert arrival_rate(burst + steady, 500) > 80_000  # type: ignore[operator]
    assert arrival_rate(burst, 5_000) is None


def test_jitter_hardly_moves_the_rate_that_is_measured() -> None:
    rng, rate, jitter_s = random.Random(3), 80_000, 0.1
    plan = RatePlan.of(rate, jitter_s)
    assert plan.duration_s == 6.0
    line, errors = DelayLine(LineShape(delay_s=0.65, jitter_s=jitter_s), "s"), []
    for run in range(20):
        arrivals, at_s = [], 100.0 * run + rng.random()
        while at_s < 100.0 * run + plan.duration_s:
            line.arrive(len(arrivals), at_s)
            arrivals.append((line._held[-1][0], plan.payload_bytes + 42))
            at_s += (plan.payload_bytes + 42) * 8 / rate
        errors.append(abs((arrival_rate(arrivals, 0) or 0.0) / rate - 1))
    assert statistics.median(errors) < 0.01
    assert max(errors) < 0.03


def test_loss_interval_accepts_chance_and_refuses_a_wrong_rate() -> None:
    assert loss_plausible(2, 89, 0.02)
    assert not loss_plausible(0, 10_000, 0.02)
    assert not loss_plausible(400, 10_000, 0.02)
    assert not loss_plausible(5, 100, 0.0)


def test_bursts_may_scatter_more_and_only_as_much_as_they_do() -> None:
    bursts = Bursts(p=0.002, r=0.1)  # 2 % in bursts of ten
    assert not loss_plausible(300, 10_000, 0.0196)
    assert loss_plausible(300, 10_000, 0.0196, bursts)
    assert not loss_plausible(1_000, 10_000, 0.0196, bursts)


def test_a_pareto_link_is_judged_by_the_median_that_a_pareto_has() -> None:
    shape = Shape(delay_s=0.1, jitter_s=0.02, jitter_kind="pareto")
    median_s = 0.1 + 0.02 * MEDIANS["pareto"]
    assert median_s < 0.0935
    assert judge(shape, Effective(delay_s=median_s, probes=400), Tolerance(), (0, 400)).ok
    assert not judge(shape, Effective(delay_s=0.106, probes=400), Tolerance(), (0, 400)).ok
