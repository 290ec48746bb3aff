"""What must hold after every run. Each check compares two witnesses that do not know of each other."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from coordinator.controls import published
from coordinator.decisions import digest_of, unpack_state
from coordinator.merges import EMPTY
from coordinator.merges.scaffold import CONTROL
from coordinator.recovery import next_model, restore_model
from edge_agent.limits import PENDING_MAX
from simulation.agent_host import SAMPLES, AgentHost
from simulation.books import held, variate_of
from simulation.world import PARAMETERS, World
from topology.plan import PolicyPlan
from wire.codecs import model as versions

# Sums of some dozen float32 vectors of magnitude 0.1, against the same sums in float64.
TOLERANCE = 1e-4
# A lost hello is repeated within 10 s (`agent_host.LIMITS`), a reconnect takes 4, a task that keeps the worker busy 12.
LEARNS_WITHIN_S = 30.0
STARVED = 4  # fleets of tasks: `coordinator.policies.selection` puts whoever was passed over for two first
KEPT = {"merged", "refused"}  # outcomes that do not give content back


def check_everything(world: World) -> None:
    """Raises AssertionError that names what is broken."""
    the_run_reached_its_end(world)
    versions_are_gapless(world)
    acked_updates_are_kept(world)
    every_update_has_one_outcome(world)
    agents_were_told_the_truth(world)
    the_model_is_the_sum_of_its_updates(world)
    updates_count_by_their_age(world)
    what_waits_is_next(world)
    control_variates_add_up(world)
    gradients_were_corrected_by_the_c_of_their_version(world)
    nobody_starves(world)
    only_lost_variates_are_told(world)
    a_replay_decides_the_same(world)
    for agent in world.agents:
        nothing_is_lost_or_doubled(world, agent)
        bounds_were_held(agent)
        nothing_waits_for_ever(world, agent)


def the_run_reached_its_end(world: World) -> None:
    """Every fault heals before the last extension of a round ends: there is no excuse for a run that fails."""
    reason = world.coordinator.core.state.finish_reason
    assert reason == "rounds", f"the run ended with {reason!r}"


def versions_are_gapless(world: World) -> None:
    found = [
        row[0]
        for row in world.coordinator.journal.db.execute("SELECT version FROM versions ORDER BY version")
    ]
    assert found == list(range(len(found))), f"versions {found}"
    committed = [
        fields["version"] for _, name, fields in world.coordinator.records if name == "version_committed"
    ]
    assert set(committed) <= set(found), "a version was announced that the journal does not have"


def acked_updates_are_kept(world: World) -> None:
    """What an agent saw acked is in the journal, with the same content."""
    rows = world.coordinator.journal.db.execute("SELECT agent, task, sha256 FROM updates")
    kept = {(agent, task): sha256 for agent, task, sha256 in rows}
    for agent in world.agents:
        for task, sha256 in agent.books.acked:
            found = kept.get((agent.name, task))
            assert found == sha256, (
                f"{agent.name} saw {task} {sha256[:8]} acked, the journal has {found and found[:8]}"
            )


def every_update_has_one_outcome(world: World) -> None:
    db = world.coordinator.journal.db
    orphans = db.execute("SELECT task FROM updates WHERE task NOT IN (SELECT task FROM outcomes)").fetchall()
    assert not orphans, f"journalled and never settled: {orphans}"
    merged = {row[0] for row in db.execute("SELECT task FROM merges")}
    said = {row[0] for row in db.execute("SELECT task FROM outcomes WHERE outcome = 'merged'")}
    assert merged == said, f"merged {merged ^ said} differ from the outcomes"
    open_ = db.execute("SELECT task FROM tasks WHERE state = 'open'").fetchall()
    assert not open_, f"tasks that nobody ended: {open_}"


def agents_were_told_the_truth(world: World) -> None:
    """A settled content met the fate that the journal has; what was given back is in no version, and vice versa."""
    db = world.coordinator.journal.db
    contents = dict(db.execute("SELECT task, sha256 FROM updates"))
    outcomes = dict(db.execute("SELECT task, outcome FROM outcomes"))
    for agent in world.agents:
        for entry in agent.books.settled:
            taken = contents.get(entry.task) == entry.sha256
            outcome = outcomes.get(entry.task) if taken else None
            if entry.give_back:
                assert outcome not in KEPT, f"{agent.name} took {entry.task} back, which was {outcome}"
            else:
                assert outcome in KEPT, f"{agent.name} counts {entry.task} as sent, which was {outcome}"
        told = Counter(entry.sha256 for entry in agent.books.settled)
        assert not told or max(told.values()) == 1, (
            f"{agent.name} settled a content twice: {told.most_common(2)}"
        )


def the_model_is_the_sum_of_its_updates(world: World) -> None:
    """Bit for bit what the journal says, and within rounding what the devices' own books say."""
    journal = world.coordinator.journal
    model = restore_model(journal, "fp16", keep=1, spec=world.coordinator.merging)
    assert model is not None
    expected = np.zeros(PARAMETERS)
    rows = journal.db.execute(
        "SELECT m.version, v.server_lr, u.agent, u.sha256, m.samples, m.factor FROM merges m"
        " JOIN updates u ON u.task = m.task JOIN versions v ON v.version = m.version ORDER BY m.version, m.position"
    ).fetchall()
    books = {agent.name: agent.books for agent in world.agents}
    for version in sorted({row[0] for row in rows}):
        mine = [row for row in rows if row[0] == version]
        total = sum(row[4] for row in mine)
        for _, server_lr, agent, sha256, samples, factor in mine:
            assert samples == SAMPLES, f"{samples} samples"
            expected += server_lr * samples * factor / total * books[agent].contents[sha256]
    off = float(np.abs(model.master - expected).max())
    assert off < TOLERANCE, f"the model is {off:.2g} off the sum of the updates that its versions name"
    live = world.coordinator.last_master
    assert live is None or np.array_equal(live, model.master), (
        "the live model is not what the journal leads to"
    )


