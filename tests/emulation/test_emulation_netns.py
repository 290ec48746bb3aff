"""Links in root network namespaces, without Docker: apply, read back, measure, change, lose, clear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Rig, rig

from emulation.judge import Verified
from emulation.links.base import DIRECTIONS, Direction, LinkEnds
from emulation.links.nfqueue import NfqueueBackend, rule
from emulation.links.tbf import clear_argv
from emulation.measure import LinkMeasurer
from emulation.offload import offloads_on
from emulation.probe import probe
from topology.plan import Link, Shape, Tolerance

pytestmark = pytest.mark.netns

SLOW_3G = Link(
    name="3g", up=Shape(rate_bit_s=330_000, delay_s=0.1), down=Shape(rate_bit_s=780_000, delay_s=0.1)
)
FIELD = Link(
    name="field",
    up=Shape(rate_bit_s=1_000_000, delay_s=0.03, jitter_s=0.004, loss=0.05),
    down=Shape(rate_bit_s=3_000_000, delay_s=0.03, loss=0.05),
)
WIFI = Link(
    name="wifi",
    up=Shape(rate_bit_s=15_000_000, delay_s=0.002),
    down=Shape(rate_bit_s=30_000_000, delay_s=0.002),
)
UNSHAPED = Link(name="open", up=Shape(), down=Shape())
LINKS = (SLOW_3G, FIELD, WIFI, UNSHAPED)


@pytest.fixture(scope="module")
def network() -> Iterator[Rig]:
    with rig(len(LINKS)) as made:
        yield made


@pytest.fixture
def backend() -> Iterator[NfqueueBackend]:
    made = NfqueueBackend()
    found = made.probe()
    if not found.ok:
        pytest.skip(f"no nfqueue here: {found.reason}")
    made.start()
    yield made
    made.stop()


def counters_of(backend: NfqueueBackend, ends: LinkEnds) -> dict[Direction, tuple[int, int]]:
    found = backend.counters(ends)
    return {way: (found.packets[way], found.dropped[way]) for way in found.packets}


def measured(
    backend: NfqueueBackend, links: list[tuple[LinkEnds, Link]], tolerance: Tolerance | None = None
) -> dict[str, dict[Direction, Verified]]:
    """Twice if need be, as hostd does: other work on the machine can spoil a measurement, never improve it."""
    measurer = LinkMeasurer(lambda ends: counters_of(backend, ends))
    found = measurer.measure(links, tolerance or Tolerance())
    if not all(way.ok for ways in found.values() for way in ways.values()):
        found = measurer.measure(links, tolerance or Tolerance())
    return found


def test_links_measure_as_they_were_asked(network: Rig, backend: NfqueueBackend) -> None:
    links = [(network.ends(index), link) for index, link in enumerate(LINKS)]
    try:
        for ends, link in links:
            backend.apply(ends, link)
            assert backend.verify(ends, link).mismatches == ()
            assert ends.device_ns.call(lambda: offloads_on("eth0")) == []
        found = measured(backend, links)
        problems = {
            name: way.problems for name, ways in found.items() for way in ways.values() if way.problems
        }
        assert problems == {}
        lossy = found["d1"]["up"].effective
        assert lossy.dropped > 0
        assert found["d3"]["up"].effective.rate_bit_s is None
    finally:
        for ends, _ in links:
            backend.clear(ends)
    for ends, _ in links:
        assert backend.verify(ends, UNSHAPED).mismatches == ()
        assert "NFQUEUE" not in ends.broker_ns.run(backend.program, "-S") + ends.device_ns.run(
            backend.program, "-S"
        )


def test_a_live_link_changes_and_a_wrong_one_is_found_by_measuring(
    network: Rig, backend: NfqueueBackend
) -> None:
    ends = network.ends(0)
    faster = Link(name="f", up=Shape(rate_bit_s=2_000_000, delay_s=0.02), down=Shape())
    try:
        backend.apply(ends, SLOW_3G)
        backend.apply(ends, faster)
        assert backend.verify(ends, faster).mismatches == ()
        assert len(backend.verify(ends, SLOW_3G).mismatches) >= 3
        ways = measured(backend, [(ends, faster)])["d0"]
        assert all(ways[way].ok for way in DIRECTIONS), ways
        wrong = Link(name="w", up=Shape(rate_bit_s=2_000_000, delay_s=0.04), down=Shape(delay_s=0.02))
        ways = measured(backend, [(ends, wrong)])["d0"]
        assert not ways["up"].ok
        assert not ways["down"].ok
    finally:
        backend.clear(ends)


def test_what_is_cleared_behind_our_back_is_read_back_as_gone(network: Rig, backend: NfqueueBackend) -> None:
    ends = network.ends(1)
    try:
        backend.apply(ends, FIELD)
        ends.host.run(*clear_argv(ends.host_interface))
        assert any("down: no tbf" in text for text in backend.verify(ends, FIELD).mismatches)
        wanted = rule(ends.broker_interface, ends.queue, f"edgerig {ends.device}", ends.address)
        ends.broker_ns.run(backend.program, "-D", *wanted)
        assert any("up: no iptables rule" in text for text in backend.verify(ends, FIELD).mismatches)
        backend.delays.stop()
        assert any("no owner" in text for text in backend.verify(ends, FIELD).mismatches)
        backend.start()
        backend.apply(ends, FIELD)
        assert backend.verify(ends, FIELD).mismatches == ()
    finally:
        backend.clear(ends)


def test_clearing_twice_and_after_the_end_of_a_namespace_is_no_error(backend: NfqueueBackend) -> None:
    with rig(1) as gone:
        ends = gone.ends(0)
        backend.apply(ends, SLOW_3G)
    backend.clear(ends)
    backend.clear(ends)
    assert backend.delays.stats() == {}


def test_probe_names_the_backend_and_says_why() -> None:
    found = probe()
    assert found.backend in ("netem", "nfqueue")
    assert found.reason
    assert found.checks["link backend none"].startswith("yes")
    assert found.checks["qdiscs"].startswith("yes: ")
    assert "tbf" in found.checks["qdiscs"] or found.backend == "netem"
    assert found.links["delay"] == "yes"
    assert found.links["duplicate"].startswith("yes" if found.backend == "netem" else "no: ")
