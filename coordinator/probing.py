"""The losses that a selection wants to know before it chooses: asked for, awaited, over.

A probe is a task without an update: the device fetches the version like for any task, evaluates its loss on some of its
own samples, and answers with one small message. It comes before its round, at most once for each, and holds it up for
one deadline at most: whoever has not answered by then, has failed, or has been away for longer than the grace is passed
over. All devices of a probe have the same task id, `p<round>-v<version>-e<epoch>`, which no task of a round can have;
the epoch is in it so that a probe which a dead coordinator had asked for is never taken for ours.

An answer is durable with the next commit and belongs to its version: a coordinator that starts again asks only those
whose answer it does not have, and chooses as it would have. The state is one object (`coordinator.state.Probe`), there
while the run is in `RunPhase.PROBING`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from coordinator import actions as a
from coordinator import fleet
from coordinator.policies.selection import clipped_loss
from coordinator.state import Agent, Probe, ProbedLoss
from coordinator.turn import Turn, derive_seed
from wire import messages as m


def begin(turn: Turn, free: list[Agent]) -> bool:
    """Ask for the losses that the next round's selection wants and that are not known; False: it wants none."""
    state = turn.state
    number = state.rounds_done + 1
    if state.probed_round == number:
        return False
    state.probed_round = number
    wanted = turn.policy.candidates(fleet.views(turn, free), fleet.known(turn), turn.rng("probe", number))
    unknown = [name for name in wanted if known_loss(turn, state.agents[name]) is None]
    if not unknown:
        return False
    deadline_s = turn.policy.probe_deadline_s([state.agents[name].timings for name in unknown])
    state.probe = probe = Probe(
        task=f"p{number}-v{state.version}-e{state.epoch}",
        round=number,
        version=state.version,
        since=turn.now,
        deadline=turn.now + deadline_s,
        owing=dict.fromkeys(unknown, turn.now),
        candidates=list(wanted),
    )
    turn.record(
        "losses_wanted",
        task=probe.task,
        round=number,
        version=probe.version,
        candidates=wanted,
        deadline_s=deadline_s,
    )
    for name in unknown:
        _send(turn, probe, name)
    return True


def known_loss(turn: Turn, agent: Agent) -> float | None:
    """Of the version that is current."""
    probed = agent.probed
    return probed.loss if probed is not None and probed.version == turn.state.version else None


def _send(turn: Turn, probe: Probe, name: str) -> None:
    """(Again.) An agent that has answered answers again, one that is at work says so."""
    probe.owing[name] = turn.now
    turn.emit(
        a.SendTask(
            agent=name,
            task=probe.task,
            round=probe.round,
            version=probe.version,
            seed=derive_seed(turn.config.seed, "probe", probe.round, name),
            deadline_s=max(probe.deadline - turn.now, 0.1),
            uplink=m.UplinkSpec(),
            probe=turn.policy.probe_samples,
        )
    )


# --- what agents say ------------------------------------------------------------------------------------------------


def answered(turn: Turn, agent: Agent, message: m.Probed) -> None:
    probe = _asked(turn, agent, message.task)
    if probe is None:
        return  # a repetition, or too late: no fault of anybody
    if not math.isfinite(message.loss):
        turn.refuse(agent.name, "probed", "not_finite")
        del probe.owing[agent.name]
        return
    loss = clipped_loss(message.loss)
    agent.probed = ProbedLoss(probe.version, loss)
    turn.emit(a.JournalMemo(key=f"loss/{agent.name}", value=msgspec.json.encode(agent.probed).decode()))
    turn.record(
        "loss_probed",
        task=probe.task,
        agent=agent.name,
        round=probe.round,
        version=probe.version,
        loss=loss,
        samples=message.samples,
        fetch_bytes=message.fetch_bytes,
        bytes=len(m.encode(message)),
    )
    del probe.owing[agent.name]


def heard(turn: Turn, agent: Agent, task: str) -> bool:
    """A sign of work on a probe; whether it is one (an old one is no news, and no fault)."""
    probe = _asked(turn, agent, task)
    if probe is not None:
        probe.owing[agent.name] = turn.now
    return is_probe(task)


def failed(turn: Turn, agent: Agent, task: str) -> bool:
    """It will not answer; whether it is about a probe at all."""
    probe = _asked(turn, agent, task)
    if probe is not None:
        del probe.owing[agent.name]
    return is_probe(task)


def said_hello(turn: Turn, agent: Agent, message: m.Hello) -> None:
    """What an agent that came back does not have in hand is sent again; one that is over is taken out of its hand."""
    probe = turn.state.probe
    mine = probe is not None and agent.name in probe.owing
    if probe is not None and mine and message.task != probe.task:
        _send(turn, probe, agent.name)
    elif (
        message.task is not None
        and is_probe(message.task)
        and not (mine and probe and message.task == probe.task)
    ):
        turn.send(agent.name, m.Cancel(task=message.task, reason="the losses are chosen by already"))


def is_probe(task: str) -> bool:
    return task.startswith("p")


def _asked(turn: Turn, agent: Agent, task: str) -> Probe | None:
    """The probe, if this agent still owes its answer."""
    probe = turn.state.probe
    return probe if probe is not None and probe.task == task and agent.name in probe.owing else None


# --- time -----------------------------------------------------------------------------------------------------------


def over(turn: Turn) -> bool:
    """Whether nobody is waited for any more. Asks again where there was no sign for too long."""
    probe = turn.state.probe
    if probe is None:
        return True
    present = [name for name in probe.owing if not turn.gone(turn.state.agents[name])]
    if not present or turn.now >= probe.deadline:
        return True
    for name in present:
        if turn.state.agents[name].online and turn.now >= probe.owing[name] + turn.config.nudge_s:
            _send(turn, probe, name)
    return False


def end(turn: Turn) -> frozenset[str]:
    """Close it; returns who has not answered. They stop, if they still work on it."""
    probe, turn.state.probe = turn.state.probe, None
    if probe is None:
        return frozenset()
    silent = sorted(probe.owing)
    turn.record(
        "losses_known",
        task=probe.task,
        round=probe.round,
        version=probe.version,
        known=len(probe.candidates) - len(silent),
        silent=silent,
        wall_s=round(turn.now - probe.since, 3),
    )
    for name in silent:
        turn.send(name, m.Cancel(task=probe.task, reason="the round begins without its loss"))
    return frozenset(probe.candidates) - {
        name for name in probe.candidates if known_loss(turn, turn.state.agents[name]) is not None
    }


def moments(turn: Turn, probe: Probe) -> Iterator[float]:
    """When something of it may be due."""
    yield probe.deadline
    for name, since in probe.owing.items():
        agent = turn.state.agents[name]
        yield since + turn.config.nudge_s if agent.online else agent.away_since + turn.config.drop_after_s
