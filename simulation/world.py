"""One simulated run: a seed decides everything, and the same seed decides it again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import msgspec

from coordinator.config import CoordinatorConfig, LinkBudget
from coordinator.controls import chain_of
from coordinator.merges import MergeSpec
from simulation.agent_host import SAMPLES, AgentHost
from simulation.broker import Broker
from simulation.clock import Clock
from simulation.coordinator_host import CoordinatorHost
from simulation.habits import SCHEDULES, TURNS, VERSIONS, WORLDS, Habits, merge_of, schedule_of, world_of
from topology.plan import UplinkPlan
from wire import messages as m
from wire.codecs import CodecSpec, Sparsify, uplink_spec

RUN = "sim"
# Whatever a chain leaves out has to be conserved; a seed decides which one it is.
CHAINS = (
    uplink_spec(0.5),
    CodecSpec(sparsify=Sparsify(kind="random_k", fraction=0.3), quantize="int4"),
    CodecSpec(sparsify=Sparsify(kind="threshold", threshold=0.1), quantize="ternary"),
    CodecSpec(rotate="hadamard", quantize="eden", bits=2, entropy="none"),
)
PARAMETERS = 300
SURVEY_TURN = 4
AGENTS = 4
# A run of four rounds ends within some hundred seconds; with every fault and extension within 2,000.
ECHO_S = (1.0, 4.0)  # a killed device of the world that aims is back within three seconds
HANGS_AFTER_S = 4_000.0
GOODBYE_S = 30.0  # after the coordinator has gone, agents that were told end as well


class Hangs(AssertionError):
    """The run does not end."""


def make_config(seed: int, schedule: str = "", *, inline: bool = True) -> CoordinatorConfig:
    name = schedule or schedule_of(seed)
    policy = SCHEDULES[name]
    if name == "synchronous":
        policy = msgspec.structs.replace(policy, cohort=2 + seed % 3, over_select=(1.0, 1.4)[seed % 2])
    return CoordinatorConfig(
        run=RUN,
        seed=seed,
        # Every second device has chunks that its updates fit into, so they may come in their offers.
        agents={
            f"d-{i}": LinkBudget(
                chunk_bytes=1_000 if inline and (seed + i) % 2 else 256,
                window_bytes=1_000,
            )
            for i in range(AGENTS)
        },
        always_ask=frozenset() if inline else frozenset(f"d-{i}" for i in range(AGENTS)),
        rounds=VERSIONS[name],
        samples_max=SAMPLES,
        parameters=PARAMETERS,
        # Some runs end with a survey: devices test the last version on their own data.
        train=m.TrainSpec(local_epochs=1, batch_size=16, lr=0.1, evaluate=seed % 5 == SURVEY_TURN),
        # By turns of the schedules: each of them meets every chain.
        uplink=UplinkPlan(chain=CHAINS[seed // len(TURNS) % len(CHAINS)]),
        policy=policy,
        start_timeout_s=120.0,
        open_grant_bytes_max=2_500,  # room for two updates and a half: offers have to stand in line
        control=chain_of(merge_of(seed, name)),
    )


class World:
    """`agent_type` and `coordinator_type` are what a mutant changes."""

    def __init__(
        self,
        seed: int,
        habits: Habits | None = None,
        *,
        schedule: str = "",
        rng: Random | None = None,
        planned: bool = True,
        versions: int = 0,
        inline: bool = True,
        agent_type: type[AgentHost] = AgentHost,
        coordinator_type: type[CoordinatorHost] = CoordinatorHost,
    ) -> None:
        self.seed = seed
        self.habits = habits or WORLDS[world_of(seed)]
        self.rng = rng or Random(seed)
        self.clock = Clock()
        config = make_config(seed, schedule, inline=inline)
        self.config = msgspec.structs.replace(config, rounds=versions) if versions else config
        self.broker = Broker(self.clock, self.rng, self.habits)
        merging = MergeSpec(rule=merge_of(seed, schedule or schedule_of(seed)), agents=AGENTS)
        self.coordinator = coordinator_type(
            self.config, self.clock, self.broker, self.rng, self.habits, merging
        )
        self.agents = [
            agent_type(name, RUN, PARAMETERS, self.clock, self.broker, self.rng, self.habits)
            for name in self.config.agents
        ]
        self.calm = False
        self.planned = planned  # whether faults come as the habits have it
        self.said_goodbye_at = 0.0

    def run(self) -> None:
        """Until the coordinator has said goodbye. Raises Hangs, and whatever an invariant raises."""
        self.coordinator.boot()
        for agent in self.agents:
            self.clock.later(self.rng.uniform(0.0, 3.0), agent.boot)
        if self.planned:
            self._plan_faults()
        self.clock.at(self.habits.calm_at_s, self._calm_down)
        while not self.coordinator.finished:
            self._step()
        self.said_goodbye_at = self.clock.now
        end = self.clock.now + GOODBYE_S
        while self.clock.now < end and not all(agent.finished for agent in self.agents):
            if not self.clock.step():
                break

    def _step(self) -> None:
        if self.clock.now > HANGS_AFTER_S or not self.clock.step():
            raise Hangs(
                f"after {self.clock.now:.0f} s the coordinator is {self.coordinator.core.state.phase}; "
                + "; ".join(f"{a.name}: {a.service and list(a.core.state.story)[-3:]}" for a in self.agents)
            )

    def _calm_down(self) -> None:
        self.calm = self.broker.calm = True
        self.coordinator.calm_down()
        for agent in self.agents:
            agent.calm_down()

    # --- faults ----------------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        habits = self.habits
        self.coordinator.on_record = self._aim
        self._recur(habits.broker_rate, self.broker.restart)
        for agent in self.agents:
            self._recur(habits.kill_rate, agent.kill)
            self._recur(habits.cut_rate, agent.cut_soon)
            self._recur(habits.full_rate, partial(self._fill, agent))
            self._recur(habits.flap_rate, partial(self._flap, agent))

    def _recur(self, rate: float, fault: Callable[[], None]) -> None:
        """A Poisson process until the world calms down."""
        if rate <= 0:
            return

        def strike() -> None:
            if not self.calm:
                fault()
                self._recur(rate, fault)

        self.clock.later(self.rng.expovariate(rate), strike)

    def _aim(self, event: str, fields: dict[str, Any]) -> None:
        if event == "update_acked" and not self.calm and self.rng.random() < self.habits.aimed:
            target = next(agent for agent in self.agents if agent.name == fields["agent"])
            self.clock.later(self.rng.uniform(0.0, 0.3), target.kill)
            # With a new disk it knows nothing of the task, and may be told of it once more.
            self.clock.later(self.rng.uniform(*ECHO_S), partial(self.broker.repeat_task, target.name))

    def _fill(self, agent: AgentHost) -> None:
        agent.fill_disk(self.rng.uniform(1.0, 20.0))

    def _flap(self, agent: AgentHost) -> None:
        connection = self.broker.connection_of(agent.name)
        if connection is not None:
            self.broker.drop(connection)
