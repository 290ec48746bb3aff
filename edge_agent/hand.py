"""The task in hand: from its message to a committed item."""

from __future__ import annotations

import math

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent import items, paths
from edge_agent.paths import Wanted
from edge_agent.state import Ended, Hand, Item, Phase
from edge_agent.turn import Turn
from wire import messages as m
from wire.codecs import CodecError, make_chain

P = Phase
WORKING = {P.FETCHING: "fetching", P.TRAINING: "training", P.ENCODING: "encoding", P.SPOOLING: "encoding"}


# --- tasks arrive --------------------------------------------------------------------------------------------------


def task_arrived(turn: Turn, order: m.Task) -> None:
    """A new task, or a sign that the coordinator misses something about one it sent before."""
    state = turn.state
    if state.hand is not None and state.hand.task == order.task:
        _again_in_hand(turn, state.hand, order)
    elif order.task in state.items:
        items.asked_again(turn, state.items[order.task])
    elif order.task in state.ended and not _may_return(turn, state.ended[order.task]):
        _again_ended(turn, order.task, state.ended[order.task])
    else:
        _new(turn, order)


def _again_in_hand(turn: Turn, hand: Hand, order: m.Task) -> None:
    if hand.phase is P.STOPPING:
        return  # cancelled: what comes now was sent before
    hand.give_up_at = _give_up_at(turn, order)
    hand.inline_bytes = order.inline_bytes
    turn.progress(hand.task, WORKING[hand.phase], hand.done, hand.total)


def _may_return(turn: Turn, ended: Ended) -> bool:
    """A task that made room for a newer one is worth doing after all once nothing else is to do."""
    return ended.kind == "superseded" and turn.state.hand is None and turn.state.waiting is None


def _again_ended(turn: Turn, task: str, ended: Ended) -> None:
    if ended.answer is not None:
        turn.send(ended.answer)
        return
    turn.refuse("task", "ended_task")
    if ended.kind in ("failed", "superseded"):
        turn.send(m.Failed(task=task, reason=ended.reason))


def _new(turn: Turn, order: m.Task) -> None:
    state = turn.state
    problem = _problem(turn, order)
    if problem:
        turn.refuse("task", problem[0])
        turn.remember_ended(order.task, "failed", problem[1])
        turn.record("failed", task=order.task, reason=problem[1])
        turn.send(m.Failed(task=order.task, reason=problem[1]))
        return
    newest = state.waiting or (state.hand.order if state.hand else None)
    if newest is not None and order.round < newest.round:
        turn.refuse("task", "older_task")
        turn.send(m.Failed(task=order.task, reason=f"busy with {newest.task} of a later round"))
        return
    if state.waiting is not None and state.waiting.task != order.task:
        turn.remember_ended(state.waiting.task, "superseded", f"by {order.task}")
    state.waiting = order
    # What is already being encoded is nearly an update: it is finished, and the coordinator decides about it.
    if state.hand is not None and state.hand.phase in (P.FETCHING, P.TRAINING):
        stop(turn, "superseded", f"by {order.task}")


