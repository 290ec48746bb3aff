"""Updates on disk: offered, sent against a grant or within the offer, acked, settled."""

from __future__ import annotations

import msgspec

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.state import UNACKED, Item, Phase
from edge_agent.turn import Turn
from wire import messages as m
from wire.chunks import CHUNKS_MAX, chunk_count
from wire.codecs.feedback import GIVEN_BACK

P = Phase
AGAIN_S_MIN = 1.0  # however often the coordinator repeats itself, an offer is not repeated more often


# --- offers and uploads --------------------------------------------------------------------------------------------


def offer(turn: Turn, item: Item) -> None:
    """Say that it is there; again after a growing wait, since the coordinator may only be queueing it."""
    limits = turn.limits
    wait_s = min(limits.offer_again_s * 2.0**item.offered_times, limits.offer_again_max_s)
    item.offered_times += 1
    item.offer_at = turn.now + wait_s
    if item.phase is P.SENT:
        turn.state.go(item, P.OFFERED, turn.now, "sent, and no ack")
    power = turn.power()
    message = m.Offer(task=item.task, sha256=item.sha256, bytes=item.bytes, report=item.report, power=power)
    # Only once, and not beside chunks of another update, which fill the link as far as it may be filled.
    whole, item.inline = item.inline and turn.state.uploading is None, False
    if whole:
        turn.emit(a.SendWhole(offer=message))
    else:
        turn.send(message)


def offer_due(turn: Turn) -> None:
    for item in turn.state.items.values():
        if item.phase in (P.OFFERED, P.SENT) and item.grant is None and turn.now >= item.offer_at:
            offer(turn, item)


def asked_again(turn: Turn, item: Item) -> None:
    """Its task was sent again: the coordinator has not heard of the update, or not of the question."""
    if item.phase is P.ACKED:
        turn.state.ask_at = min(turn.state.ask_at, turn.now)
    elif item.phase in (P.OFFERED, P.SENT):
        item.offer_at = min(item.offer_at, turn.now + AGAIN_S_MIN)
    elif item.phase is P.UPLOADING:
        turn.progress(item.task, "uploading", item.done, item.total)


def granted(turn: Turn, grant: m.Grant) -> None:
    item = turn.state.items.get(grant.task)
    if item is None:
        turn.refuse("grant", "unknown_task")
    elif item.sha256 != grant.sha256:
        turn.refuse("grant", "other_content")
    elif item.phase not in UNACKED:
        turn.refuse("grant", "not_offered")
    elif not turn.state.online:
        turn.refuse("grant", "offline")
    elif chunk_count(item.bytes, grant.chunk_bytes) > CHUNKS_MAX:
        turn.refuse("grant", "sizes")
    else:
        if item.phase is P.UPLOADING:
            # The newest word about what is missing counts; what is in flight is recognised as a duplicate.
            turn.emit(a.StopUpload(task=item.task))
            turn.state.go(item, P.OFFERED, turn.now, "granted anew")
        item.grant = grant


def start_upload(turn: Turn) -> None:
    """One upload at a time: the bytes in flight are bounded per link, not per update."""
    state = turn.state
    if not state.online or state.uploading is not None:
        return
    item = next((i for i in state.items.values() if i.grant is not None and i.phase in UNACKED), None)
    if item is None or item.grant is None:
        return
    grant, item.grant = item.grant, None
    chunks = chunk_count(item.bytes, grant.chunk_bytes)
    missing = None if grant.missing is None else tuple(sorted({i for i in grant.missing if 0 <= i < chunks}))
    item.done, item.total = 0, chunks if missing is None else len(missing)
    state.go(item, P.UPLOADING, turn.now, f"{item.total} of {chunks} chunks")
    turn.progress(item.task, "uploading", 0, item.total)
    turn.emit(
        a.StartUpload(
            task=item.task,
            sha256=item.sha256,
            chunk_bytes=grant.chunk_bytes,
            window_bytes=grant.window_bytes,
            missing=missing,
        )
    )


def upload_progressed(turn: Turn, event: e.UploadProgressed) -> None:
    item = turn.state.items.get(event.task)
    if item is None or item.phase is not P.UPLOADING or item.sha256 != event.sha256:
        return  # stopped meanwhile
    item.done, item.total = event.done, event.total
    if turn.progress_due:
        turn.progress(item.task, "uploading", item.done, item.total)


def upload_done(turn: Turn, event: e.UploadDone) -> None:
    item = turn.state.items.get(event.task)
    if item is None or item.phase is not P.UPLOADING or item.sha256 != event.sha256:
        return
    turn.record(
        "sent", task=item.task, payload_bytes=event.payload_bytes, chunks=event.chunks, resent=event.resent
    )
    turn.state.go(item, P.SENT, turn.now, f"{event.chunks} chunks confirmed by the broker")
    item.offered_times = 0
    item.offer_at = turn.now + turn.limits.offer_again_s


def room_is_over(turn: Turn) -> None:
    """A hello gives up what room was kept: what goes out with its offer afterwards would only go out twice."""
    state = turn.state
    if state.hand is not None:
        state.hand.inline_bytes = 0
    if state.waiting is not None:
        state.waiting = msgspec.structs.replace(state.waiting, inline_bytes=0)
    for item in state.items.values():
        item.inline = False


