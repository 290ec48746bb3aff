"""What the fuzzer calls beyond wire/: whatever a peer, a device's disk or a hand-written file can put before a service.

Each target feeds bytes through the real decoder *and* through what acts on the result, because "never an exception
that stops a loop" is a property of both. `scripts/fuzz` searches with coverage guidance; `test_fuzz_corpus` replays
what was kept.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from support.rig_root import PARAMETERS, make_plan

from coordinator import actions as ca
from coordinator import config as coordinator_config
from coordinator import events as ce
from coordinator.core import CoordinatorCore, fresh_state
from coordinator.inbound import Complete, Inbound
from coordinator.inbox import Delivery
from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.config import load_config
from edge_agent.core import AgentCore
from edge_agent.errors import ConfigurationError
from edge_agent.fetch import Fetch
from edge_agent.transfer import Downloads
from history.derive import derive
from history.reader import read_history
from history.summarize import summarize
from learning.artifact import ArtifactError, TrainingArtifact
from topology.plan import AgentConfig
from wire import messages as m
from wire.chunks import split

RUN, AGENT, TASK = "run-1", "d-0", "r1-t1"
UPDATE = bytes(range(256)) * 4
SHA256 = hashlib.sha256(UPDATE).hexdigest()
FOLDER = Path(tempfile.gettempdir())


def pieces(data: bytes) -> Iterator[bytes]:
    """Several messages in one input: each after two bytes of length."""
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


# --- the coordinator: deliveries on any topic ----------------------------------------------------------------------


class _Refusals:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, agent: str, topic: str, reason: str, size: int) -> None:
        assert reason, "a refusal says why"
        self.count += 1


def inbound(data: bytes) -> None:
    """Pairs of topic and payload, through `Inbound` into a core with an open round and one grant."""
    door = Inbound(RUN, bytes_max=4_096, objects_max=4, refuse=_refuse, defect_of=lambda _payload: "")
    config = coordinator_config.from_plan(make_plan(2), PARAMETERS)
    core = CoordinatorCore(config, fresh_state(config))
    _decide(core, door, ce.Started(), 0.0)
    _decide(core, door, ce.Connected(), 0.0)
    for name in config.agents:  # both are here: round 1 opens, with the tasks r1-t1 and r1-t2
        _decide(core, door, ce.MessageArrived(agent=name, message=m.Hello(boot="b1", samples=50)), 0.0)
    messages = pieces(data)
    for now, (topic, payload) in enumerate(zip(messages, messages, strict=False)):
        text = topic.decode("utf-8", "replace")
        event = door.take(Delivery(text, payload, retained=False), float(now))
        event = event.event if isinstance(event, Complete) else event
        if event is not None:
            _decide(core, door, event, float(now))


def _refuse(agent: str, topic: str, reason: str, size: int) -> None:
    assert reason, "a refusal says why"


def _decide(core: CoordinatorCore, door: Inbound, event: ce.Event, now: float) -> None:
    """One event, with a journal that takes everything."""
    waiting = [event]
    while waiting:
        for action in core.handle(waiting.pop(0), now):
            match action:
                case ca.SendTask():
                    door.expect(action.agent, action.task, m.INLINE_BYTES_MAX)
                case ca.SendGrant():
                    door.grant(action.agent, action.task, action.sha256, action.bytes)
                case ca.DropAssembly():
                    door.drop(action.agent, action.task)
                case ca.JournalUpdate():
                    waiting.append(
                        ce.UpdateJournalled(agent=action.agent, task=action.task, sha256=action.sha256)
                    )
                case ca.CommitVersion():
                    waiting.append(ce.VersionCommitted(version=action.version, sha256="d" * 64, refused=()))
    core.validate()


# --- an agent: a coordinator that sends anything --------------------------------------------------------------------


def agent(data: bytes) -> None:
    """Messages from a hostile coordinator; all work succeeds, so that every phase of a task is met by them."""
    core = AgentCore(boot="b1", samples=50)
    _work(core, e.Connected())
    for message in pieces(data):
        with suppress(m.MessageError):
            _work(core, e.MessageArrived(message=m.decode_down(message)))


def _work(core: AgentCore, event: e.Event) -> None:
    waiting = [event]
    for now in range(
        64
    ):  # a message starts a handful of steps; this only bounds a loop that would be our bug
        if not waiting:
            return
        actions = core.handle(waiting.pop(0), float(now))
        core.validate()
        waiting += [answer for action in actions if (answer := _answer(action)) is not None]


def _answer(action: a.Action) -> e.Event | None:
    match action:
        case a.Fetch():
            version, sha256 = action.leads_to, action.object.sha256
            if action.model is not None:
                sha256 = action.model.sha256
            return e.ObjectReady(
                task=action.task, name=action.object.name, bytes=1, wall_s=0.1, version=version, sha256=sha256
            )
        case a.Train():
            return e.Trained(
                task=action.task, samples=1, steps=1, loss=1.0, train_s=0.1, step_s=0.1, peak_rss_bytes=1
            )
        case a.Encode():
            return e.Encoded(task=action.task, sha256=SHA256, bytes=len(UPDATE), report=REPORT)
        case a.Commit():
            return e.Spooled(task=action.task, sha256=action.sha256)
        case a.Settle():
            return e.Settled(task=action.task, residual_norm=0.0)
    return None


REPORT = m.Report(
    samples=1, steps=1, loss=1.0, train_s=0.1, step_s=0.1, fetch_s=0.0, fetch_bytes=0, peak_rss_bytes=1,
    residual_norm=0.0, raw_bytes=4,
)  # fmt: skip


class _Client:
    """Subscribes to everything and publishes nothing."""

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None:
        return None

    def subscribe(self, topics: Sequence[str]) -> None: ...
    def unsubscribe(self, topics: Sequence[str]) -> None: ...


class _Worker:
    def start(self) -> None: ...
    def submit(self, job: object) -> None: ...
    def stop(self, task: str) -> None: ...
    def discard(self, task: str) -> None: ...
    def close(self, wait_s: float) -> bool:
        return True


CONFIG = AgentConfig(
    run=RUN, agent=AGENT, broker_host="b", broker_port=1, username=AGENT, password_file="", shard="", state=""
)
WANTED = m.ObjectRef(name="v1", bytes=len(UPDATE), chunks=4, sha256=SHA256)


def download(data: bytes) -> None:
    """Pairs of topic and chunk while an object of four chunks is awaited."""
    downloads = Downloads(CONFIG, _Client(), _Worker(), lambda _event: None, lambda: 0.0)
    downloads.start(a.Fetch(task=TASK, object=WANTED, model=None, leads_to=None))
    messages = pieces(data)
    for topic, payload in zip(messages, messages, strict=False):
        downloads.message(f"rig/{RUN}/model/" + topic.decode("utf-8", "replace"), payload)
    fetch = Fetch(TASK, WANTED, None, None, 1_000_000, 0.0)
    for index, payload in enumerate(pieces(data)):
        fetch.chunk(index % 4, payload, 0.0)
        assert fetch.payload in (None, UPDATE)


# --- files ---------------------------------------------------------------------------------------------------------


def artifact(data: bytes) -> None:
    """What an agent takes for a training graph."""
    with suppress(ArtifactError):
        found = TrainingArtifact.from_bytes(data)
        assert sum(part.stop - part.start for part in found.slices) == found.size


def configuration(data: bytes) -> None:
    """A hand-written agent.yaml."""
    path = FOLDER / "edgerig-fuzz-agent.yaml"
    path.write_bytes(data)
    with suppress(ConfigurationError):
        load_config(path)


def history(data: bytes) -> None:
    """A device's own history file beside an honest coordinator's: read, derived, summed up, judged."""
    root = FOLDER / "edgerig-fuzz-run"
    for node, content in ((AGENT, data), ("coordinator", data)):
        (root / "nodes" / node).mkdir(parents=True, exist_ok=True)
        (root / "nodes" / node / "history.jsonl").write_bytes(content)
    summarize(derive(read_history(root), PLAN))


PLAN = make_plan(2)

TARGETS: dict[str, Callable[[bytes], None]] = {
    "inbound": inbound,
    "agent": agent,
    "download": download,
    "artifact": artifact,
    "configuration": configuration,
    "history": history,
}


# --- where the search starts ---------------------------------------------------------------------------------------


def joined(*messages: bytes) -> bytes:
    """The inverse of `pieces`."""
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def seeds() -> dict[str, list[bytes]]:
    """Honest inputs for every target: a fuzzer does not invent msgpack."""
    from support.rig_root import make_artifact

    chunks = split(UPDATE, 256)
    sha = "a" * 64
    full = m.ObjectRef(name="v0", bytes=200, chunks=2, sha256=sha)
    model = m.ModelRef(version=0, sha256="b" * 64, parameters=80, dtype="fp16", full=full)
    graph = m.ObjectRef(name="graph-1", bytes=100, chunks=1, sha256="c" * 64)
    train = m.TrainSpec(local_epochs=1, batch_size=16, lr=0.1)
    task = m.Task(
        task=TASK,
        round=1,
        model=model,
        graph=graph,
        train=train,
        uplink=m.UplinkSpec(),
        seed=1,
        deadline_s=30.0,
    )
    grant = m.Grant(task=TASK, sha256=SHA256, chunk_bytes=256, window_bytes=1_024)
    ack = m.Ack(task=TASK, sha256=SHA256)
    outcomes = [m.Outcome(task=TASK, sha256=SHA256, outcome=kind) for kind in m.OUTCOMES]  # type: ignore[arg-type]
    down = [
        m.encode(x) for x in (task, grant, ack, *outcomes, m.Cancel(task=TASK), m.Resync(epoch=1), m.Finish())
    ]
    spool = (m.SpoolItem(task=TASK, sha256=SHA256, bytes=len(UPDATE)),)
    up = {
        "hello": m.Hello(boot="b1", version=0, version_sha256=sha, task=TASK, spool=spool, unsettled=(TASK,)),
        "offer": m.Offer(task=TASK, sha256=SHA256, bytes=len(UPDATE), report=REPORT),
        "progress": m.Progress(task=TASK, phase="training", done=1, total=2),
        "failed": m.Failed(task=TASK, reason="because"),
        "ask": m.Ask(tasks=(TASK,)),
    }
    control = [(f"rig/{RUN}/up/{AGENT}/{kind}".encode(), m.encode(x)) for kind, x in up.items()]
    sent = [(f"rig/{RUN}/up/{AGENT}/update/{TASK}/{i}".encode(), chunk) for i, chunk in enumerate(chunks)]
    status = (f"rig/{RUN}/status/{AGENT}".encode(), m.encode(m.Status(online=False, boot="b1")))
    lines = [
        f'{{"node":"{AGENT}","boot":"b1","seq":{i},"mono_s":{i}.0,"wall_s":{i}.0,"event":"{name}","fields":{fields}}}'
        for i, (name, fields) in enumerate(
            [
                ("agent_started", '{"software":"x","threads":1}'),
                ("run_started", '{"run":"run-1","epoch":1,"devices":2,"parameters":80}'),
                ("round_opened", '{"round":1,"version":0,"cohort":["d-0"],"deadline_s":20.0,"quorum":1}'),
                ("task_opened", f'{{"task":"{TASK}","agent":"{AGENT}","round":1,"version":0,"deadline_s":20.0}}'),
                ("encoded", f'{{"task":"{TASK}","sha256":"{sha}","bytes":9,"raw_bytes":320,"residual_norm":0.1}}'),
                ("update_received", f'{{"task":"{TASK}","agent":"{AGENT}","sha256":"{sha}","bytes":9}}'),
                ("sent", f'{{"task":"{TASK}","payload_bytes":65,"chunks":1,"resent":0}}'),
                ("acked", f'{{"task":"{TASK}","sha256":"{sha}"}}'),
                ("version_committed", f'{{"version":1,"sha256":"{sha}","round":1,"updates":'
                 f'[{{"task":"{TASK}","agent":"{AGENT}","sha256":"{sha}","weight":1.0}}]}}'),
                ("evaluated", '{"version":1,"round":1,"accuracy":0.5,"loss":1.0,"samples":40,"per_class":[0.5]}'),
                ("round_closed", '{"round":1,"version":1,"merged":1,"missing":[],"reason":"x","wall_s":1.0}'),
                ("run_finished", '{"reason":"rounds","version":1,"accuracy":0.5}'),
            ]
        )
    ]  # fmt: skip
    yaml = "\n".join(f"{name}: {getattr(CONFIG, name)!r}" for name in CONFIG.__struct_fields__)
    return {
        "inbound": [
            *(joined(*pair) for pair in control),
            joined(*status),
            joined(*(part for pair in sent for part in pair)),
            joined(*(part for pair in [*control, *sent] for part in pair)),
        ],
        "agent": [joined(*down), joined(*down[::-1]), *(joined(down[0], x) for x in down[1:])],
        "download": [joined(*(part for i, c in enumerate(chunks) for part in (f"v1/{i}".encode(), c)))],
        "artifact": [make_artifact().to_bytes()],
        "configuration": [yaml.encode(), b"run: r\n", b"- 1\n"],
        "history": ["\n".join(lines).encode() + b"\n", *(line.encode() + b"\n" for line in lines)],
    }