def damping(plan: PolicyPlan, age: int) -> float:
    """The formulas once more, written down independently of `coordinator.policies`."""
    spec = plan.staleness
    if spec.kind == "polynomial":
        return 1.0 / math.pow(1 + age, spec.exponent)
    if spec.kind == "hinge" and age > spec.b:
        return 1.0 / (1.0 + spec.a * (age - spec.b))
    return 1.0


def tier_cuts(world: World) -> list[tuple[int, dict[str, int]]]:
    """(the first version made by them, tier of each agent), the newest first.

    A coordinator that dies may have told of a cut that it never committed; its next life tells what the journal has.
    """
    cuts: list[tuple[int, dict[str, int]]] = []
    for _, name, fields in world.coordinator.records:
        if name == "tiers_cut":
            of = {agent: tier for tier, agents in enumerate(fields["tiers"], 1) for agent in agents}
            cuts = [(fields["since"], of), *(cut for cut in cuts if cut[0] < fields["since"])]
    return cuts


def tier_shares(world: World) -> dict[int, float]:
    """What a version of FedAT counts with, from who is merged in it and the tiers of its time: the paper's mirror.

    A version whose updates are of several tiers is somebody's mistake.
    """
    plan = world.config.policy
    if plan.kind != "fedat":
        return {}
    cuts = tier_cuts(world)
    rows = world.coordinator.journal.db.execute(
        "SELECT m.version, t.agent FROM merges m JOIN tasks t ON t.task = m.task ORDER BY m.version"
    ).fetchall()
    made: dict[int, int] = {}
    for version, agent in rows:
        if version > 1:
            tier = next(of for since, of in cuts if since <= version)[agent]
            assert made.setdefault(version, tier) == tier, f"version {version} mixes tiers"
    shares = {}
    for version in made:
        so_far = Counter(k for other, k in made.items() if other <= version)
        shares[version] = (1 + so_far[plan.tiers + 1 - made[version]]) / (plan.tiers + so_far.total())
    return shares


