"""The lines a person wants to read of a run that goes on: one small function per event worth a line."""

from __future__ import annotations

from collections.abc import Callable

from edgerig.live import Live, clean
from history import units
from history.events import Event
from history.fields import count, flag, integer, mapping, mappings, number, strings, text

Line = tuple[str, str]  # style (good, bad, note or plain), text
_Teller = Callable[[Live, Event], Line | None]
_TELLERS: dict[str, _Teller] = {}
NAMES_MAX = 6  # of a list of names


def tell(live: Live, event: Event) -> Line | None:
    """What to say of an event that has just been applied to `live`; most say nothing."""
    teller = _TELLERS.get(event.event) if event.node not in live.devices else None
    line = teller(live, event) if teller else None
    return (line[0], clean(line[1])) if line else None


def _on(*names: str) -> Callable[[_Teller], _Teller]:
    def register(teller: _Teller) -> _Teller:
        for name in names:
            _TELLERS[name] = teller
        return teller

    return register


def names_of(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more


@_on("up")
def _up(live: Live, event: Event) -> Line:
    return "plain", f"started {len(strings(event, 'services'))} services"


@_on("probed")
def _probed(live: Live, event: Event) -> Line:
    backend, reason = text(event, "backend") or "unknown", text(event, "reason")
    return "plain", f"links by {backend}{f': {reason}' if reason else ''}"


@_on("link_verified", "cpu_verified")
def _verified(live: Live, event: Event) -> Line | None:
    what = "link" if event.event == "link_verified" else "CPU quota"
    if flag(event, "ok") is False:
        return "bad", f"{text(event, 'device')}: {what} is out of tolerance"
    done, all_ = live.verified
    return (
        ("good", f"links and CPU quotas of {all_} devices measured and within tolerance")
        if done == all_
        else None
    )


@_on("ready")
def _ready(live: Live, event: Event) -> Line:
    wall_s = number(event, "wall_s")
    return "plain", "every gate is open" + (f" after {units.seconds(wall_s)}" if wall_s is not None else "")


@_on("round_opened")
def _round_opened(live: Live, event: Event) -> Line | None:
    deadline_s = number(event, "deadline_s")
    within = f", deadline {units.seconds(deadline_s)}" if deadline_s is not None else ""
    if live.plan.policy.kind in ("buffered", "asynchronous"):
        return None  # a line for every version is enough, and that comes with its evaluation
    return "plain", f"round {live.round} of {live.plan.training.rounds}: {live.cohort} devices{within}"


@_on("round_closed")
def _round_closed(live: Live, event: Event) -> Line:
    missing, wall_s = strings(event, "missing"), number(event, "wall_s")
    took = f" in {units.seconds(wall_s)}" if wall_s is not None else ""
    without = f", without {names_of(missing)}" if missing else ""
    merged = count(event, "merged")
    if live.plan.policy.kind in ("buffered", "asynchronous"):
        return "plain", f"version {integer(event, 'version')} made{took}: {merged} updates merged{live.stale}"
    return (
        "plain",
        f"round {integer(event, 'round')} closed{took}: {merged} updates merged{live.stale}{without}",
    )


@_on("evaluated")
def _evaluated(live: Live, event: Event) -> Line:
    accuracy, loss, more = number(event, "accuracy"), number(event, "loss"), mapping(event, "metrics")
    said = [f"accuracy {units.percent(accuracy, 2)}"] if accuracy is not None else []
    said += [f"loss {loss:.4f}"] if loss is not None else []
    perplexity = number(more, "perplexity")
    said += [f"perplexity {perplexity:.3g}"] if perplexity is not None else []
    return "good", f"version {integer(event, 'version')}: {', '.join(said) or 'not evaluated'}"


@_on("waiting")
def _waiting(live: Live, event: Event) -> Line | None:
    waiting = mappings(event, "for")
    if not waiting:
        return None
    listed = [f"{text(item, 'agent')} ({text(item, 'phase')})" for item in waiting]
    until_s = min((s for item in waiting if (s := number(item, "until_s")) is not None), default=None)
    until = f", for at most {units.seconds(max(0.0, until_s))} more" if until_s is not None else ""
    return "note", f"waiting for {names_of(listed)}{until}"


@_on("agent_offline")
def _agent_offline(live: Live, event: Event) -> Line | None:
    return None if live.stage == "finished" else ("note", f"{text(event, 'agent')} went offline")


@_on("agent_online")
def _agent_online(live: Live, event: Event) -> Line | None:
    return ("note", f"{text(event, 'agent')} is online") if live.round else None


@_on("fault_applied")
def _fault_applied(live: Live, event: Event) -> Line:
    return "bad", f"fault {text(event, 'fault')}: {text(event, 'kind')} {names_of(strings(event, 'targets'))}"


@_on("fault_verified")
def _fault_verified(live: Live, event: Event) -> Line | None:
    if flag(event, "ok") is not False:
        return None
    return "bad", f"fault {text(event, 'fault')} did not take: {text(event, 'detail')}"


@_on("fault_healed")
def _fault_healed(live: Live, event: Event) -> Line:
    return "good", f"fault {text(event, 'fault')} healed"


@_on("update_discarded")
def _update_discarded(live: Live, event: Event) -> Line:
    return (
        "note",
        f"update of {text(event, 'agent')} discarded: {text(event, 'outcome')}, {text(event, 'reason')}",
    )


@_on("message_refused")
def _message_refused(live: Live, event: Event) -> Line:
    return "bad", f"message of {text(event, 'agent') or 'an unknown sender'} refused: {text(event, 'reason')}"


@_on("lapse")
def _lapse(live: Live, event: Event) -> Line:
    wanted, got = (clean(event.get(key) or "–") for key in ("requested", "effective"))
    detail = text(event, "detail")
    what = f"lapse at {text(event, 'node') or event.node}: {text(event, 'what')}, {wanted} requested, {got} effective"
    return "bad", what + (f" ({detail})" if detail else "")


@_on("run_finished")
def _run_finished(live: Live, event: Event) -> Line:
    reason = text(event, "reason")
    said = {"target": "the target was reached", "rounds": "all rounds are done", "failed": "the run failed"}
    return "bad" if reason == "failed" else "good", said.get(reason, f"finished: {reason}")


@_on("interrupted")
def _interrupted(live: Live, event: Event) -> Line:
    return "bad", f"interrupted by {text(event, 'signal') or 'a signal'}: tearing down"