def _problem(turn: Turn, order: m.Task) -> tuple[str, str] | None:
    """Why this order is refused: (code, sentence). Everything is checked before anything is allocated."""
    limits, model = turn.limits, order.model
    largest = model.parameters * 4 + limits.object_spare_bytes
    objects = [model.full, *model.deltas, *([order.control.object] if order.control else [])]
    if model.parameters > limits.parameters_max:
        return (
            "too_large",
            f"a model of {model.parameters} parameters: this device takes {limits.parameters_max}",
        )
    if any(ref.bytes > largest for ref in objects):
        return "sizes", f"{model.parameters} parameters cannot need objects of more than {largest} bytes"
    if order.graph.bytes > limits.graph_bytes_max:
        return (
            "too_large",
            f"a graph of {order.graph.bytes} bytes: this device takes {limits.graph_bytes_max}",
        )
    if any(ref.chunks > ref.bytes for ref in (order.graph, *objects)):
        return "sizes", "more chunks than bytes"
    train = order.train
    if not _sane(train):
        return (
            "numbers",
            f"cannot train with lr {train.lr}, momentum {train.momentum}, decay {train.weight_decay}, betas "
            f"{train.beta1} and {train.beta2}, epsilon {train.epsilon}, clip {train.clip_norm}, mu {train.prox_mu}, "
            f"personal {train.personal}",
        )
    if order.control is not None and not _plain(train):
        return "control", "control variates are for plain SGD, without momentum, clipping or a proximal term"
    try:
        make_chain(order.uplink.chain, feedback=order.uplink.feedback.kind != "off")
        if order.control is not None:
            make_chain(order.control.chain)
    except CodecError as error:
        return "compression", f"cannot compress as asked: {error.detail}"
    held = len(turn.state.items) + (turn.state.hand is not None and turn.state.hand.residual_busy)
    if held >= limits.pending_max and not order.survey:
        return "pending", f"{limits.pending_max} updates still wait for their outcome"
    return None


def _sane(train: m.TrainSpec) -> bool:
    shares = (train.momentum, train.beta1, train.beta2)
    personal = train.personal.proximal if train.personal is not None else 0.0
    numbers = (train.lr, train.weight_decay, train.prox_mu, personal, *shares)
    clip = train.clip_norm
    return (
        all(math.isfinite(x) and x >= 0 for x in numbers)
        and all(share < 1 for share in shares)
        and 0 < train.epsilon < math.inf
        and (clip is None or 0 < clip < math.inf)
    )


def _plain(train: m.TrainSpec) -> bool:
    """Whether how far the model moved is the mean of the gradients (learning.scaffold)."""
    return (
        train.optimizer == "sgd"
        and train.lr > 0
        and not (train.momentum or train.prox_mu or train.clip_norm is not None)
    )


# --- the work ------------------------------------------------------------------------------------------------------


def begin_waiting(turn: Turn) -> None:
    """Take up the waiting task when the worker is free."""
    state, order = turn.state, turn.state.waiting
    if order is None or state.hand is not None:
        return
    state.waiting = None
    state.ended.pop(order.task, None)
    state.hand = hand = Hand(
        order=order,
        phase=P.FETCHING,
        give_up_at=_give_up_at(turn, order),
        inline_bytes=order.inline_bytes,
    )
    state.story.append(f"{turn.now:.3f} {order.task}: round {order.round}, version {order.model.version}")
    turn.record("task_received", task=order.task, round=order.round, version=order.model.version)
    hand.wanted = _wanted(turn, order)
    turn.progress(hand.task, "fetching")
    _fetch_next(turn, hand)


def _give_up_at(turn: Turn, order: m.Task) -> float:
    return turn.now + order.deadline_s * turn.limits.give_up_deadlines + turn.limits.give_up_spare_s


def _wanted(turn: Turn, order: m.Task) -> list[Wanted]:
    """What the device lacks, in the order in which it is fetched."""
    state, model = turn.state, order.model
    wanted: list[Wanted] = []
    if state.graph_sha256 != order.graph.sha256:
        wanted.append(Wanted(order.graph, None))
    if order.control is not None and state.control_sha256 != order.control.object.sha256:
        wanted.append(Wanted(order.control.object, None, control=True))
    if state.version_sha256 != model.sha256:
        wanted += paths.cheapest(model, state.version)
    return wanted


