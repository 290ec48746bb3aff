"""The contract of a link backend, the same for each that shapes packets: real packets in network namespaces."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator

import pytest
from packets import checksum_errors, send
from rig import Rig, rig

from emulation.judge import loss_plausible
from emulation.links import REGISTRY
from emulation.links.base import DIRECTIONS, Backend, Direction, LinkEnds
from emulation.links.delay_line import DROP, DelayLine, LineShape
from emulation.links.none import NoneBackend
from emulation.measure import LinkMeasurer
from topology.link_features import unsupported_shape
from topology.plan import Bursts, Link, Shape, Tolerance

pytestmark = pytest.mark.netns
OPEN = Link(name="open", up=Shape(), down=Shape())


@pytest.fixture(scope="module")
def network() -> Iterator[Rig]:
    with rig(2) as made:
        yield made


@pytest.fixture(params=["netem", "nfqueue"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    made = REGISTRY[request.param]()
    found = made.probe()
    if not found.ok:
        pytest.skip(f"no {request.param} on this kernel: {found.reason}")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def ends(network: Rig, backend: Backend) -> Iterator[LinkEnds]:
    found = network.ends(0)
    yield found
    backend.clear(network.ends(0))


def one(way: Direction, shape: Shape) -> Link:
    return Link(name="t", up=shape if way == "up" else Shape(), down=shape if way == "down" else Shape())


def put(backend: Backend, ends: LinkEnds, link: Link) -> None:
    for shape in (link.up, link.down):
        refused = unsupported_shape(backend.name, shape)
        if refused:
            pytest.skip(f"{backend.name} refuses it by name: {refused}")
    backend.apply(ends, link)
    assert backend.verify(ends, link).mismatches == ()


@pytest.mark.parametrize("way", DIRECTIONS)
def test_delay_is_on_its_own_side_only(backend: Backend, ends: LinkEnds, way: Direction) -> None:
    put(backend, ends, one(way, Shape(delay_s=0.05)))
    other: Direction = "down" if way == "up" else "up"
    assert statistics.median(send(ends, way, 40, 0.005).delays_s.values()) == pytest.approx(0.05, abs=0.003)
    assert statistics.median(send(ends, other, 40, 0.005).delays_s.values()) < 0.003


@pytest.mark.parametrize("kind", ["normal", "pareto", "uniform"])
def test_jitter_has_its_deviation_and_keeps_the_order(backend: Backend, ends: LinkEnds, kind: str) -> None:
    shape = Shape(delay_s=0.05, jitter_s=0.005, jitter_kind=kind)  # type: ignore[arg-type]
    put(backend, ends, one("up", shape))
    spaced = send(ends, "up", 250, 0.03)
    assert statistics.stdev(spaced.delays_s.values()) == pytest.approx(0.005, rel=0.25)
    dense = send(ends, "up", 1_000, 0.0005)
    assert dense.arrived == sorted(dense.arrived)
    assert not dense.lost


@pytest.mark.parametrize(
    ("loss", "bursts"), [(0.05, None), (0.2 / 5.2, Bursts(p=0.01, r=0.25))], ids=["random", "bursts"]
)
@pytest.mark.parametrize("way", DIRECTIONS)
def test_loss(backend: Backend, ends: LinkEnds, way: Direction, loss: float, bursts: Bursts | None) -> None:
    count = 3_000
    put(backend, ends, one(way, Shape(delay_s=0.005, loss=loss, bursts=bursts)))
    passage = send(ends, way, count, 0.0004)
    assert loss_plausible(len(passage.lost), count, loss, bursts)
    if backend.name == "nfqueue":
        line = DelayLine(LineShape(loss=loss, bursts=bursts), f"{ends.seed}/{ends.device}/{way}")
        assert passage.lost == {n for n in range(count) if line.arrive(n, 0.0) == DROP}


def test_reorder_lets_its_share_overtake(backend: Backend, ends: LinkEnds) -> None:
    count, share = 2_000, 0.05
    put(backend, ends, one("up", Shape(delay_s=0.02, reorder=share)))
    passage = send(ends, "up", count, 0.001)
    assert not passage.lost
    assert loss_plausible(passage.overtakers, count, share)
    early = [delay for delay in passage.delays_s.values() if delay < 0.01]
    assert len(early) == pytest.approx(passage.overtakers, abs=3)


def test_duplicates_arrive_twice(backend: Backend, ends: LinkEnds) -> None:
    count, share = 2_000, 0.05
    put(backend, ends, one("up", Shape(delay_s=0.02, duplicate=share)))
    assert loss_plausible(send(ends, "up", count, 0.001).duplicates, count, share)


@pytest.mark.parametrize("way", DIRECTIONS)
def test_corrupt_packets_are_refused_by_their_checksum(
    backend: Backend, ends: LinkEnds, way: Direction
) -> None:
    count, share = 2_000, 0.05
    put(backend, ends, one(way, Shape(delay_s=0.01, corrupt=share)))
    before = checksum_errors(ends, way)
    passage = send(ends, way, count, 0.0007)
    # A flipped bit in the port sends a datagram to nobody, before its checksum is looked at.
    assert loss_plausible(len(passage.lost), count, share)
    assert 0.4 * len(passage.lost) <= checksum_errors(ends, way) - before <= len(passage.lost)
    backend.change(ends, one(way, Shape(delay_s=0.01)))
    assert backend.verify(ends, one(way, Shape(delay_s=0.01))).mismatches == ()
    assert not send(ends, way, 300, 0.0007).lost


def test_a_live_link_changes_without_losing_what_is_under_way(backend: Backend, ends: LinkEnds) -> None:
    slow, fast = Shape(rate_bit_s=4_000_000, delay_s=0.1), Shape(rate_bit_s=400_000, delay_s=0.02)
    put(backend, ends, Link(name="a", up=slow, down=slow))
    for shape in (fast, slow, fast):
        link = Link(name="b", up=shape, down=slow)
        backend.change(ends, link)
        assert backend.verify(ends, link).mismatches == ()
        passage = send(ends, "up", 60, 0.005)
        assert not passage.lost
        assert statistics.median(passage.delays_s.values()) == pytest.approx(shape.delay_s, abs=0.006)
        backend.change(ends, Link(name="c", up=slow, down=slow))
    backend.change(ends, OPEN)
    assert backend.verify(ends, OPEN).mismatches == ()


def test_rate_and_queue_after_a_change(backend: Backend, ends: LinkEnds) -> None:
    """The measurer's own figures, with loss behind or before the shaper as the backend has it."""
    put(backend, ends, one("up", Shape(rate_bit_s=8_000_000, queue_bytes=100_000, delay_s=0.01, loss=0.03)))
    shape = Shape(rate_bit_s=2_000_000, queue_bytes=50_000, delay_s=0.01, loss=0.03)
    link = one("up", shape)
    backend.change(ends, link)
    measurer = LinkMeasurer(lambda e: counters_of(backend, e), loses_after_rate=backend.loses_after_rate)
    found = measurer.measure([(ends, link)], Tolerance(), ways=["up"])["d0"]["up"]
    assert found.ok, found.problems
    assert found.effective.queue_s == pytest.approx(0.2, rel=0.15)


