"""From the plan's training to the order a device gets: every key arrives, the learning rate is this round's."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.config import CoordinatorConfig, from_plan, train_spec
from learning.trainer import TrainingSpec
from topology.allotment import Allotment, Share
from topology.compile import compile_topology
from topology.plan import Plan
from topology.validate import parse_topology
from wire.messages import TrainSpec

TOPOLOGY = """
name: orders
devices: {{pi: {{profile: laptop, count: 2, link: ethernet}}}}
data: {{dataset: mnist-mini, samples_per_device: 100, partition: {{kind: quantity}}}}
model: mlp
training: {training}
"""


def plan_of(training: str) -> Plan:
    return compile_topology(parse_topology(TOPOLOGY.format(training=training)).topology, "orders-1")


def config_of(training: str) -> CoordinatorConfig:
    return from_plan(plan_of(training), 10)


def test_every_key_of_training_reaches_the_device() -> None:
    written = (
        "{rounds: 3, local_steps: 7, batch_size: 8, last_batch: drop, clip_norm: 2.5, proximal: 0.1, "
        "optimizer: {kind: adamw, lr: 0.01, weight_decay: 0.02, beta1: 0.8, beta2: 0.9, epsilon: 0.001, keep: true}}"
    )
    spec = train_spec(plan_of(written))
    assert spec == TrainSpec(
        local_steps=7,
        batch_size=8,
        last_batch="drop",
        clip_norm=2.5,
        prox_mu=0.1,
        optimizer="adamw",
        lr=0.01,
        weight_decay=0.02,
        beta1=0.8,
        beta2=0.9,
        epsilon=0.001,
        keep=True,
    )
    # What the device makes of the message is the same again, field by field.
    local = msgspec.convert(
        msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=TrainSpec),
        TrainingSpec,
        from_attributes=True,
    )
    assert msgspec.to_builtins(spec) == {**msgspec.to_builtins(local), "personal": None, "evaluate": False}


def test_an_order_names_nothing_that_a_trainer_does_not_know() -> None:
    names = [{field.name for field in msgspec.structs.fields(kind)} for kind in (TrainSpec, TrainingSpec)]
    assert names[0] - {"personal", "evaluate"} == names[1]  # those two are `learning.personal`'s


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("{}", [1.0, 1.0, 1.0]),
        ("{kind: step, period: 1, factor: 0.1}", [1.0, 0.1, 0.01]),
        ("{kind: cosine, period: 2, factor: 0.5}", [1.0, 0.75, 0.5]),
        ("{kind: constant, warmup: 1}", [0.5, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_is_that_of_the_round(kind: str, rates: list[float]) -> None:
    config = config_of(f"{{rounds: 3, optimizer: {{lr: 1.0}}, schedule: {kind}}}")
    assert [config.train_for(n, 99).lr for n in (1, 2, 3)] == pytest.approx(rates)


def test_or_of_the_version() -> None:
    config = config_of("{rounds: 3, optimizer: {lr: 1.0}, schedule: {kind: step, by: version, period: 1}}")
    assert [config.train_for(99, version).lr for version in (0, 1, 2)] == pytest.approx([1.0, 0.5, 0.25])


def test_the_largest_shard_bounds_what_a_device_may_claim() -> None:
    """Sizes differ: the mean would cut the largest device's weight."""
    plan = plan_of("{rounds: 1}")
    assert from_plan(plan, 10).samples_max == 100
    shares = tuple(Share(device=f"d-{n}", samples=n, test_samples=n // 3) for n in (67, 133))
    table = Allotment(dataset="m", origin="", partition="iid", test_samples=1, shares=shares)
    assert from_plan(plan, 10, table).test_samples == {"d-67": 22, "d-133": 44}
    assert from_plan(plan, 10, table).samples_max == 133


def test_what_a_device_may_claim_is_bounded_by_its_own_shard() -> None:
    """Bounded by the largest one, two shards of 10 and 50 weighed the same after five epochs over each."""
    shares = tuple(Share(device=f"d-{n}", samples=n) for n in (10, 50))
    table = Allotment(dataset="m", origin="", partition="quantity", test_samples=1, shares=shares)
    config = from_plan(plan_of("{rounds: 1, local_epochs: 5}"), 10, table)
    assert [config.samples_of(share.device) for share in shares] == [10, 50]
    assert config.samples_of("unknown") == config.samples_max == 50