def connection_lost(turn: Turn) -> None:
    """Grants are void, room that was kept too; the hello of the next connection asks for grants of what is missing."""
    state = turn.state
    room_is_over(turn)
    for item in state.items.values():
        item.grant = None
        if item.phase is P.UPLOADING:
            turn.emit(a.StopUpload(task=item.task))
        if item.phase in (P.UPLOADING, P.SENT):
            state.go(item, P.OFFERED, turn.now, "disconnected")
        item.offered_times = 0
        item.offer_at = turn.now


# --- acks and outcomes ---------------------------------------------------------------------------------------------


def acked(turn: Turn, ack: m.Ack) -> None:
    item = turn.state.items.get(ack.task)
    if item is None:
        turn.refuse("ack", "unknown_task")
    elif item.sha256 != ack.sha256:
        # An earlier life of this device sent other bytes for this task. Their outcome will settle both.
        turn.refuse("ack", "other_content")
    elif item.phase in UNACKED:
        _stop_upload(turn, item)
        if not unsettled(turn):  # else every ack would put off the question about those before
            turn.state.ask_at = turn.now + turn.limits.ask_every_s
        turn.state.go(item, P.ACKED, turn.now, "the coordinator has it")
        item.grant = None
        item.was_acked = True
        turn.record("acked", task=item.task, sha256=item.sha256)
        turn.emit(a.MarkAcked(task=item.task))
    else:
        turn.refuse("ack", "repeated")  # acked before: no news


def _stop_upload(turn: Turn, item: Item) -> None:
    if item.phase is P.UPLOADING:
        turn.emit(a.StopUpload(task=item.task))


def cancelled(turn: Turn, item: Item, cancel: m.Cancel) -> None:
    """Never acked: the content goes back. Acked: the coordinator forgot, so whether it was merged is unknown."""
    if item.phase is P.SETTLING:
        return
    if item.phase is P.ACKED:
        turn.refuse("cancel", "acked")
        # Counting it as sent loses one update at the worst; adding it back could apply it twice.
        settle(turn, item, "forgotten", give_back=False, reason=cancel.reason)
    else:
        turn.record("cancelled", task=item.task, reason=cancel.reason)
        settle(turn, item, "cancelled", give_back=True, reason=cancel.reason)


def outcome(turn: Turn, item: Item, message: m.Outcome) -> None:
    """The fate of this content; or of other content for the same task, then ours was never taken and goes back."""
    if item.phase is P.SETTLING:
        return
    if message.sha256 is None and item.phase is P.ACKED:
        turn.refuse("outcome", "no_content")
    elif message.sha256 is None or message.sha256 == item.sha256:
        settle(turn, item, message.outcome, give_back=GIVEN_BACK[message.outcome], reason=message.reason)
    elif item.phase is P.ACKED:
        turn.refuse("outcome", "other_content")
    else:
        settle(turn, item, "cancelled", give_back=True, reason="another update of this task was taken")


def settle(turn: Turn, item: Item, kind: str, *, give_back: bool, reason: str) -> None:
    _stop_upload(turn, item)
    item.grant = None
    item.outcome, item.give_back = kind, give_back
    item.settle_at, item.settle_sent = turn.now, False
    turn.state.go(item, P.SETTLING, turn.now, f"{kind}: {reason[:80]}")


def settle_due(turn: Turn) -> None:
    """Tell the disk. What changes the residual waits while the worker is using it."""
    hand = turn.state.hand
    busy = hand is not None and hand.residual_busy
    for item in turn.state.items.values():
        if item.phase is not P.SETTLING or item.settle_sent or turn.now < item.settle_at:
            continue
        if item.give_back and busy:
            continue
        item.settle_sent = True
        merged = item.outcome == "merged"
        turn.emit(a.Settle(task=item.task, give_back=item.give_back, merged=merged))


def settled(turn: Turn, event: e.Settled) -> None:
    item = turn.state.items.pop(event.task)
    turn.state.variate = event.variate
    turn.state.go(item, P.ENDED, turn.now, item.outcome)
    kind = "cancelled" if item.outcome == "cancelled" else "settled"
    turn.remember_ended(item.task, kind, item.outcome)
    turn.record("settled", task=item.task, outcome=item.outcome, residual_norm=event.residual_norm)


def settle_failed(turn: Turn, event: e.SettleFailed) -> None:
    item = turn.state.items[event.task]
    item.settle_sent = False
    item.settle_at = turn.now + turn.limits.settle_again_s
    turn.record("failed", task=item.task, reason=f"cannot settle yet: {event.reason}"[:512])


def unsettled(turn: Turn) -> tuple[str, ...]:
    """Acked, and the outcome is not known."""
    return tuple(item.task for item in turn.state.items.values() if item.phase is P.ACKED)


def ask_due(turn: Turn) -> None:
    tasks = unsettled(turn)
    if tasks and turn.state.online and turn.now >= turn.state.ask_at:
        turn.state.ask_at = turn.now + turn.limits.ask_every_s
        turn.send(m.Ask(tasks=tasks))
