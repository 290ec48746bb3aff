"""From a topology to a plan: resolved numbers, names, addresses, uids, fault targets; always the same."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from pathlib import Path

import pytest

import topology
from topology.compile import AGENTS_UID, DEFAULT_SUBNET, compile_topology, default_subnet
from topology.errors import TopologyErrors
from topology.host import Host
from topology.plan import Expectation, Plan, Shape, Trigger, dump_plan, load_plan
from topology.validate import load_topology, parse_topology
from wire.codecs import uplink_spec

EXAMPLES = Path(topology.__file__).parent / "examples"
TWO_CORES = Host(cores=2, memory_bytes=8 << 30)

FILE = """
name: fleet
seed: {seed}
devices:
  pi4:   {{profile: raspberry-pi-4, count: 6, link: home-wifi}}
  zero:  {{profile: raspberry-pi-zero-2w, count: 3, link: {{profile: 3g, loss: 1 %}},
          cpus: 0.05, memory: 128 MiB, threads: 2}}
  field: {{profile: raspberry-pi-3b,
          link: {{up: 1 Mbit/s, down: 3 Mbit/s, delay: 80 ms, jitter: 20 ms, loss: 1 %, queue: 100 ms}}}}
data: {{dataset: mnist, partition: {{kind: dirichlet, alpha: 0.3}}}}
model: cnn
training: {{rounds: 20, optimizer: {{lr: 0.1, momentum: 0.9}}}}
policy: {{cohort: 8, deadline: 30 s, quorum: 70 %}}
compression: {{uplink: {{sparsify: {{top_k: 1 %}}, quantize: int8}}, downlink: {{quantize: none}}}}
faults:
  - {{at: 40 s, kill: {{device: pi4-3}}, heal_after: 20 s}}
  - {{when: round 3 collecting, kill: {{device: "*", count: 4}}}}
