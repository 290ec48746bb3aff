"""Signals come where they are least welcome: around a fork, inside a library, in the middle of a teardown."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from test_driver import UP, Clock, FakeRuntime, Silent, a_plan

from compose import engine, signals
from compose.driver import Driver
from compose.errors import EnvironmentProblem, Interrupted
from compose.process_service import Service
from compose.signals import deferred, interruptible, settle

armed = False


def _around_a_fork() -> None:
    if armed:
        os.kill(os.getpid(), signal.SIGTERM)


os.register_at_fork(before=_around_a_fork)  # it cannot be taken back, so it does nothing unless `armed`


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service("pi-1", "agent", ["sleep", "60"], tmp_path / "log")
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait(5)


def test_a_signal_around_a_fork_is_answered_and_the_child_has_an_owner(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python swallows what is raised in its hooks of a fork."""
    monkeypatch.setattr(sys.modules[__name__], "armed", True)
    interrupted(service.start)
    assert service.running


def come(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def swallow() -> None:
    with contextlib.suppress(BaseException):
        come()


def interrupted(body: Callable[[], object]) -> str:
    """The signal that ended the body."""
    with pytest.raises(Interrupted) as caught, interruptible():
        body()
    return caught.value.signal_name


def test_a_signal_that_was_swallowed_is_raised_at_the_next_safe_point() -> None:
    assert interrupted(lambda: (swallow(), signals.check())) == "SIGTERM"


def test_a_second_signal_is_raised_where_the_first_was_swallowed() -> None:
    assert interrupted(lambda: (swallow(), come(signal.SIGINT))) == "SIGTERM"


def test_a_second_signal_does_not_cut_short_the_cleaning_up_after_the_first() -> None:
    cleaned = []

    def body() -> None:
        try:
            come()
        finally:
            come(signal.SIGINT)
            cleaned.append(True)

    assert interrupted(body) == "SIGTERM"
    assert cleaned


def test_what_waits_is_answered_at_the_end() -> None:
    reached = []

    def body() -> None:
        with deferred():
            come()
            reached.append(True)
        reached.append(False)

    interrupted(body)
    assert reached == [True]


def test_a_held_signal_waits_for_whoever_held_first() -> None:
    reached = []

    def body() -> None:
        inbox = signals.of_this_thread()
        inbox.held = True
        with deferred():
            come()
        reached.append(True)
        inbox.held = False
        signals.check()
        reached.append(False)

    interrupted(body)
    assert reached == [True]


def test_a_verdict_stands_whatever_comes() -> None:
    went_on = False
    with interruptible():
        settle(0)
        come()
        went_on = True
    assert went_on


def test_a_hang_up_under_nohup_is_none() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            come(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_within_a_call_of_the_docker_library_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library makes an error of its own of every Exception."""
    path = tmp_path / "docker.sock"
    clients: list[socket.socket] = []

    def serve() -> None:
        clients.append(server.accept()[0])
        clients[0].recv(1)  # the client has sent, and waits for an answer
        come()

    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        assert interrupted(engine.client) == "SIGTERM"
        thread.join()
    clients[0].close()


class _AtCall:
    """A signal at the n-th place where CPython looks for one: the start of a function, the end of a call of C."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event not in ("call", "c_return"):
            return
        self.left -= 1
        if self.left == 0:
            sys.setprofile(None)
            signals.of_this_thread().on_signal(signal.SIGTERM, frame)


class Counting(FakeRuntime):
    started = 0

    def start(self) -> None:
        self.started += 1


def _run_with_a_signal_at(n: int, root: Path) -> tuple[bool, Counting]:
    """Whether the run had that many such places; and what was done to its runtime."""
    over: dict[str, int | None] = {**UP, "coordinator": 0, "hostd": 0}
    runtime, clock = Counting([UP, over]), Clock()
    driver = Driver(runtime, a_plan(), root, Silent(), clock=clock, wait=clock.wait)
    place = _AtCall(n)
    with contextlib.suppress(Interrupted), interruptible():
        try:
            sys.setprofile(place)
            driver.run()
        finally:
            sys.setprofile(None)
    return place.left <= 0, runtime


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some places swallow it
def test_wherever_a_signal_comes_the_run_is_torn_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of runs, and none outlives the test
    places, reached, starts = 0, True, 0
    while reached:
        places += 1
        reached, runtime = _run_with_a_signal_at(places, tmp_path / str(places))
        assert runtime.stopped >= runtime.started, f"signal at place {places}"
        starts += runtime.started
    assert starts > places - 20, "all but the first few come after the start"
    assert places > 100


def test_a_runtime_that_swallows_the_signal_does_not_run_on(tmp_path: Path) -> None:
    class Swallowing(FakeRuntime):
        def nodes(self) -> list[object]:  # type: ignore[override]
            swallow()
            return super().nodes()  # type: ignore[return-value]

    runtime, clock = Swallowing([UP]), Clock()
    driver = Driver(runtime, a_plan(), tmp_path, Silent(), clock=clock, wait=clock.wait)
    interrupted(driver.run)
    assert runtime.stopped == 1
    assert clock.now < 1


@pytest.mark.parametrize(
    ("left", "said"),
    [([], "gone"), (["network n"], "left behind: network n"), (None, "nobody could say")],
)
def test_an_interrupted_run_says_what_is_left(tmp_path: Path, left: list[str] | None, said: str) -> None:
    class Leaving(FakeRuntime):
        def left(self) -> list[str]:
            if left is None:
                raise EnvironmentProblem("the engine has gone")
            return left

    driver = Driver(Leaving([UP], Interrupted("SIGINT")), a_plan(), tmp_path, Silent())
    with pytest.raises(Interrupted) as caught:
        driver.run()
    text = "\n".join(caught.value.lines())
    assert said in text
    assert ("gone" in text) != ("edgerig sweep" in text)