def counters_of(backend: Backend, ends: LinkEnds) -> dict[Direction, tuple[int, int]]:
    found = backend.counters(ends)
    return {way: (found.packets[way], found.dropped[way]) for way in found.packets}


def test_links_come_back_after_restarts_of_either_end(network: Rig, backend: Backend) -> None:
    """A restarted container has another namespace: nothing of its link is left there, and the broker's half of every
    link is gone with a broker.
    """
    link = Link(name="r", up=Shape(rate_bit_s=4_000_000, delay_s=0.03), down=Shape(delay_s=0.02))
    first, second = network.ends(0), network.ends(1)
    try:
        for made in (first, second):
            backend.apply(made, link)
        network.restart("d0")
        first = network.ends(0)
        assert backend.verify(first, link).mismatches != ()
        backend.apply(first, link)
        network.restart("b")
        for made in (network.ends(0), network.ends(1)):
            if backend.name == "nfqueue":
                assert backend.verify(made, link).mismatches != ()
            backend.apply(made, link)
            assert backend.verify(made, link).mismatches == ()
            for way, delay_s in (("up", 0.03), ("down", 0.02)):
                seen = send(made, way, 30, 0.005).delays_s.values()  # type: ignore[arg-type]
                assert statistics.median(seen) == pytest.approx(delay_s, abs=0.004)
    finally:
        for index in range(2):
            backend.clear(network.ends(index))
            assert backend.verify(network.ends(index), OPEN).mismatches == ()


def test_the_same_seed_loses_the_same_packets_on_a_link_of_its_own(backend: Backend, network: Rig) -> None:
    if backend.name != "nfqueue":
        pytest.skip("netem's generator is the kernel's: a plausible number, not a sequence")
    link = one("up", Shape(delay_s=0.002, loss=0.1))
    lost = []
    for index, seed in ((0, "a"), (0, "a"), (0, "b"), (1, "a")):
        made = network.ends(index, seed)
        backend.apply(made, link)
        lost.append(send(made, "up", 400, 0.0005).lost)
        backend.clear(made)
    assert lost[0] == lost[1]
    assert len({frozenset(one_lost) for one_lost in lost}) == 3
    sequence = random.Random("a/d0/up/loss")
    assert lost[0] == {n for n in range(400) if sequence.random() < 0.1}


def test_none_changes_nothing_and_says_what_is_missing(network: Rig) -> None:
    nothing, made = NoneBackend(), network.ends(0)
    link = Link(name="n", up=Shape(rate_bit_s=1_000_000, delay_s=0.1), down=Shape())
    nothing.apply(made, link)
    nothing.change(made, link)
    found = nothing.verify(made, link).mismatches
    assert [text.split(":")[:2] for text in found] == [["up", " rate"], ["up", " delay"]]
    assert statistics.median(send(made, "up", 20, 0.005).delays_s.values()) < 0.003
    assert nothing.verify(made, OPEN).mismatches == ()
