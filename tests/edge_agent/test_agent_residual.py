"""Error feedback on a device's disk, as a task asks for it: plain, with momentum, off; old residuals; restarts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agent_builders import report
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.layout import TINY_ELEMENTS, Layout, layout_of
from edge_agent.ledger import Carried
from edge_agent.spool import NO_LAYOUT, Spool
from learning.autodiff import build_training_graph
from learning.models import build_model
from simulation.disk import ForgetfulDisk
from wire.codecs import CodecSpec, Feedback, Sparsify, decode, uplink_spec
from wire.codecs.feedback import GIVEN_BACK
from wire.messages import OUTCOMES, Report, UplinkSpec

N = 400
TOP = uplink_spec(0.05, "int8")


def delta(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(N).astype(np.float32)


def as_report(carried: Carried) -> Report:
    return report(residual_norm=carried.residual_norm, residual_share=carried.residual_share)


def encode(
    spool: Spool, task: str, vector: Any, uplink: UplinkSpec, version: int = 0, layout: Layout = NO_LAYOUT
) -> Report:
    prepared = spool.prepare(
        task, vector.copy(), uplink, seed=7, version=version, layout=layout, report=as_report
    )
    spool.commit(task)
    return prepared.item.report


def content(spool: Spool, task: str) -> Any:
    return decode(spool.payload(task), n=N).dense()


CHAINS = [
    TOP,
    CodecSpec(sparsify=Sparsify(kind="random_k", fraction=0.1), quantize="int4"),
    CodecSpec(sparsify=Sparsify(kind="threshold", threshold=0.7), quantize="ternary"),
    CodecSpec(rotate="hadamard", quantize="eden", bits=1, entropy="none"),
    CodecSpec(quantize="qsgd", levels=4),
    CodecSpec(quantize="bf16"),
]


@pytest.mark.parametrize("chain", CHAINS, ids=str)
@given(fates=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_sent_plus_residual_is_the_sum_of_local_deltas_whatever_the_outcome(
    chain: CodecSpec, fates: list[str]
) -> None:
    spool, uplink = Spool(ForgetfulDisk(), "r"), UplinkSpec(chain=chain)
    made, sent = np.zeros(N), np.zeros(N)
    for number, fate in enumerate(fates):
        encode(spool, f"t{number}", delta(number), uplink)
        made += delta(number)
        give_back = GIVEN_BACK[fate]  # type: ignore[index]
        if not give_back:
            sent += content(spool, f"t{number}")
        spool.settle(f"t{number}", give_back)
        np.testing.assert_allclose(sent + spool.residual(N), made, atol=2e-4)


def test_without_feedback_nothing_is_kept_and_scales_are_unbiased() -> None:
    chain = CodecSpec(rotate="hadamard", quantize="eden", bits=1, entropy="none")
    spool, off = Spool(ForgetfulDisk(), "r"), UplinkSpec(chain=chain, feedback=Feedback(kind="off"))
    said = encode(spool, "t1", delta(1), off)
    assert (said.residual_norm, said.residual_share) == (0.0, 0.0)
    with_feedback = Spool(ForgetfulDisk(), "r")
    encode(with_feedback, "t1", delta(1), UplinkSpec(chain=chain))
    shrunk, unbiased = content(with_feedback, "t1"), content(spool, "t1")
    ratio = float(np.dot(unbiased, unbiased) / np.dot(shrunk, unbiased))
    assert ratio == pytest.approx(np.pi / 2, rel=0.1), "EDEN's two scales differ by pi/2 at one bit"
    spool.settle("t1", give_back=True)
    assert not spool.residual(N).any()


def test_momentum_follows_deep_gradient_compression_and_survives_a_restart() -> None:
    """u = m u + delta; v = v + u; send top-k of v; u and v are cleared where it was sent (Lin et al. 2018)."""
    disk = ForgetfulDisk()
    dgc = UplinkSpec(chain=uplink_spec(0.1), feedback=Feedback(kind="dgc", momentum=0.9), bypass=False)
    u, v = np.zeros(N, np.float32), np.zeros(N, np.float32)
    for number in range(6):
        spool = Spool(disk, "r")  # every time a new life
        u = np.float32(0.9) * u + delta(number)
        v = v + u
        encode(spool, f"t{number}", delta(number), dgc)
        where = decode(spool.payload(f"t{number}"), n=N).positions
        assert where is not None
        assert set(where) == set(np.argsort(np.abs(v))[-40:])
        np.testing.assert_allclose(content(spool, f"t{number}")[where], v[where], rtol=1e-5)
        u[where] = v[where] = 0
        spool.settle(f"t{number}", give_back=False)
        np.testing.assert_allclose(spool.residual(N), v, atol=1e-5)


def test_a_discarded_task_leaves_residual_and_momentum_alone() -> None:
    disk = ForgetfulDisk()
    spool = Spool(disk, "r")
    dgc = UplinkSpec(chain=uplink_spec(0.1), feedback=Feedback(kind="dgc", momentum=0.9))
    encode(spool, "t1", delta(1), dgc)
    before = (spool.residual(N).tobytes(), sorted(disk.names()))
    spool.prepare("t2", delta(2), dgc, seed=1, version=1, report=as_report)
    spool.discard("t2")
    assert (spool.residual(N).tobytes(), sorted(disk.names())) == before
    assert sum(name.startswith("velocity-") for name in disk.names()) == 1


def test_an_old_residual_fades_after_its_grace_and_the_report_says_so() -> None:
    spool = Spool(ForgetfulDisk(), "r")
    fading = UplinkSpec(chain=TOP, feedback=Feedback(decay_after=3, decay_factor=0.5))
    encode(spool, "t1", delta(1), fading, version=10)
    left = spool.residual(N)
    nothing = np.zeros(N, np.float32)
    said = encode(spool, "t2", nothing, fading, version=15)  # five versions old: two beyond the grace
    assert said.residual_share == 0.25
    spool.settle("t1", give_back=False)
    np.testing.assert_allclose(spool.residual(N) + content(spool, "t2"), left * 0.25, atol=1e-6)
    assert encode(spool, "t3", nothing, fading, version=18).residual_share == 1.0


def test_restart_fresh_drops_what_an_earlier_boot_left() -> None:
    disk = ForgetfulDisk()
    fresh = UplinkSpec(chain=TOP, feedback=Feedback(restart="fresh"))
    encode(Spool(disk, "r"), "t1", delta(1), fresh)
    again = Spool(disk, "r")
    again.settle("t1", give_back=True)
    said = encode(again, "t2", delta(2), fresh)
    assert said.residual_share == 0.0
    np.testing.assert_allclose(again.residual(N) + content(again, "t2"), delta(2), atol=1e-6)
    kept = again.residual(N)
    assert encode(again, "t3", np.zeros(N, np.float32), fresh).residual_share == 1.0
    np.testing.assert_allclose(again.residual(N) + content(again, "t3"), kept, atol=1e-6)


def test_the_same_task_encoded_again_has_the_same_bytes() -> None:
    made = []
    for _ in range(2):
        spool = Spool(ForgetfulDisk(), "r")
        encode(spool, "t1", delta(1), UplinkSpec(chain=TOP))
        made.append(spool.payload("t1"))
    assert made[0] == made[1]


def test_running_statistics_are_sent_exactly_and_leave_no_residual() -> None:
    layout = Layout(exact=[slice(0, 50)])
    spool, uplink = Spool(ForgetfulDisk(), "r"), UplinkSpec(chain=TOP)
    for number in range(3):
        encode(spool, f"t{number}", delta(number), uplink, layout=layout)
        assert np.array_equal(content(spool, f"t{number}")[:50], delta(number)[:50])
        spool.settle(f"t{number}", give_back=number == 1)  # what comes back is not sent a second time
    assert spool.residual(N)[50:].any()


def test_tiny_tensors_go_beside_the_chain_unless_they_are_the_model() -> None:
    artifact = build_training_graph(build_model("mlp", 1), batch_size=16)
    layout = layout_of(artifact, bypass=True)
    names = {
        spec.name
        for spec, part in zip(artifact.parameters, artifact.slices, strict=True)
        if part in layout.bypass
    }
    assert names == {s.name for s in artifact.parameters if s.kind == "bias" or s.size <= TINY_ELEMENTS}
    assert layout.layers[-1].stop == artifact.size
    assert not layout_of(artifact, bypass=False).bypass