def _fetch_next(turn: Turn, hand: Hand) -> None:
    hand.done = hand.total = 0
    if hand.wanted:
        wanted = hand.wanted[0]
        order = hand.order
        model = order.model if wanted.leads_to is not None or wanted.control else None
        control = order.control if wanted.control else None
        turn.emit(
            a.Fetch(task=hand.task, object=wanted.ref, model=model, leads_to=wanted.leads_to, control=control)
        )
        return
    turn.state.go(hand, P.TRAINING, turn.now, "has graph and version")
    turn.progress(hand.task, "training")
    order = hand.order
    if order.survey:
        turn.emit(a.Survey(task=order.task, spec=order.train, seed=order.seed))
    elif order.probe:
        turn.emit(a.Probe(task=order.task, samples=order.probe, seed=order.seed))
    else:
        turn.emit(a.Train(task=order.task, spec=order.train, seed=order.seed, control=order.control))


def in_hand(turn: Turn, task: str, *phases: Phase) -> Hand | None:
    """The hand that this result belongs to, if it still waits for it. A stopped task ends with any result."""
    hand = turn.state.hand
    if hand is None or hand.task != task:
        raise AssertionError(
            f"a result for {task}, in hand is {hand and hand.task}: {list(turn.state.story)[-8:]}"
        )
    if hand.phase is P.STOPPING:
        turn.emit(a.Discard(task=task))
        leave(turn, hand, "the worker let go")
        return None
    if hand.phase not in phases:
        raise AssertionError(f"a result for {task} while {hand.phase}: {list(turn.state.story)[-8:]}")
    return hand


def object_ready(turn: Turn, event: e.ObjectReady) -> None:
    state = turn.state
    # What is installed is installed, also when the task it was for is not wanted any more.
    if event.control:
        state.control_sha256 = event.sha256
    elif event.version is None:
        state.graph_sha256 = event.sha256
    else:
        state.version, state.version_sha256 = event.version, event.sha256
    hand = in_hand(turn, event.task, P.FETCHING)
    if hand is None:
        return
    hand.fetch_s += event.wall_s
    hand.fetch_bytes += event.bytes
    turn.record(
        "model_fetched",
        task=event.task,
        version=hand.order.model.version,
        object=event.name,
        bytes=event.bytes,
        wall_s=round(event.wall_s, 3),
    )
    del hand.wanted[0]
    hand.tries = 0
    _fetch_next(turn, hand)


def object_failed(turn: Turn, event: e.ObjectFailed) -> None:
    """What deltas do not lead to is fetched whole; anything else is tried again, boundedly."""
    hand = in_hand(turn, event.task, P.FETCHING)
    if hand is None:
        return
    hand.tries += 1
    if hand.tries >= turn.limits.fetch_tries_max:
        fail(turn, hand, f"cannot get {event.name}: {event.reason}")
        return
    if hand.wanted[0].ref.base_version is not None:
        hand.wanted = [paths.whole(hand.order.model)]
    _fetch_next(turn, hand)


def trained(turn: Turn, event: e.Trained) -> None:
    hand = in_hand(turn, event.task, P.TRAINING)
    if hand is None:
        return
    turn.record(
        "trained",
        task=event.task,
        samples=event.samples,
        steps=event.steps,
        loss=event.loss,
        train_s=round(event.train_s, 3),
        step_s=round(event.step_s, 6),
        peak_rss_bytes=event.peak_rss_bytes,
    )
    turn.state.go(hand, P.ENCODING, turn.now, f"{event.steps} steps")
    hand.done = hand.total = 0
    turn.progress(hand.task, "encoding")
    turn.emit(
        a.Encode(
            task=hand.task,
            version=hand.order.model.version,
            uplink=hand.order.uplink,
            fetch_s=hand.fetch_s,
            fetch_bytes=hand.fetch_bytes,
        )
    )


def encoded(turn: Turn, event: e.Encoded) -> None:
    hand = in_hand(turn, event.task, P.ENCODING)
    if hand is None:
        return
    hand.sha256, hand.bytes, hand.report = event.sha256, event.bytes, event.report
    turn.record(
        "encoded",
        task=event.task,
        sha256=event.sha256,
        bytes=event.bytes,
        raw_bytes=event.report.raw_bytes,
        residual_norm=event.report.residual_norm,
        residual_share=event.report.residual_share,
    )
    turn.state.go(hand, P.SPOOLING, turn.now, f"{event.bytes} bytes")
    turn.emit(a.Commit(task=hand.task, sha256=event.sha256))


