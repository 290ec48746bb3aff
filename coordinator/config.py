"""Everything the core decides with, derived once from the plan. Every bound says why it has that number."""

from __future__ import annotations

import msgspec
from msgspec import Struct, field

from coordinator.controls import chain_of
from learning.schedules import Schedule
from topology.allotment import Allotment
from topology.plan import DevicePlan, PersonalPlan, Plan, PolicyPlan, SchedulePlan, UplinkPlan
from wire.chain_spec import CodecSpec
from wire.messages import Personal, TrainSpec

# Below this header, topic and PUBACK cost more than a fifth; 2,000 would be all that a 2G link may have in flight.
CHUNK_BYTES_MIN = 1_000
CHUNK_BYTES_MAX = 65_536  # above this one PUBLISH holds up heartbeats even on a LAN with many devices
CHUNK_S = 0.25  # a chunk takes at most a quarter second of its link, so control messages pass between two
WINDOW_S = 1.0  # at most one second of the link in flight (ARCHITECTURE.md, Transport)
WINDOW_BYTES_MAX = 1 << 20  # an unshaped link: enough for a LAN, little enough for a broker with 1,000 agents

OPEN_GRANT_BYTES_MAX = 32 << 20  # reassembly budget: memory for updates in transit, whatever the cohort
# Of it, what may be kept for updates that come with their offers: a device holds its room while it trains, and those
# who ask for a grant want some too.
RESERVED_SHARE_MAX = 0.75
UPDATE_OVERHEAD_BYTES = 65_536  # an encoded update is never larger than the raw float32 and its headers

SETTLED_KEPT_PER_AGENT = 16  # an agent can name at most 8 spooled and 8 unsettled tasks in a hello
BOOTS_KEPT_PER_AGENT = (
    16  # a broker may deliver a hello of an earlier boot once more, but not of one long ago
)
SAMPLES_MAX = 1_000_000  # what a topology may ask for at most, where nothing tells the size of shards
UNSETTLED_PER_AGENT_MAX = (
    2  # acked updates of a device that is given another task: its disk keeps four in all
)
VERSIONS_LIVE_MAX = 8  # model copies that the broker keeps retained: each version in use is one
SLOW_VERSIONS_MAX = 4  # of them, those that only slow devices still need
SLOW_TIMES = 3.0  # slow: expected to take this many times the median of the fleet
STORY_LINES = 32  # what an illegal transition tells of an object's past


class LinkBudget(Struct, frozen=True):
    """How one device sends: bytes of one chunk, and bytes in flight."""

    chunk_bytes: int
    window_bytes: int


class CoordinatorConfig(Struct, frozen=True, kw_only=True):
    run: str
    seed: int
    agents: dict[str, LinkBudget]
    rounds: int
    samples_max: int  # what the largest shard holds: a claim above it counts as this
    # Of each device's own shard, where the table of the data is known. Who goes over it five times has no more of it.
    samples: dict[str, int] = field(default_factory=dict)
    parameters: int
    train: TrainSpec  # of a task without a schedule; `train_for` gives a task's own
    uplink: UplinkPlan
    policy: PolicyPlan
    schedule: SchedulePlan = field(default_factory=SchedulePlan)
    test_samples: dict[str, int] = field(default_factory=dict)  # of a device's own tests, where it is known
    stop_at_accuracy: float | None = None
    # Until then the first round waits for its whole cohort; for twice that long for a quorum, then the run fails.
    start_timeout_s: float = 120.0
    # An agent that is away longer no longer holds up a round that has its quorum: shorter than any reboot, longer
    # than a reconnect over a bad link.
    drop_after_s: float = 5.0
    extensions_max: int = (
        3  # a round without quorum is given at most three more deadlines, then the run fails
    )
    attempts_max: int = (
        2  # tasks one agent gets in one round and extension, so that a failing agent makes no loop
    )
    replace_share: float = 0.25  # with less of the deadline left, a replacement could not make it
    broken_max: int = 3  # assemblies with a wrong sha256 before the task counts as failed
    grant_idle_s: float = 10.0  # 40 chunk times without a chunk: ask again for what is missing
    nudge_s: float = 10.0  # an online agent that shows no sign of a task for this long is sent the task again
    waiting_every_s: float = 5.0
    survey_wait_s: float = (
        60.0  # at the end every device tests the last version; who does not answer is not awaited
    )
    evaluation_wait_s: float = (
        120.0  # with a target, the next round waits for the evaluation, but not for ever
    )
    finish_wait_s: float = 15.0  # agents disconnect within a second; hostd waits 20 s for them
    open_grant_bytes_max: int = OPEN_GRANT_BYTES_MAX
    # Devices whose uploads a fault wants to meet on their way: they always ask for a grant.
    always_ask: frozenset[str] = frozenset()
    control: CodecSpec | None = (
        None  # how the change of a control variate is sent with an update; None: there are none
    )

    def samples_of(self, agent: str) -> int:
        """Up to how many samples a device's claim counts."""
        return self.samples.get(agent, self.samples_max)

    @property
    def update_bytes_max(self) -> int:
        one = self.parameters * 4 + UPDATE_OVERHEAD_BYTES
        return one if self.control is None else 2 * one

    @property
    def reserved_bytes_max(self) -> int:
        return int(self.open_grant_bytes_max * RESERVED_SHARE_MAX)

    def train_for(self, round_: int, version: int) -> TrainSpec:
        """With the learning rate of this round (counted from 1) or version (from 0)."""
        plan = self.schedule
        schedule = Schedule(kind=plan.kind, factor=plan.factor, period=plan.period, warmup=plan.warmup)
        index = max(0, round_ - 1) if plan.by == "round" else version
        return msgspec.structs.replace(self.train, lr=schedule.rate(self.train.lr, index))