expect: {{accuracy: ">= 0.95", updates_lost: 0}}
"""


def plan_of(seed: int = 7, **options: object) -> Plan:
    return compile_topology(parse_topology(FILE.format(seed=seed)).topology, "run-1", **options)  # type: ignore[arg-type]


def test_devices_are_named_addressed_and_owned_in_order() -> None:
    plan = plan_of()
    assert [d.name for d in plan.devices] == [
        *(f"pi4-{i}" for i in range(1, 7)),
        "zero-1",
        "zero-2",
        "zero-3",
        "field-1",
    ]
    assert [d.index for d in plan.devices] == list(range(10))
    assert [d.address for d in plan.devices] == [f"10.213.0.{i}" for i in range(16, 26)]
    assert [d.uid for d in plan.devices] == list(range(AGENTS_UID, AGENTS_UID + 10))
    assert (plan.network.subnet, plan.network.gateway, plan.network.broker_address) == (
        DEFAULT_SUBNET,
        "10.213.0.1",
        "10.213.0.2",
    )


def test_links_are_resolved_per_direction() -> None:
    plan = plan_of()
    assert plan.device("field-1").link.up == Shape(
        rate_bit_s=1_000_000, delay_s=0.08, jitter_s=0.02, loss=0.01, queue_bytes=12_500, queue_s=0.1
    )
    assert plan.device("field-1").link.down.queue_bytes == 37_500
    wifi = plan.device("pi4-1").link
    assert (wifi.name, wifi.up.rate_bit_s, wifi.down.rate_bit_s) == ("home-wifi", 15_000_000, 30_000_000)
    assert wifi.up.queue_bytes == 375_000  # 200 ms
    mixed = plan.device("zero-1").link  # a profile with one number of its own
    assert (mixed.name, mixed.up.rate_bit_s, mixed.up.delay_s, mixed.up.loss) == (
        "custom",
        768_000,
        0.15,
        0.01,
    )


def test_own_numbers_win_over_the_profile() -> None:
    zero = plan_of().device("zero-2")
    assert (zero.cpus, zero.memory_bytes, zero.threads) == (0.05, 128 << 20, 2)


def test_a_slow_link_queues_at_least_two_frames() -> None:
    text = "name: x\ndevices: {a: {profile: laptop, link: 2g}}\ndata: {dataset: mnist-mini}\nmodel: mlp\n"
    text += "training: {rounds: 1}\npolicy: {deadline: 10 min}"
    assert compile_topology(parse_topology(text).topology, "r").devices[0].link.up.queue_bytes == 3028


def test_the_rest_is_carried_over() -> None:
    plan = plan_of()
    assert plan.data.samples_per_device == 6000
    assert (plan.data.partition.kind, plan.data.partition.options) == ("dirichlet", {"alpha": 0.3})
    assert (plan.policy.cohort, plan.policy.deadline_s, plan.policy.quorum) == (8, 30.0, 0.7)
    assert plan.compression.uplink.chain == uplink_spec(0.01, "int8")
    assert plan.compression.downlink.quantize == "none"
    assert plan.faults[0].trigger == Trigger(at_s=40.0)
    assert plan.faults[1].trigger == Trigger(round=3, state="collecting")
    assert plan.faults[0].heal_after_s == 20.0
    assert plan.expect == (
        Expectation(metric="accuracy", op=">=", value=0.95),
        Expectation(metric="updates_lost", op="==", value=0.0),
    )


def test_fault_targets_follow_the_seed_and_stay_in_fleet_order() -> None:
    first, again, other = plan_of(7), plan_of(7), plan_of(8)
    names = [d.name for d in first.devices]
    targets = first.faults[1].targets
    assert len(targets) == len(set(targets)) == 4
    assert list(targets) == sorted(targets, key=names.index)
    assert targets == again.faults[1].targets
    assert any(plan_of(seed).faults[1].targets != targets for seed in range(8, 12))
    assert first.faults[0].targets == other.faults[0].targets == ("pi4-3",)


def test_same_input_same_bytes_and_a_plan_survives_its_file(tmp_path: Path) -> None:
    content = dump_plan(plan_of())
    assert content == dump_plan(plan_of())
    (tmp_path / "plan.json").write_bytes(content)
    assert load_plan(tmp_path / "plan.json") == plan_of()


def test_one_uid_for_all_and_a_given_subnet() -> None:
    plan = plan_of(uid=1000, subnet="10.9.4.0/24")
    assert {d.uid for d in plan.devices} | {plan.broker_uid, plan.coordinator_uid} == {1000}
    assert plan.devices[0].address == "10.9.4.16"


def test_the_process_runtime_has_no_addresses() -> None:
    plan = plan_of(runtime="process", uid=0)
    assert {d.address for d in plan.devices} == {""}
    assert (plan.network.subnet, plan.network.broker_host) == ("", "127.0.0.1")


def test_large_fleets_get_a_larger_subnet() -> None:
    assert default_subnet(239) == DEFAULT_SUBNET
    assert default_subnet(240) == "10.213.0.0/20"
    text = (
        FILE.format(seed=1)
        .replace("count: 6", "count: 600")
        .replace("dataset: mnist,", "dataset: mnist, samples_per_device: 16,")
    )
    plan = compile_topology(parse_topology(text).topology, "r")
    network = ipaddress.ip_network(plan.network.subnet)
    addresses = [ipaddress.ip_address(d.address) for d in plan.devices]
    assert len(set(addresses)) == 604
    assert all(address in network for address in addresses)
    assert network.broadcast_address not in addresses


@pytest.mark.parametrize("subnet", ["10.0.0.0/28", "nonsense", "10.0.0.1/24", "fd00::/64"])
def test_bad_subnets(subnet: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        plan_of(subnet=subnet)


@pytest.mark.parametrize("run", ["", "Run", "a_b", "-a", "a-", "a" * 49, "a/b", "a b"])
def test_bad_run_ids(run: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        compile_topology(parse_topology(FILE.format(seed=1)).topology, run)


def test_the_host_is_checked_only_when_given() -> None:
    small = Host(cores=1, memory_bytes=1 << 30)
    with pytest.raises(TopologyErrors) as caught:
        plan_of(host=small)
    text = str(caught.value)
    assert "this host gives at most 0.5" in text
    assert "memory limits sum up to" in text
    assert plan_of().devices


def test_ten_times_fifteen_hundredths_fit_two_cores() -> None:
    """0.15 has no exact binary form: a sum of ten must not fail by rounding."""
    text = (EXAMPLES / "quickstart.yaml").read_text()
    assert compile_topology(parse_topology(text).topology, "r", host=TWO_CORES).devices
    more = text.replace("count: 2\n    link: {up", "count: 3\n    link: {up")
    with pytest.raises(TopologyErrors, match=r"1\.65 cores"):
        parse_topology(more.replace("samples_per_device: 1000", "samples_per_device: 900"), host=TWO_CORES)


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_examples_are_valid_on_two_cores(name: str) -> None:
    loaded = load_topology(EXAMPLES / f"{name}.yaml", host=TWO_CORES)
    plan = compile_topology(loaded.topology, name, host=TWO_CORES, sha256=loaded.sha256)
    assert plan.topology_sha256 == loaded.sha256
    # The first model is 3.3 MB for each device: below 2.5 Mbit/s it alone would take eleven seconds.
    assert all(d.link.down.rate_bit_s is None or d.link.down.rate_bit_s >= 2_500_000 for d in plan.devices)


def test_the_quickstart_is_what_the_readme_promises() -> None:
    plan = compile_topology(load_topology(EXAMPLES / "quickstart.yaml").topology, "q")
    assert len(plan.devices) == 10
    assert len({d.group for d in plan.devices}) == 3
    assert min(d.cpus for d in plan.devices) >= 0.15
    assert plan.training.stop_at_accuracy == 0.96
    assert [f.kind for f in plan.faults] == ["kill"]
    assert plan.faults[0].heal_after_s


def test_faults_bring_their_parameters() -> None:
    faults = """
  - {at: 1 s, cpu_slowdown: {device: "pi4-*", factor: 0.5}, heal_after: 5 s}
  - {when: round 2 training, partition: {device: pi4-1, direction: up}, heal_after: 5 s}
  - {at: 2 s, flap: {device: pi4-2, period: 2 s}, heal_after: 6 s}
  - {at: 3 s, pause: {device: pi4-1}, heal_after: 1 s}
expect:"""
    head, rest = FILE.format(seed=1).split("faults:", 1)
    text = f"{head}faults:{faults}{rest.split('expect:', 1)[1]}"
    plan = compile_topology(parse_topology(text).topology, "r1")
    slow, cut, flap, pause = plan.faults
    assert (slow.kind, slow.params.cpus_factor) == ("cpu_slowdown", 0.5)
    assert (cut.kind, cut.params.direction, cut.targets) == ("partition", "up", ("pi4-1",))
    assert (flap.kind, flap.params.period_s) == ("flap", 2.0)
    assert pause.kind == "pause"


def test_a_plan_is_read_without_numpy() -> None:
    """hostd reads it, and hostd's image has neither numpy nor pydantic."""
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(('numpy', 'pydantic', 'onnxruntime', 'zstandard')))"
    )
    code = f"{blocked}; import topology.plan, wire.messages, emulation.hostd"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