def spooled(turn: Turn, event: e.Spooled) -> None:
    hand = in_hand(turn, event.task, P.SPOOLING)
    assert hand is not None, "a task that is being spooled is never stopped"
    assert hand.report is not None, "the report came with the encoded update"
    turn.record("spooled", task=event.task, sha256=event.sha256)
    item = Item(
        task=hand.task,
        sha256=hand.sha256,
        bytes=hand.bytes,
        report=hand.report,
        phase=P.SPOOLING,
        offer_at=turn.now,
        inline=hand.bytes <= hand.inline_bytes,
    )
    turn.state.items[item.task] = item
    turn.state.hand = None
    turn.state.go(item, P.OFFERED, turn.now, "committed")
    turn.progress(item.task, "waiting")
    if isinstance(hand.fate, m.Cancel):
        items.cancelled(turn, item, hand.fate)
    elif isinstance(hand.fate, m.Outcome):
        items.outcome(turn, item, hand.fate)


def work_failed(turn: Turn, event: e.WorkFailed | e.SpoolFailed) -> None:
    hand = in_hand(turn, event.task, P.TRAINING, P.ENCODING, P.SPOOLING)
    if hand is not None:
        turn.emit(a.Discard(task=hand.task))
        fail(turn, hand, event.reason)


def work_stopped(turn: Turn, event: e.WorkStopped) -> None:
    hand = turn.state.hand
    if hand is None or hand.task != event.task or hand.phase is not P.STOPPING:
        raise AssertionError(f"{event.task} stopped, nobody asked for it: {list(turn.state.story)[-8:]}")
    in_hand(turn, event.task)


def progressed(turn: Turn, event: e.WorkProgressed) -> None:
    """Hints from the worker; one that comes late is worth nothing."""
    hand = turn.state.hand
    if hand is None or hand.task != event.task or hand.phase not in (P.FETCHING, P.TRAINING):
        return
    hand.done, hand.total = event.done, event.total
    if turn.progress_due:
        turn.progress(hand.task, WORKING[hand.phase], event.done, event.total)


# --- its end -------------------------------------------------------------------------------------------------------


def stop(turn: Turn, kind: str, reason: str) -> None:
    """Take the task out of hand: at once if nothing runs, else when the worker has let go."""
    hand = turn.state.hand
    assert hand is not None, "there is nothing in hand"
    assert hand.phase is not P.SPOOLING, "a commit is not interrupted"
    if hand.phase is P.STOPPING:
        return
    turn.remember_ended(hand.task, kind, reason)
    turn.record("cancelled", task=hand.task, reason=reason)
    hand.stopped_in = hand.phase
    turn.state.go(hand, P.STOPPING, turn.now, f"{kind}: {reason[:80]}")
    turn.emit(a.StopWork(task=hand.task))


def fail(turn: Turn, hand: Hand, reason: str) -> None:
    reason = reason[:512]
    turn.remember_ended(hand.task, "failed", reason)
    turn.record("failed", task=hand.task, reason=reason)
    turn.send(m.Failed(task=hand.task, reason=reason))
    leave(turn, hand, reason[:80])


def leave(turn: Turn, hand: Hand, why: str) -> None:
    turn.state.go(hand, P.ENDED, turn.now, why)
    turn.state.hand = None


def give_up(turn: Turn) -> None:
    """No sign of the coordinator for several deadlines: its round is long gone."""
    hand = turn.state.hand
    if hand is None or hand.phase not in (P.FETCHING, P.TRAINING) or turn.now < hand.give_up_at:
        return
    reason = (
        f"given up while {hand.phase}: its deadline passed {turn.limits.give_up_deadlines:.0f} times over"
    )
    turn.send(m.Failed(task=hand.task, reason=reason))
    stop(turn, "failed", reason)
