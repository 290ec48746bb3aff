"""A stream in which everybody failed early goes on after a deadline; it does not idle until it is given up."""

from __future__ import annotations

from simulation.soak import play


def test_a_fleet_that_used_up_its_attempts_is_asked_again() -> None:
    """Found by simulation: four full disks in one buffer, all well again a second later, and nobody was asked."""
    assert play(703).problem == ""
