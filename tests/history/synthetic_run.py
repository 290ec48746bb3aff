"""A run as its producers would have recorded it: ten devices of three classes, five rounds, one kill in round
2.

Written with the real `HistoryWriter` on a virtual clock, so that the files are what a run leaves. The figures
follow from the constants below, and tests compute what they expect from the same constants, never from the
code under test.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from history.events import Event
from history.reader import History
from history.writer import HistoryWriter
from topology.plan import (
    CompressionPlan,
    DataPlan,
    DevicePlan,
    Expectation,
    FaultPlan,
    Link,
    PartitionPlan,
    Plan,
    PolicyPlan,
    Shape,
    TrainingPlan,
    Trigger,
    dump_plan,
)

BOOTED_S = 5_000.0  # the monotonic clock when the run begins
WALL_S = 1_767_225_600.0  # 2026-01-01
ROUNDS = 5
PARAMETERS = 206_922
RAW_BYTES = PARAMETERS * 4
ACCURACY = (0.112, 0.713, 0.889, 0.931, 0.955, 0.964)
KILLED = "pi4-3"
KILL_ROUND = 2
UPDATE_BYTES = 2_800
CHUNK_HEADER_BYTES = 12
MQTT_BYTES, WIRE_BYTES = 20_000, 26_000  # of each device's last boot
ROUND_S = 16.0

MBIT = 1_000_000
CLASSES: dict[str, tuple[int, str, float, Link]] = {
    "pi4": (
        6,
        "raspberry-pi-4",
        0.20,
        Link(
            name="home-wifi",
            up=Shape(rate_bit_s=20 * MBIT, delay_s=0.004, jitter_s=0.001),
            down=Shape(rate_bit_s=40 * MBIT, delay_s=0.004),
        ),
    ),
    "zero": (
        3,
        "raspberry-pi-zero-2w",
        0.15,
        Link(
            name="3g",
            up=Shape(rate_bit_s=330_000, delay_s=0.05, jitter_s=0.01, loss=0.005),
            down=Shape(rate_bit_s=780_000, delay_s=0.05, loss=0.005),
        ),
    ),
    "field": (
        1,
        "raspberry-pi-3b",
        0.15,
        Link(
            name="custom",
            up=Shape(rate_bit_s=MBIT, delay_s=0.08, jitter_s=0.02, loss=0.01),
            down=Shape(rate_bit_s=3 * MBIT, delay_s=0.08),
        ),
    ),
}


def make_plan(**changes: Any) -> Plan:
    devices: list[DevicePlan] = []
    for group, (number, profile, cpus, link) in CLASSES.items():
        for index in range(number):
            devices.append(
                DevicePlan(
                    name=f"{group}-{index + 1}",
                    group=group,
                    index=len(devices),
                    profile=profile,
                    cpus=cpus,
                    memory_bytes=256 << 20,
                    link=link,
                    address=f"10.99.0.{10 + len(devices)}",
                )
            )
    base: dict[str, Any] = {
        "run": "pi-fleet-0101-120000-ab12",
        "name": "pi-fleet",
        "seed": 7,
        "runtime": "docker",
        "topology_sha256": hashlib.sha256(b"topology").hexdigest(),
        "devices": tuple(devices),
        "data": DataPlan(dataset="mnist", partition=PartitionPlan(kind="dirichlet"), samples_per_device=1000),
        "model": "cnn",
        "training": TrainingPlan(rounds=10, stop_at_accuracy=0.96),
        "policy": PolicyPlan(cohort=10, deadline_s=30.0, quorum=0.7),
        "compression": CompressionPlan(),
        "faults": (
            FaultPlan(
                id="kill-1",
                kind="kill",
                trigger=Trigger(round=KILL_ROUND, state="collecting"),
                targets=(KILLED,),
                heal_after_s=6.0,
            ),
        ),
        "expect": (
            Expectation(metric="accuracy", op=">=", value=0.95),
            Expectation(metric="updates_lost", op="==", value=0),
            Expectation(metric="uplink_ratio", op=">=", value=150),
        ),
    }
    return Plan(**(base | changes))


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def task_name(round_: int, device: DevicePlan) -> str:
    return f"r{round_}-t{(round_ - 1) * 100 + device.index + 1}"


@dataclass(order=True)
class Line:
    at: float
    place: int
    node: str = field(compare=False)
    boot: str = field(compare=False)
    event: str = field(compare=False)
    fields: dict[str, Any] = field(compare=False)


@dataclass
class Script:
    """Lines in the order of time; `write` gives each producer its own file."""

    plan: Plan
    lines: list[Line] = field(default_factory=list)

    def say(self, at: float, node: str, event: str, boot: str = "b1", /, **fields: Any) -> None:
        self.lines.append(Line(at, len(self.lines), node, boot, event, fields))

    def coordinator(self, at: float, event: str, /, **fields: Any) -> None:
        self.say(at, "coordinator", event, **fields)

    def hostd(self, at: float, event: str, /, **fields: Any) -> None:
        self.say(at, "hostd", event, **fields)

    def history(self) -> History:
        """What the reader makes of the files, without writing them; tests of the reader itself use `write`."""
        counts: dict[tuple[str, str], int] = {}
        events = []
        for line in sorted(self.lines):
            seq = counts[line.node, line.boot] = counts.get((line.node, line.boot), -1) + 1
            events.append(
                Event(
                    node=line.node,
                    boot=f"{line.boot}{line.node}"[:12],
                    seq=seq,
                    mono_s=BOOTED_S + line.at,
                    wall_s=WALL_S + line.at,
                    event=line.event,
                    fields=line.fields,
                )
            )
        return History(events=events, producers={event.node for event in events})

    def write(self, root: Path) -> Path:
        (root / "nodes").mkdir(parents=True, exist_ok=True)
        (root / "plan.json").write_bytes(dump_plan(self.plan))
        writers: dict[tuple[str, str], HistoryWriter] = {}
        now = [0.0]
        for line in sorted(self.lines):
            now[0] = line.at
            key = (line.node, line.boot)
            if key not in writers:
                for earlier in [k for k in writers if k[0] == line.node]:
                    writers.pop(earlier).close()
                path = root / "nodes" / line.node / "history.jsonl"
                writers[key] = HistoryWriter(
                    path,
                    line.node,
                    f"{line.boot}{line.node}"[:12],
                    mono=lambda: BOOTED_S + now[0],
                    wall=lambda: WALL_S + now[0],
                )
            writers[key].append(line.event, **line.fields)
        for writer in writers.values():
            writer.close()
        return root


def direction(shape: Shape, *, off: float = 0.012, ok: bool = True) -> dict[str, Any]:
    requested = {
        "rate_bit_s": shape.rate_bit_s,
        "delay_s": shape.delay_s,
        "jitter_s": shape.jitter_s,
        "loss": shape.loss,
    }
    rate = (shape.rate_bit_s or 0) * (1 - off)
    effective = {
        "rate_bit_s": rate,
        "delay_s": shape.delay_s + 0.0004,
        "jitter_s": shape.jitter_s,
        "loss": shape.loss,
    }
    error = {"rate": -off, "delay_s": 0.0004, "jitter_s": 0.0, "loss": 0.0}
    return {"requested": requested, "effective": effective, "error": error, "ok": ok}


def bring_up(script: Script) -> float:
    """Runner, hostd, gates, hellos; returns when the first round may open."""
    plan = script.plan
    script.say(
        0.0,
        "runner",
        "up",
        services=["broker", "coordinator", "hostd"] + [d.name for d in plan.devices],
        images={},
    )
    script.coordinator(
        3.0,
        "run_started",
        run=plan.run,
        epoch=1,
        devices=sorted(d.name for d in plan.devices),
        parameters=PARAMETERS,
    )
    checks = {"sch_tbf": True, "sch_netem": False, "nfnetlink_queue": True}
    script.hostd(
        3.1,
        "probed",
        kernel="6.1.0",
        docker="20.10.24",
        cgroup="v2",
        backend="nfqueue",
        reason="sch_netem is not in this kernel",
        checks=checks,
    )
    for device in plan.devices:
        at = 4.0 + device.index * 0.1
        script.say(at, device.name, "agent_started", software="edge-agent 0.1.0", threads=1)
        script.hostd(at, "container_started", node=device.name, boot="b1", pid=4000 + device.index)
        script.hostd(
            at + 1.0,
            "link_applied",
            device=device.name,
            device_boot="b1",
            backend="nfqueue",
            requested={},
            readback={},
        )
        script.hostd(
            at + 14.0,
            "link_verified",
            device=device.name,
            boot="b1",
            ok=True,
            directions={"up": direction(device.link.up), "down": direction(device.link.down)},
        )
        script.hostd(
            at + 22.0,
            "cpu_verified",
            device=device.name,
            requested=device.cpus,
            effective=round(device.cpus * 0.99, 4),
            error=-0.01,
            ok=True,
        )
        script.hostd(at + 23.0, "gate_opened", node=device.name, token=f"40265{device.index}-77")
        script.say(at + 23.2, device.name, "gate_passed", token=f"40265{device.index}-77", waited_s=23.2)
        script.say(at + 23.6, device.name, "connected", session_present=False)
        script.coordinator(at + 23.7, "agent_online", agent=device.name, boot="b1")
        script.coordinator(
            at + 23.7, "hello", agent=device.name, boot="b1", version=None, task=None, spool=[], unsettled=[]
        )
    script.hostd(28.0, "ready", devices=len(plan.devices), wall_s=24.9)
    for fault in plan.faults:
        script.hostd(
            28.1,
            "fault_armed",
            fault=fault.id,
            kind=fault.kind,
            trigger="round 2 collecting",
            targets=list(fault.targets),
        )
    script.coordinator(
        28.5,
        "evaluated",
        version=0,
        round=0,
        accuracy=ACCURACY[0],
        loss=2.31,
        samples=2000,
        per_class=[0.1] * 10,
    )
    return 29.0


def step_times(device: DevicePlan, round_: int) -> tuple[float, float]:
    """Seconds of fetching and training; slower devices and links take longer, the first fetch is the whole
    model.
    """
    full = RAW_BYTES / 2 if round_ == 1 else 18_000
    fetch = 0.2 + full * 8 / (device.link.down.rate_bit_s or 1e8)
    return fetch, 1.1 / device.cpus + 0.1 * (device.index % 3)


def payload_bytes(device: DevicePlan, round_: int) -> int:
    """With headers; the zeros send one chunk again in every round."""
    size, chunks = update_size(device, round_)
    again = 1 if device.group == "zero" else 0
    return size + (chunks + again) * CHUNK_HEADER_BYTES + again * (size // chunks)


def update_size(device: DevicePlan, round_: int) -> tuple[int, int]:
    return UPDATE_BYTES + device.index * 10 + round_, 2


def report_of(device: DevicePlan, round_: int) -> dict[str, Any]:
    fetch_s, train_s = step_times(device, round_)
    return {
        "samples": 1000,
        "steps": 63,
        "loss": round(1.2 / round_, 4),
        "train_s": train_s,
        "step_s": train_s / 63,
        "fetch_s": fetch_s,
        "fetch_bytes": 18_000,
        "peak_rss_bytes": 88_000_000 + device.index * 1_000_000,
        "residual_norm": 0.4,
        "raw_bytes": RAW_BYTES,
    }


def work(
    script: Script, device: DevicePlan, round_: int, at: float, boot: str = "b1", *, upload: bool = True
) -> float:
    """One task from its arrival to its ack; returns when it was acked (or offered, without the upload)."""
    task, name = task_name(round_, device), device.name
    digest, (size, chunks) = sha(task, name), update_size(device, round_)
    sent = payload_bytes(device, round_)
    fetch_s, train_s = step_times(device, round_)

    def me(at: float, event: str, **fields: Any) -> None:
        script.say(at, name, event, boot, task=task, **fields)

    me(at, "task_received", round=round_, version=round_ - 1)
    script.coordinator(at + 0.1, "task_progress", task=task, agent=name, phase="fetching")
    at += fetch_s
    me(at, "model_fetched", version=round_ - 1, object=f"v{round_ - 1}", bytes=18_000, wall_s=fetch_s)
    script.coordinator(at + 0.1, "task_progress", task=task, agent=name, phase="training")
    if not upload:
        return at + train_s * 0.6
    at += train_s
    me(
        at,
        "trained",
        samples=1000,
        steps=63,
        loss=1.2 / round_,
        train_s=train_s,
        step_s=train_s / 63,
        peak_rss_bytes=88_000_000 + device.index * 1_000_000,
    )
    me(at + 0.1, "encoded", sha256=digest, bytes=size, raw_bytes=RAW_BYTES, residual_norm=0.4)
    me(at + 0.12, "spooled", sha256=digest)
    named = {"task": task, "agent": name, "sha256": digest}
    script.coordinator(at + 0.3, "update_offered", **named, bytes=size, report=report_of(device, round_))
    script.coordinator(at + 0.31, "update_granted", **named)
    at += 0.4 + size * 8 / (device.link.up.rate_bit_s or 1e8) + device.link.up.delay_s
    me(at, "sent", payload_bytes=sent, chunks=chunks, resent=1 if device.group == "zero" else 0)
    script.coordinator(at + 0.05, "update_received", **named, bytes=size, payload_bytes=sent, chunks=chunks)
    script.coordinator(at + 0.06, "update_journalled", **named)
    script.coordinator(at + 0.061, "update_acked", **named)
    me(at + 0.1, "acked", sha256=digest)
    return at + 0.11


def kill(script: Script, device: DevicePlan, at: float) -> float:
    """Killed while it trains, healed six seconds later; its spool held nothing, so it begins the task
    again.
    """
    script.hostd(at, "fault_applied", fault="kill-1", kind="kill", targets=[device.name], lateness_s=0.21)
    script.hostd(at + 0.1, "container_died", node=device.name, boot="b1", exit_code=137)
    script.hostd(at + 0.2, "fault_verified", fault="kill-1", ok=True, detail="no process left")
    script.coordinator(at + 0.4, "agent_offline", agent=device.name, boot="b1")
    healed = at + 6.0
    script.hostd(healed, "container_started", node=device.name, boot="b2", pid=5000)
    script.hostd(
        healed + 0.2,
        "link_applied",
        device=device.name,
        device_boot="b2",
        backend="nfqueue",
        requested={},
        readback={},
    )
    script.hostd(healed + 0.6, "gate_opened", node=device.name, token="402659-99")
    script.hostd(healed + 0.7, "fault_healed", fault="kill-1", targets=[device.name], wall_s=0.7)
    script.say(healed + 0.3, device.name, "agent_started", "b2", software="edge-agent 0.1.0", threads=1)
    script.say(healed + 0.7, device.name, "gate_passed", "b2", token="402659-99", waited_s=0.4)
    script.say(healed + 0.9, device.name, "connected", "b2", session_present=False)
    script.coordinator(healed + 1.0, "agent_online", agent=device.name, boot="b2")
    script.coordinator(
        healed + 1.0, "hello", agent=device.name, boot="b2", version=None, task=None, spool=[], unsettled=[]
    )
    return healed + 1.1


def play_round(script: Script, round_: int, at: float) -> float:
    plan, boot = script.plan, "b1"
    cohort = [d.name for d in plan.devices]
    script.coordinator(
        at, "round_opened", round=round_, version=round_ - 1, cohort=cohort, deadline_s=30.0, quorum=7
    )
    ends = []
    for device in plan.devices:
        script.coordinator(
            at + 0.01,
            "task_opened",
            task=task_name(round_, device),
            agent=device.name,
            round=round_,
            version=round_ - 1,
            deadline_s=30.0,
        )
        boot = "b2" if device.name == KILLED and round_ > KILL_ROUND else "b1"
        begin = at + 0.2
        if device.name == KILLED and round_ == KILL_ROUND:
            begin, boot = kill(script, device, work(script, device, round_, begin, upload=False)), "b2"
        ends.append(work(script, device, round_, begin, boot))
    for_ = [{"agent": cohort[-1], "phase": "training", "since_s": 4.0, "until_s": 30.0}]
    script.coordinator(at + 5.0, "waiting", round=round_, **{"for": for_})
    return close_round(script, round_, max(ends) + 0.2)


def close_round(script: Script, round_: int, at: float) -> float:
    merged = [
        {
            "task": task_name(round_, d),
            "agent": d.name,
            "sha256": sha(task_name(round_, d), d.name),
            "weight": 1000.0,
        }
        for d in script.plan.devices
    ]
    script.coordinator(
        at, "version_committed", version=round_, sha256=sha("version", round_), round=round_, updates=merged
    )
    for index, update in enumerate(merged):
        named = {"task": update["task"], "agent": update["agent"]}
        script.coordinator(
            at + 0.001 * index,
            "task_closed",
            **named,
            round=round_,
            state="merged",
            reason=f"version {round_}",
        )
        boot = "b2" if update["agent"] == KILLED and round_ >= KILL_ROUND else "b1"
        script.say(
            at + 0.2,
            str(update["agent"]),
            "settled",
            boot,
            task=update["task"],
            outcome="merged",
            residual_norm=0.4,
        )
    objects = [{"name": f"v{round_}", "bytes": RAW_BYTES // 2, "chunks": 13}]
    script.coordinator(at + 0.05, "version_published", version=round_, objects=objects)
    script.coordinator(
        at + 0.06,
        "round_closed",
        round=round_,
        version=round_,
        merged=len(merged),
        missing=[],
        reason="complete",
        wall_s=ROUND_S,
    )
    script.coordinator(
        at + 0.9,
        "evaluated",
        version=round_,
        round=round_,
        accuracy=ACCURACY[round_],
        loss=round(1.1 / (round_ + 1), 4),
        samples=2000,
        per_class=[ACCURACY[round_]] * 10,
    )
    script.coordinator(
        at + 0.95, "broker_sample", dropped=0, received_bytes=10_000 * round_, sent_bytes=90_000 * round_
    )
    for device in script.plan.devices:
        usage = 5.0 * round_ * device.cpus
        script.hostd(
            at + 0.5,
            "cpu_sample",
            device=device.name,
            usage_s=usage,
            throttled_s=usage / 3,
            periods=100 * round_,
            throttled_periods=40 * round_,
        )
        script.hostd(
            at + 0.5,
            "link_sample",
            device=device.name,
            up_bytes=5_000 * round_,
            down_bytes=60_000 * round_,
            up_packets=30 * round_,
            down_packets=60 * round_,
            dropped=0,
        )
    return at + 1.0


def finish(script: Script, at: float, reason: str = "target") -> float:
    script.coordinator(at, "run_finished", reason=reason, version=ROUNDS, accuracy=ACCURACY[ROUNDS])
    for device in script.plan.devices:
        boot = "b2" if device.name == KILLED else "b1"
        script.say(
            at + 0.2,
            device.name,
            "traffic",
            boot,
            mqtt_sent=MQTT_BYTES,
            mqtt_received=2 * MQTT_BYTES,
            wire_sent=WIRE_BYTES,
            wire_received=2 * WIRE_BYTES,
            wire="interface eth0",
        )
        script.say(
            at + 0.3,
            device.name,
            "agent_stopped",
            boot,
            reason="finish",
            peak_rss_bytes=90_000_000 + device.index * 1_000_000,
        )
        script.coordinator(at + 0.4, "agent_offline", agent=device.name, boot=boot)
        script.hostd(at + 0.5, "container_died", node=device.name, boot=boot, exit_code=0)
    script.hostd(at + 1.0, "healed_all", reason="finished", left=[])
    script.say(at + 1.5, "runner", "phase", name="start", wall_s=3.9)
    script.say(at + 2.0, "runner", "down", reason="finished")
    script.say(at + 3.0, "runner", "cleaned", left=[])
    return at + 2.0


def whole_run(**changes: Any) -> Script:
    """The run that passes."""
    script = Script(make_plan(**changes))
    at = bring_up(script)
    for round_ in range(1, ROUNDS + 1):
        at = play_round(script, round_, at)
    finish(script, at)
    return script
