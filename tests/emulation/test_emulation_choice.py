"""Which backend a run gets, and what is refused by name; what `doctor` advises. No root."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from emulation import links
from emulation.commands import NOT_INSTALLED, CommandError
from emulation.links.base import Probe
from emulation.netns import NamespaceError
from emulation.probe import HostProbe, advice
from topology.compile import compile_topology
from topology.plan import Plan
from topology.validate import parse_topology

TEXT = """
name: x
devices: {{a: {{profile: laptop, cpus: 0.1, count: 2, link: {link}}}}}
data: {{dataset: mnist-mini}}
model: mlp
training: {{rounds: 1}}
faults: [{{at: 5 s, link_change: {{device: a-1, link: {fault}}}}}]
network: {{backend: {backend}}}
"""


def plan_of(link: str = "lte", backend: str = "auto", fault: str = "3g") -> Plan:
    text = TEXT.format(link=link, backend=backend, fault=fault)
    return compile_topology(parse_topology(text).topology, "r")


def test_the_best_is_taken_and_the_reason_is_said() -> None:
    backend, why = links.choose(plan_of(), "nfqueue")
    assert (backend.name, why) == ("nfqueue", "the best that works here")


def test_what_it_cannot_do_is_refused_by_device_direction_and_name() -> None:
    with pytest.raises(links.BackendProblem, match=r"nfqueue.*a-1 up: duplicate.*a-2 down: duplicate"):
        links.choose(plan_of("{duplicate: 1 %}"), "nfqueue")
    with pytest.raises(links.BackendProblem, match=r"none.*a-1 up: rate"):
        links.choose(plan_of(), "none")


def test_what_a_fault_would_put_in_force_is_refused_too() -> None:
    with pytest.raises(links.BackendProblem, match="fault link_change-1: up: duplicate"):
        links.choose(plan_of(fault="{duplicate: 1 %}"), "nfqueue")


def test_none_may_be_asked_for() -> None:
    backend, why = links.choose(plan_of(backend="none"), "nfqueue")
    assert backend.name == "none"
    assert "asked for" in why


def test_one_asked_for_has_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(links.NetemBackend):
        def probe(self) -> Probe:
            return Probe(self.name, False, "qdisc kind is unknown")

    monkeypatch.setitem(links.REGISTRY, "netem", Absent)
    with pytest.raises(links.BackendProblem, match=r"network\.backend is netem.*kind is unknown"):
        links.choose(plan_of(backend="netem"), "nfqueue")


def test_what_could_not_be_tried_is_unknown_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(error: Exception | None) -> type[links.NetemBackend]:
        class Fake(links.NetemBackend):
            def probe(self) -> Probe:
                return Probe(self.name, True, "works") if error is None else Probe.failed(self.name, error)

        return Fake

    unknown = CommandError(["tc"], 2, "Specified qdisc kind is unknown")
    for error, expected in (
        (None, ("netem", "none")),
        (unknown, ("none",)),
        (CommandError(["tc"], NOT_INSTALLED, "tc is not installed"), None),
        (NamespaceError("hostd needs CAP_SYS_ADMIN"), None),
    ):
        monkeypatch.setattr(links, "REGISTRY", {"netem": found(error), "none": links.NoneBackend})
        assert links.working() == expected


GOOD = HostProbe(
    kernel="6.1",
    backend="netem",
    reason="works",
    docker="25",
    cgroup=2,
    checks={"cpu quota": "yes", "memory limit": "yes", "congestion controls available": "reno cubic"},
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"backend": "nfqueue"}, "sch_netem"),
        ({"backend": "none"}, "nothing shapes links here"),
        ({"docker": ""}, "Docker Engine"),
        ({"checks": GOOD.checks | {"cpu quota": "no: x"}}, "CONFIG_CFS_BANDWIDTH"),
        ({"checks": GOOD.checks | {"memory limit": "no: x"}}, "cgroup_enable=memory"),
        ({"checks": GOOD.checks | {"congestion controls available": "reno"}}, "tcp_cubic"),
    ],
)
def test_doctor_says_what_to_install(
    change: dict[str, object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulation.probe.shutil.which", lambda name, path: name)
    assert advice(GOOD) == []
    found = advice(replace(GOOD, **change))  # type: ignore[arg-type]
    assert len(found) == 1
    assert says in found[0]


def test_doctor_names_missing_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulation.probe.shutil.which", lambda name, path: None if name == "tc" else name)
    assert advice(replace(GOOD, backend="none")) == ["iproute2: tc is not installed"]


def test_a_plan_with_a_backend_survives_its_file() -> None:
    plan = plan_of(backend="nfqueue")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan).network.backend == "nfqueue"
