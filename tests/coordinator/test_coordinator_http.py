"""The run's state over HTTP: what it says, and that whatever comes costs its sender only."""

from __future__ import annotations

import http.client
import json
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from coordinator_world import make_config
from hypothesis import given
from hypothesis import strategies as st
from support.rig_root import make_plan
from test_coordinator_service import Rig, until
from test_coordinator_stories import Stage

from coordinator import actions as a
from coordinator.picture import Picture
from coordinator.status.board import SILENCE_S_MAX, Board
from coordinator.status.metrics import Family, Sample, families, render
from coordinator.status.pages import answer, page_of
from coordinator.status.tally import Tally
from edgerig.status import describe
from wire import messages as m


def a_stage() -> Stage:
    stage = Stage(make_config(3, policy={"kind": "synchronous", "cohort": 3, "deadline_s": 60.0}))
    stage.everybody()
    stage.give("d-1")
    stage.say("d-2", m.Progress(task=stage.task("d-2"), phase="training", done=0, total=1))
    stage.wait(3.0)
    return stage


def tally_of(stage: Stage) -> Tally:
    tally = Tally()
    for action in stage.done:
        if isinstance(action, a.Record):
            tally.note(action.event, action.fields)
    return tally


def picture_of(stage: Stage) -> Picture:
    return stage.core.picture(stage.now)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class LookedAt(Board):
    """A board whose loop looks whenever it is asked."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def latest(self):  # type: ignore[no-untyped-def]
        self._wanted_until = float("inf")
        self.look(lambda: (picture_of(self.stage), tally_of(self.stage)))
        return super().latest()


def get(path: str, board: Board, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str, bytes]:
    response = answer(f"{method} {path} HTTP/1.1\r\nHost: {host}".encode(), partial(page_of, board=board))
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_status_says_for_whom_since_when_until_when_and_what_each_one_last_said() -> None:
    status, head, body = get("/status", LookedAt(a_stage()))
    said = json.loads(body)
    assert status == 200
    assert "application/json" in head
    assert (said["state"], said["why"], said["round"]) == ("collecting", "updates of round 1, for 3 s", 1)
    assert (said["have"], said["want"]) == (1, 3)
    waiting = {item["agent"]: item for item in said["waiting"]}
    assert waiting.keys() == {"d-0", "d-2"}
    assert waiting["d-2"]["phase"] == "training"
    assert waiting["d-2"]["since_s"] == 3.0
    assert waiting["d-2"]["heard_s"] == 3.0
    assert 50 < waiting["d-2"]["until_s"] <= 60


def test_before_a_round_it_waits_for_those_that_are_absent() -> None:
    stage = Stage(make_config(3))
    stage.hello("d-1")
    stage.wait(4.0)
    seen = picture_of(stage)
    assert seen.state == "gathering"
    assert [(item["agent"], item["phase"]) for item in seen.waiting] == [("d-0", "absent"), ("d-2", "absent")]


def test_looking_changes_nothing() -> None:
    stage = a_stage()
    before = stage.core.next_wakeup(stage.now), repr(stage.core.state)
    picture_of(stage)
    assert (stage.core.next_wakeup(stage.now), repr(stage.core.state)) == before


def test_the_metrics_are_what_the_parser_of_prometheus_takes() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    status, head, body = get("/metrics", LookedAt(a_stage()))
    assert status == 200
    assert "text/plain; version=0.0.4" in head
    found = {family.name: family for family in parser.text_string_to_metric_families(body.decode())}
    assert all(family.documentation for family in found.values())
    assert all(name.startswith("edgerig_") for name in found)
    assert all(family.type in ("counter", "gauge") for family in found.values()), found
    acked = found["edgerig_updates_acked"]
    assert (acked.type, [(s.name, s.value) for s in acked.samples]) == (
        "counter",
        [("edgerig_updates_acked_total", 1.0)],
    )
    tasks = {s.labels["state"]: s.value for s in found["edgerig_tasks"].samples}
    assert (tasks["acked"], tasks["training"], tasks["offered"]) == (1, 1, 0)
    assert {s.labels["device"] for s in found["edgerig_device_online"].samples} == {"d-0", "d-1", "d-2"}
    assert found["edgerig_waiting_devices"].samples[0].value == 2


def test_counters_end_in_total_and_no_family_comes_twice() -> None:
    board = LookedAt(a_stage())
    snapshot = board.latest()
    assert snapshot is not None
    named = [(family.name, family.kind) for family in families(snapshot, 0.0)]
    assert len({name for name, _ in named}) == len(named)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in named)


@given(st.text(max_size=40), st.floats())
def test_any_label_and_any_number_survive_the_format(text: str, value: float) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    line = render([Family("edgerig_x", "gauge", text or "x", [Sample({"device": text}, value)])])
    (family,) = parser.text_string_to_metric_families(line)
    (sample,) = family.samples
    assert sample.labels == {"device": text}
    assert sample.value == value or (sample.value != sample.value and value != value)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_health_is_the_loops_sign_of_life() -> None:
    clock = Clock()
    board = Board(clock)
    board.look(lambda: pytest.fail("nobody asked"))
    assert get("/healthz", board)[::2] == (200, b"ok\n")
    board.look(lambda: pytest.fail("nobody asked"), "nothing is acknowledged: the disk is full")
    assert get("/healthz", board)[::2] == (503, b"nothing is acknowledged: the disk is full\n")
    board.look(lambda: pytest.fail("nobody asked"))
    clock.now += SILENCE_S_MAX + 1
    assert get("/healthz", board)[0] == 503


def test_a_flood_of_questions_costs_the_loop_one_picture_a_second() -> None:
    clock, taken = Clock(), []
    board = Board(clock)
    board._wanted_until = clock.now + 10
    for _ in range(50):
        board.look(lambda: taken.append(1) or (picture_of(a_stage()), Tally()))  # type: ignore[func-returns-value]
        clock.now += 0.01
        board.latest()
    assert len(taken) == 1


# --- hostile requests -------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_get_one_whole_response(head: bytes) -> None:
    response = answer(head, partial(page_of, board=Board(Clock())))
    line, _, rest = response.partition(b"\r\n")
    assert line.startswith(b"HTTP/1.1 ")
    fields, _, body = rest.partition(b"\r\n\r\n")
    length = int(fields.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    assert len(body) in (length, 0)
    assert head[:3] == b"GET" or int(line.split()[1]) >= 400 or head[:4] == b"HEAD"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_only_get_and_head(method: str) -> None:
    status, head, _ = get("/status", LookedAt(a_stage()), method)
    assert status == 405
    assert "Allow: GET, HEAD" in head


def test_head_has_the_length_and_no_body() -> None:
    board = LookedAt(a_stage())
    assert get("/metrics", board, "HEAD")[2] == b""
    assert "Content-Length: 0" not in get("/metrics", board, "HEAD")[1]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("[::1]:80", 200),
        ("localhost:1", 200),
        ("172.18.0.3:9464", 200),
        ("coordinator:9464", 200),
        ("", 200),
        ("evil.example", 403),
        ("evil.example:9464", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_a_name_that_a_stranger_can_own_is_not_answered(host: str, status: int) -> None:
    assert get("/status", LookedAt(a_stage()), host=host)[0] == status


@pytest.mark.parametrize(
    "path", ["/../status", "//status", "/status/", "/etc/passwd", "http://x/status", "*"]
)
def test_other_paths_are_not_there(path: str) -> None:
    assert get(path, LookedAt(a_stage()))[0] == 404


# --- the whole coordinator --------------------------------------------------------------------------------------------


def fetch(url: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_running_coordinator_is_read_at_the_address_that_the_status_prints(tmp_path: Path) -> None:
    rig = Rig(tmp_path, make_plan())
    try:
        rig.start()
        until(rig.seen("run_started"), "the coordinator runs")
        status = describe(rig.root, rig.plan)
        assert f"{status.url}/status" in status.text()
        code, body = fetch(status.url, "/status")
        assert (code, json.loads(body)["state"]) == (200, "gathering")
        assert {item["phase"] for item in json.loads(body)["waiting"]} == {"absent"}
        assert fetch(status.url, "/healthz") == (200, b"ok\n")
        rig.connect()
        assert rig.wait() == 0
        assert not describe(rig.root, rig.plan).url
    finally:
        rig.close()
