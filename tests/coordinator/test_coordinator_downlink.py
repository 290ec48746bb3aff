"""What goes down: every path to a version gives the same bits, a restart makes the same versions, the audit agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coordinator_world import Habits, World, make_config

from coordinator.audit import Audit
from coordinator.live import LiveModels
from coordinator.recovery import restore_model
from edge_agent.paths import cheapest
from wire import chunks
from wire.codecs import model as versions
from wire.codecs.model import Rounding

ROUNDINGS = [Rounding(), Rounding("int8"), Rounding("none"), Rounding("fp16", 0.05), Rounding("none", 0.2)]


def drifting(count: int, n: int = 6_000) -> list[Any]:
    rng, model = np.random.default_rng(1), np.zeros(n, np.float32)
    made = []
    for _ in range(count):
        model = model + (rng.standard_normal(n) * 1e-3).astype(np.float32)
        made.append(model)
    return made


def install(held: Any, live: LiveModels, version: int | None) -> tuple[Any, int]:
    """As an agent does it: what it lacks, by the fewest bytes; returns the patterns and the bytes fetched."""
    objects = {item.ref.name: item for item in live.everything()}
    fetched = 0
    for wanted in cheapest(live.ref, version):
        pieces = [chunks.parse(piece).body for piece in objects[wanted.ref.name].chunks]
        payload = b"".join(bytes(piece) for piece in pieces)
        fetched += len(payload)
        if wanted.ref.base_version is None:
            size = versions.items(live.ref.parameters, live.ref.dtype)
            held = versions.decode_full(payload, size, live.ref.dtype)
        else:
            held = versions.apply_delta(held, payload)
    return held, fetched


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
def test_a_faithful_agent_an_absent_one_and_a_late_joiner_hold_the_same_bits(rounding: Rounding) -> None:
    live, patterns = LiveModels(b"graph", rounding.dtype, 1_000), None
    faithful: Any = None
    absent: Any = None
    for version, master in enumerate(drifting(14)):
        patterns = rounding.patterns(version, master, patterns)
        live.advance(version, patterns)
        faithful, fetched = install(faithful, live, version - 1 if version else None)
        if version in (2, 8):
            absent, _ = install(absent, live, None if version == 2 else 2)
            assert np.array_equal(absent, patterns)
        joined, whole = install(None, live, None)
        assert np.array_equal(faithful, patterns)
        assert np.array_equal(joined, patterns)
        assert versions.version_sha256(faithful) == live.ref.sha256
        if version > 0 and version % versions.KEY_EVERY and rounding.share < 1:
            assert fetched < whole / 2, "a share of the parameters is a small difference"


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
def test_recovery_and_audit_make_the_versions_that_were_published(rounding: Rounding) -> None:
    class Rounded(World):
        pass

    Rounded.rounding = rounding
    world = Rounded(make_config(rounds=13), seed=3, habits=Habits(crash=0.01))
    world.run()
    recorded = dict(world.journal.db.execute("SELECT version, sha256 FROM versions").fetchall())
    assert len(set(recorded.values())) == 14
    for keep in (1, 4, 8):
        model = restore_model(world.journal, rounding, keep)
        assert model is not None
        for version, patterns in model.recent:
            assert versions.version_sha256(patterns) == recorded[version]
    work = Audit(world.journal.db, rounding)
    work.check_versions()
    assert not work.problems
    assert work.recomputed == 14
    wrong = Audit(world.journal.db, Rounding("none" if rounding.dtype != "none" else "fp16"))
    wrong.check_versions()
    assert wrong.problems, "other bits than the published ones must not pass"