def updates_count_by_their_age(world: World) -> None:
    """The factor of every merged update follows from the two versions alone, and the step never changes."""
    plan = world.config.policy
    shares = tier_shares(world)
    rows = world.coordinator.journal.db.execute(
        "SELECT m.version, v.server_lr, t.version, m.factor, m.task FROM merges m"
        " JOIN tasks t ON t.task = m.task JOIN versions v ON v.version = m.version"
    ).fetchall()
    for version, server_lr, base, factor, task in rows:
        age = version - 1 - base
        due = damping(plan, age) * shares.get(version, 1.0)
        assert abs(factor - due) < 1e-12, f"{task}, {age} versions old, counts {factor} instead of {due}"
        assert abs(server_lr - plan.server_lr * plan.mixing) < 1e-12, (
            f"version {version} has a step of {server_lr}"
        )
        assert plan.max_staleness is None or age <= plan.max_staleness, (
            f"{task} was merged {age} versions old"
        )


def what_waits_is_next(world: World) -> None:
    """Where updates outlive their round they are merged in the order in which they came, and none is passed over."""
    plan, db = world.config.policy, world.coordinator.journal.db
    if not plan.carry_over and plan.kind not in ("buffered", "asynchronous"):
        return
    merged = [
        row[0]
        for row in db.execute(
            "SELECT u.position FROM merges m JOIN updates u ON u.task = m.task ORDER BY m.version, m.position"
        )
    ]
    assert merged == sorted(merged), f"merged in the order {merged}"
    late = [
        row[0]
        for row in db.execute(
            "SELECT u.position FROM updates u JOIN outcomes o ON o.task = u.task WHERE o.outcome IN ('late', 'surplus')"
        )
    ]
    passed = [position for position in late if merged and position < merged[-1]]
    assert not passed, (
        f"updates {passed} were here before {merged[-1]}, which was merged, and came to nothing"
    )


def control_variates_add_up(world: World) -> None:
    """Every device holds the sum of what its merged updates moved it by, and all of them together N times c.

    What a merged update moved that its device does not know of yet counts as held, and so does what went with a disk.
    """
    if world.config.control is None:
        return
    journal, total = world.coordinator.journal, np.zeros(PARAMETERS)
    rows = journal.db.execute("SELECT u.task, u.sha256 FROM merges m JOIN updates u ON u.task = m.task")
    merged = set(rows.fetchall())
    for agent in world.agents:
        books, spool = agent.books, agent.spool_type(agent.disk.after_kill(), agent.run)
        unsettled = [(item.task, item.sha256) for item in spool.restored().items]
        held_ = variate_of(spool, PARAMETERS) + books.lost_variate
        for task, sha256 in {*unsettled, *books.lost_items} & merged:
            assert books.tasks[sha256] == task, f"{sha256[:8]} is of {books.tasks[sha256]}, not of {task}"
            held_ += books.changes[sha256]
        moved = np.zeros(PARAMETERS)
        for task, sha256 in merged:
            if books.tasks.get(sha256) == task:
                moved += books.changes[sha256]
        off = float(np.abs(held_ - moved).max())
        assert off < TOLERANCE, f"{agent.name}: its control variate is {off:.2g} off its merged updates"
        total += moved
    model = restore_model(journal, "fp16", keep=1, spec=world.coordinator.merging)
    assert model is not None
    control = model.state.get(CONTROL, np.zeros(PARAMETERS, np.float32))
    off = float(np.abs(len(world.agents) * control.astype(np.float64) - total).max())
    assert off < TOLERANCE, f"N times c is {off:.2g} off the sum of the devices' control variates"


def gradients_were_corrected_by_the_c_of_their_version(world: World) -> None:
    """What devices trained with, against what the journal leads to."""
    merging, journal = world.coordinator.merging, world.coordinator.journal
    corrected = [entry for agent in world.agents for entry in agent.books.corrected]
    if world.config.control is None:
        assert not corrected, "nobody asked for control variates"
        return
    master, state = world.coordinator.initial, EMPTY
    led_to: dict[int, str] = {}
    last = journal.db.execute("SELECT max(version) FROM versions").fetchone()[0]
    for version in range(last + 1):
        if version:
            master, state = next_model(journal, version, master, state, merging)
        patterns = published(merging.rule, state, PARAMETERS, "fp16")
        assert patterns is not None
        led_to[version] = versions.version_sha256(patterns)
    for version, sha256 in corrected:
        assert led_to[version] == sha256, f"a task on version {version} was given another control variate"
    assert corrected, "nobody trained with a control variate"


