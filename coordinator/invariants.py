"""What must hold between any two events. Each check says in its message what is broken and for whom."""

from __future__ import annotations

from collections import Counter

from coordinator.config import UNSETTLED_PER_AGENT_MAX, VERSIONS_LIVE_MAX, CoordinatorConfig
from coordinator.policies import Policy
from coordinator.state import FINAL, UNDER_WAY, CoordinatorState, RunPhase, TaskState

S = TaskState


def check(config: CoordinatorConfig, state: CoordinatorState, policy: Policy) -> None:
    _check_agents(config, state)
    _check_tasks(state)
    _check_grants(config, state)
    _check_round(config, state, policy)
    _check_versions(state)
    _check_run(config, state)


def _check_agents(config: CoordinatorConfig, state: CoordinatorState) -> None:
    assert set(state.agents) == set(config.agents), "agents came or went"
    for agent in state.agents.values():
        assert not agent.online or agent.boot, f"{agent.name} is online without a hello"
        assert not agent.online or agent.announced, f"{agent.name} is online and the history does not know"
        if agent.task:
            task = state.tasks.get(agent.task)
            assert task is not None, f"{agent.name} works on {agent.task}, which is forgotten"
            assert task.agent == agent.name, f"{agent.name} works on a task of {task.agent}"
            assert task.state in UNDER_WAY, f"{agent.name} still holds {task.id}, {list(task.story)}"
        for name in agent.settled:
            assert state.tasks[name].state in FINAL, (
                f"{name} counts as settled: {list(state.tasks[name].story)}"
            )


def _check_tasks(state: CoordinatorState) -> None:
    positions: set[int] = set()
    unended = {name for name, task in state.tasks.items() if task.state not in FINAL}
    assert unended == state.unended.keys(), f"unended {unended ^ state.unended.keys()}"
    waiting = Counter(task.agent for task in state.unended.values() if task.state is S.ACKED)
    assert all(n <= UNSETTLED_PER_AGENT_MAX for n in waiting.values()), (
        f"updates without an outcome: {waiting}"
    )
    for task in state.tasks.values():
        story = list(task.story)
        if task.state in UNDER_WAY:
            assert state.agents[task.agent].task == task.id, f"{task.id} is forgotten by its agent: {story}"
        if task.state in (S.OFFERED, S.GRANTED, S.RECEIVED, S.ACKED):
            assert task.sha256, f"{task.id} has no content: {story}"
        if task.state in FINAL:
            assert task.id in state.agents[task.agent].settled, (
                f"{task.id} ended, nobody can ask for it: {story}"
            )
        if task.state in (S.RECEIVED, S.ACKED, S.MERGED, S.LATE, S.SURPLUS, S.STALE):
            assert task.position >= 0, f"{task.id} never arrived: {story}"
        if task.position >= 0:
            assert task.position not in positions, f"two updates at position {task.position}"
            positions.add(task.position)
        assert (task.version_merged is not None) == (task.state is S.MERGED), f"{task.id}: {story}"
        assert not (task.state is S.MERGED and task.defect), f"{task.id} was merged although {task.defect}"


def _check_grants(config: CoordinatorConfig, state: CoordinatorState) -> None:
    granted = {task.id: task.bytes for task in state.tasks.values() if task.state is S.GRANTED}
    assert granted == state.grants, f"grants {state.grants}, tasks say {granted}"
    total = sum(granted.values())
    assert total == state.granted_bytes, f"{state.granted_bytes} bytes count as granted, tasks say {total}"
    reserved = sum(state.reserved.values())
    assert reserved == state.reserved_bytes, f"{state.reserved_bytes} bytes count as reserved, for {reserved}"
    assert reserved <= config.reserved_bytes_max, f"{reserved} bytes reserved"
    assert total + reserved <= config.open_grant_bytes_max or len(granted) == 1, (
        f"{total} bytes granted, {reserved} reserved"
    )
    early = {name for name in state.reserved if state.tasks[name].state not in (S.OPEN, S.TRAINING)}
    assert not early, f"room is kept for {early}, which are offered or over"
    waiting = {task.id for task in state.tasks.values() if task.state is S.OFFERED}
    assert waiting == set(state.offers), f"offers {list(state.offers)}, tasks say {waiting}"
    assert len(state.offers) == len(waiting), "an offer stands in line twice"
    assert not (waiting and not granted), f"{waiting} wait for a grant although nothing is granted"
    online = (name for name in state.offers if state.agents[state.tasks[name].agent].online)
    first = next(online, state.offers[0] if state.offers else None)
    assert first is None or total + reserved + state.tasks[first].bytes > config.open_grant_bytes_max, (
        f"{first} waits for a grant although there is room"
    )


def _check_round(config: CoordinatorConfig, state: CoordinatorState, policy: Policy) -> None:
    round_, unended = state.round, state.unended.values()
    if round_ is not None:
        assert round_.number == state.rounds_done + 1, f"round {round_.number} after {state.rounds_done}"
        assert round_.version == state.version, (
            f"round {round_.number} trains on another version than {state.version}"
        )
        assert round_.extensions <= config.extensions_max, f"round {round_.number} was extended too often"
    if not policy.carries:
        mine = set(round_.tasks) if round_ is not None else set()
        live = [t.id for t in unended if t.id not in mine and t.state is not S.RECEIVED]
        assert not live, f"tasks without a round: {live}"
        left = [t.id for t in unended if t.state in UNDER_WAY - {S.RECEIVED}]
        assert not (round_ is not None and round_.committing and left), f"open in a closed round: {left}"
    for task in unended:
        assert task.version <= state.version, (
            f"{task.id} is of version {task.version}, {state.version} is the newest"
        )
        stale = policy.factor(state.version - task.version) is None
        begun = task.state in (S.OPEN, S.TRAINING, S.ACKED)
        assert not (stale and begun), f"{task.id} is too stale: {list(task.story)}"


def _check_versions(state: CoordinatorState) -> None:
    if not state.started:
        return
    assert len(state.live) <= VERSIONS_LIVE_MAX, f"{len(state.live)} versions are live: {state.live}"
    assert state.live == sorted(set(state.live)), f"live versions {state.live}"
    assert state.live[-1:] == [state.version], f"version {state.version} is not live, {state.live} are"
    for task in state.under_way:
        assert task.version in state.live, (
            f"version {task.version} of {task.id} is gone, {state.live} are live"
        )


def _check_run(config: CoordinatorConfig, state: CoordinatorState) -> None:
    assert state.rounds_done <= config.rounds, "more rounds than asked for"
    assert (state.phase is RunPhase.COLLECTING) == (state.round is not None), (
        f"{state.phase}, round {state.round}"
    )
    assert (state.phase is RunPhase.PROBING) == (state.probe is not None), (
        f"{state.phase}, probe {state.probe}"
    )
    assert state.probe is None or state.probe.version == state.version, f"{state.probe}, now {state.version}"
    assert bool(state.finish_reason) == (
        state.phase in (RunPhase.SURVEYING, RunPhase.FINISHING, RunPhase.DONE)
    ), state.finish_reason
    kept_max = sum(agent.settled.maxlen or 0 for agent in state.agents.values()) + (
        UNSETTLED_PER_AGENT_MAX + 2
    ) * len(state.agents)
    assert len(state.tasks) <= kept_max, f"{len(state.tasks)} tasks kept, at most {kept_max} can be asked for"
