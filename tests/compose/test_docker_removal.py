"""Removing a run while the engine still makes what was asked of it, with an engine that only plays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from compose.docker_runtime import ROUNDS_MAX, remove_run


class Listing:
    """One kind of thing: `script[n]` names appear just before the n-th list. They go when they are removed."""

    def __init__(self, script: dict[int, str] | None = None, *, stubborn: bool = False) -> None:
        self.script, self.stubborn = script or {}, stubborn
        self.there: list[str] = []
        self.asked = 0

    def list(self, **_: Any) -> list[Any]:
        self.there += [self.script[self.asked]] if self.asked in self.script else []
        self.asked += 1
        return [self._thing(name) for name in self.there]

    def _thing(self, name: str) -> Any:
        def remove(**_: Any) -> None:
            if not self.stubborn:
                self.there.remove(name)

        return SimpleNamespace(name=name, labels={}, status="running", remove=remove)


def an_engine(networks: Listing) -> Any:
    return SimpleNamespace(containers=Listing({0: "c"}), networks=networks, volumes=Listing())


def test_what_the_engine_makes_after_the_list_was_taken_is_removed_too() -> None:
    networks = Listing({0: "n1", 1: "n2"})
    assert remove_run(an_engine(networks), "r", wait=lambda _: None) == [
        "container c",
        "network n1",
        "network n2",
    ]
    assert networks.there == []


@pytest.mark.parametrize(("calm", "left"), [(1, ["n2"]), (3, [])])
def test_after_a_start_that_was_cut_short_it_looks_longer(calm: int, left: list[str]) -> None:
    networks = Listing({0: "n1", 2: "n2"})
    client = an_engine(networks)
    remove_run(client, "r", calm=calm, wait=lambda _: None)
    assert (networks.list() and ["n2"]) == left
    assert client.containers.there == []


def test_it_ends_where_nothing_helps() -> None:
    networks = Listing({0: "n1"}, stubborn=True)
    waits: list[float] = []
    remove_run(an_engine(networks), "r", wait=waits.append)
    assert networks.asked == ROUNDS_MAX
    assert len(waits) == ROUNDS_MAX - 2


def test_a_run_that_is_gone_costs_one_list() -> None:
    networks = Listing()
    client = SimpleNamespace(containers=Listing(), networks=networks, volumes=Listing())
    assert remove_run(client, "r", wait=lambda _: pytest.fail("waited")) == []
    assert networks.asked == 1