def nobody_starves(world: World) -> None:
    """Who is here and free is given a task before the others have had several each."""
    online, busy = set[str](), dict[str, str]()
    passed: dict[str, int] = dict.fromkeys(world.config.agents, 0)
    waiting: Counter[str] = Counter()
    for _, event, fields in world.coordinator.records:
        agent = str(fields.get("agent", ""))
        if event in ("agent_online", "agent_offline"):
            (online.add if event == "agent_online" else online.discard)(agent)
        elif event == "run_started":
            online.clear()  # known to be here only when they say so again
        elif event == "update_acked":
            busy.pop(agent, None)
            waiting[agent] += 1
        elif event == "task_closed":
            if busy.get(agent) == fields["task"]:
                del busy[agent]
            else:
                waiting[agent] -= 1
        elif event == "task_opened":
            busy[agent] = fields["task"]
            for name in passed:
                idle = name in online and name not in busy and not waiting[name]
                passed[name] = passed[name] + 1 if idle else 0
        worst = max(passed, key=passed.__getitem__)
        assert passed[worst] <= STARVED * len(passed), (
            f"{worst} was free while others had {passed[worst]} tasks"
        )


def only_lost_variates_are_told(world: World) -> None:
    """A lapse that blames a device for a disk which it still has would be worse than none."""
    told = {
        fields["node"] for _, _, fields in world.coordinator.records if fields.get("what") == "variate_lost"
    }
    lost = {agent.name for agent in world.agents if agent.books.disks_lost}
    assert told <= lost, f"{sorted(told - lost)} never lost a disk"


def a_replay_decides_the_same(world: World) -> None:
    for number, life in enumerate(world.coordinator.lives):
        core = world.coordinator.core_type(
            world.config, unpack_state(life.began), world.coordinator.make_policy()
        )
        for event, now, digest in life.told:
            assert digest_of(core.handle(event, now)) == digest, (
                f"life {number}, event {event.id} at {now:.3f} s"
            )


def nothing_is_lost_or_doubled(world: World, agent: AgentHost) -> None:
    """Deltas made = residual + unsettled + settled as sent + gone with a disk."""
    spool = agent.spool_type(agent.disk.after_kill(), agent.run)
    spool.keep_books(agent.books)
    if agent.service is None and not agent.finished and agent._before is not None:
        spool.reconcile(agent._before)
    books = agent.books
    off = float(np.abs(books.made - (held(spool, agent.parameters) + books.sent + books.lost)).max())
    assert off < TOLERANCE, f"{agent.name}: {off:.2g} of its deltas were lost or doubled"
    durable = agent.spool_type(agent.disk.after_power_cut(world.rng), agent.run)
    names = {(i.task, i.sha256) for i in durable.restored().items}
    assert names == {(i.task, i.sha256) for i in spool.restored().items}, (
        f"{agent.name}: the spool is not durable"
    )


def bounds_were_held(agent: AgentHost) -> None:
    n = agent.parameters
    payload = n * 4 + 500
    controls = 0
    if agent.books.corrected:
        # Beside every update its change; two of the variate and of c while one replaces the other.
        payload += 4 * n + 200
        controls = 2 * 4 * n + 2 * (2 * n + 200)
    most = PENDING_MAX * payload + 2 * 4 * n + payload + 2 * 2 * n + controls + 5_000
    assert agent.largest_disk <= most, (
        f"{agent.name} used {agent.largest_disk} bytes of disk, {most} are the most"
    )
    if agent.service is not None:
        assert len(agent.core.state.items) <= PENDING_MAX


def nothing_waits_for_ever(world: World, agent: AgentHost) -> None:
    """In a calm world an agent learns of every fate within some questions, however many answers were lost before."""
    ended = {
        fields["task"]: moment for moment, name, fields in world.coordinator.records if name == "task_closed"
    }
    since = max(world.habits.calm_at_s, agent.up_since)
    spool = agent.spool_type(agent.disk.after_kill(), agent.run)
    for item in spool.restored().items:
        waited_s = world.said_goodbye_at - max(since, ended.get(item.task, float("inf")))
        assert waited_s < LEARNS_WITHIN_S, (
            f"{agent.name} does not know after {waited_s:.0f} s what became of {item.task}"
        )
