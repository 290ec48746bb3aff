"""What a task says about compression: the plan's chain, its share in the warm-up's rounds, or what `auto` chooses."""

from __future__ import annotations

import msgspec

from coordinator import actions as a
from coordinator import events as e
from coordinator.adaptive import Choice, Known, UplinkRate, choose, slope_of
from coordinator.config import WINDOW_S
from coordinator.state import Task, TaskState
from coordinator.turn import Turn
from topology.plan import UplinkPlan
from topology.plan.compression import AdaptivePlan
from wire.codecs.schedules import warm_up
from wire.codecs.spec import CodecSpec
from wire.messages import UplinkSpec

# Bytes of what travels as float16 beside the chain, per parameter: 0.0007 of the cnn, 0.004 of the mlp.
BESIDE_SHARE = 0.002


def uplink_for(plan: UplinkPlan, round_number: int) -> UplinkSpec:
    """Without `auto`. `round_number` counts from 1."""
    chain = _warming(plan, plan.chain, round_number - 1)
    return UplinkSpec(chain=chain, feedback=plan.feedback, bypass=plan.bypass)


def _warming(plan: UplinkPlan, chain: CodecSpec, rounds_done: int) -> CodecSpec:
    sparsify = chain.sparsify
    if sparsify is None or sparsify.fraction is None or rounds_done >= plan.warm_up.rounds:
        return chain
    fraction = warm_up(sparsify.fraction, rounds_done, plan.warm_up.rounds, plan.warm_up.first)
    return msgspec.structs.replace(chain, sparsify=msgspec.structs.replace(sparsify, fraction=fraction))


def give_uplink(turn: Turn, task: Task) -> UplinkSpec:
    """Of a task that is sent for the first time in this life of ours; a choice and its reason are recorded."""
    plan = turn.config.uplink
    if plan.adaptive is None:
        return uplink_for(plan, task.round)
    known = _known(turn, plan.adaptive, task)
    choice = choose(plan.adaptive, known)
    turn.state.agents[task.agent].share = choice.share
    _record(turn, task, known, choice)
    return UplinkSpec(chain=choice.chain, feedback=plan.feedback, bypass=plan.bypass)


def _known(turn: Turn, plan: AdaptivePlan, task: Task) -> Known:
    config, agent = turn.config, turn.state.agents[task.agent]
    return Known(
        rate=agent.uplink or UplinkRate(config.agents[task.agent].window_bytes * 8 / WINDOW_S),
        deadline_s=max(task.deadline - turn.now, 0.0),
        train_s=agent.timings.compute.mean_s,
        parameters=config.parameters,
        slope=slope_of(turn.state.accuracies),
        share=agent.share,
        gained=turn.state.accuracy_gained,
        beside_bytes=int(BESIDE_SHARE * config.parameters) if config.uplink.bypass else 0,
    )


def _record(turn: Turn, task: Task, known: Known, choice: Choice) -> None:
    turn.record(
        "compression_chosen",
        task=task.id,
        agent=task.agent,
        share=choice.share,
        bits=choice.bits,
        quantize=choice.chain.quantize,
        budget_bytes=choice.budget_bytes,
        rate_bit_s=round(known.rate.rate_bit_s),
        measured=known.rate.count > 0,
        slope=known.slope,
        reason=choice.reason,
    )


def measure(turn: Turn, event: e.UpdateReceived) -> None:
    """Before an update counts as received: how fast it came, from its grant to its last chunk."""
    task = turn.task_of(event.agent, event.task)
    if turn.config.uplink.adaptive is None or task is None or task.state is not TaskState.GRANTED:
        return
    agent, planned = turn.state.agents[task.agent], turn.config.agents[task.agent]
    before = agent.uplink or UplinkRate(planned.window_bytes * 8 / WINDOW_S)
    agent.uplink = before.measured(event.payload_bytes, turn.now - task.since)
    value = msgspec.json.encode(agent.uplink).decode()
    turn.emit(a.JournalMemo(key=f"uplink/{agent.name}", value=value))