def link_budget(device: DevicePlan) -> LinkBudget:
    rate_bit_s = device.link.up.rate_bit_s
    if rate_bit_s is None:
        return LinkBudget(CHUNK_BYTES_MAX, WINDOW_BYTES_MAX)
    chunk = min(max(int(rate_bit_s / 8 * CHUNK_S), CHUNK_BYTES_MIN), CHUNK_BYTES_MAX)
    window = min(max(int(rate_bit_s / 8 * WINDOW_S), chunk), WINDOW_BYTES_MAX)
    return LinkBudget(chunk, window)


def model_chunk_bytes(plan: Plan) -> int:
    """Retained chunks are the same for all agents: a quarter second of the slowest downlink."""
    rates = [d.link.down.rate_bit_s for d in plan.devices if d.link.down.rate_bit_s is not None]
    if not rates:
        return CHUNK_BYTES_MAX
    return min(max(int(min(rates) / 8 * CHUNK_S), CHUNK_BYTES_MIN), CHUNK_BYTES_MAX)


def train_spec(plan: Plan) -> TrainSpec:
    training, optimizer = plan.training, plan.training.optimizer
    return TrainSpec(
        local_epochs=training.local_epochs,
        local_steps=training.local_steps,
        batch_size=training.batch_size,
        last_batch=training.last_batch,
        optimizer=optimizer.kind,
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        epsilon=optimizer.epsilon,
        clip_norm=training.clip_norm,
        prox_mu=training.proximal,
        keep=optimizer.keep,
        personal=_personal(plan.personalization),
        evaluate=plan.evaluation.local,
    )


def _personal(plan: PersonalPlan | None) -> Personal | None:
    """What a device must know of it; which parameters are a head is in the artifact."""
    if plan is None:
        return None
    return Personal(kind=plan.kind, steps=plan.steps, proximal=plan.proximal)


def from_plan(plan: Plan, parameters: int, table: Allotment | None = None) -> CoordinatorConfig:
    """`parameters`: the size of a travelling vector, known from the artifact. `table`: of the data, with the size of
    every shard; without it what the plan says.
    """
    return CoordinatorConfig(
        run=plan.run,
        seed=plan.seed,
        agents={device.name: link_budget(device) for device in plan.devices},
        rounds=plan.training.rounds,
        samples_max=(table.samples_max if table else plan.data.samples_per_device) or SAMPLES_MAX,
        samples={share.device: share.samples for share in table.shares} if table else {},
        test_samples={share.device: share.test_samples for share in table.shares} if table else {},
        parameters=parameters,
        train=train_spec(plan),
        schedule=plan.training.schedule,
        uplink=plan.compression.uplink,
        policy=plan.policy,
        stop_at_accuracy=plan.training.stop_at_accuracy,
        control=chain_of(plan.merge),
        start_timeout_s=plan.start_timeout_s,
        always_ask=_met_on_their_way(plan),
    )


def _met_on_their_way(plan: Plan) -> frozenset[str]:
    """Targets of faults that go by how much of an upload has left, or that spoil its chunks."""
    aimed = [f for f in plan.faults if f.trigger.bytes_share is not None or f.kind == "corrupt_payload"]
    return frozenset(target for fault in aimed for target in fault.targets)
