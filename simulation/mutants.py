"""Defects put in on purpose. A check that does not catch its mutant checks nothing."""

from __future__ import annotations

from simulation.agent_host import AgentHost
from simulation.agent_mutants import AGENT_MUTANTS
from simulation.coordinator_host import CoordinatorHost
from simulation.coordinator_mutants import COORDINATOR_MUTANTS
from simulation.world import World

OF_VARIATES = {
    "moves its variate whatever became",
    "moves its variate in a step of its own",
    "forgets its variate",
    "publishes an older c",
}
MUTANTS = [*COORDINATOR_MUTANTS, *AGENT_MUTANTS]


def mutated(name: str, seed: int) -> World:
    """A world with this defect in it."""
    agent = AGENT_MUTANTS.get(name, AgentHost)
    return World(
        seed,
        schedule="scaffold" if name in OF_VARIATES else "",  # the others have no control variates
        agent_type=agent,
        coordinator_type=COORDINATOR_MUTANTS.get(name, CoordinatorHost),
    )
