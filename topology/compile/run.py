"""The whole plan."""

from __future__ import annotations

import hashlib
import re

from topology.compile.compression import compile_compression
from topology.compile.devices import (
    BROKER_UID,
    COORDINATOR_UID,
    Addresses,
    compile_devices,
    compile_network,
    compile_tolerance,
    default_subnet,
)
from topology.compile.faults import compile_faults
from topology.compile.learning import compile_data, compile_model, compile_training
from topology.compile.merge import compile_merge
from topology.compile.personalization import compile_evaluation, compile_personalization
from topology.compile.policy import compile_policy
from topology.errors import TopologyError, TopologyErrors, join_path
from topology.host import Host, host_problems
from topology.plan import Expectation, Plan, Runtime
from topology.schema import Topology

# Run ids are part of topics, labels, network and container names: a DNS label with room for a prefix.
RUN_ID = re.compile(r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$")


START_TIMEOUT_S = 120.0  # of a demo on a busy machine, ten times what it takes; and more for a large fleet


START_TIMEOUT_PER_DEVICE_S = 3.0


def compile_topology(
    topology: Topology,
    run_id: str,
    *,
    runtime: Runtime = "docker",
    host: Host | None = None,
    subnet: str | None = None,
    uid: int | None = None,
    sha256: str = "",
) -> Plan:
    """The plan of one run.

    `host`: also check that it can give what is asked. `subnet`: of the data network (docker; default
    10.213.0.0/24, or /20 for more than 239 devices). `uid`: one user id for all containers, where who starts
    them is no root; otherwise each gets its own. `sha256`: of the file, where there is one. Raises
    TopologyErrors, and ValueError for a bad run id or subnet.
    """
    if not RUN_ID.match(run_id):
        raise ValueError(f"run id {run_id!r}: small letters, digits and hyphens, at most 48, are allowed")
    if host is not None:
        _require_host(topology, host, runtime)
    count = len(topology.device_names)
    addresses = Addresses(subnet or default_subnet(count), count) if runtime == "docker" else None
    devices = compile_devices(topology, addresses, uid)
    return Plan(
        run=run_id,
        name=topology.name,
        seed=topology.seed,
        runtime=runtime,
        topology_sha256=sha256 or hashlib.sha256(repr(topology).encode()).hexdigest(),
        devices=devices,
        data=compile_data(topology),
        model=topology.model.name,
        graph=compile_model(topology),
        training=compile_training(topology),
        policy=compile_policy(topology),
        merge=compile_merge(topology),
        personalization=compile_personalization(topology),
        evaluation=compile_evaluation(topology),
        compression=compile_compression(topology),
        faults=compile_faults(topology),
        expect=tuple(
            Expectation(metric=m, op=c.op, value=c.value) for m, c in sorted(topology.expect.items())
        ),
        tolerance=compile_tolerance(topology),
        network=compile_network(topology, addresses),
        coordinator_uid=COORDINATOR_UID if uid is None else uid,
        broker_uid=BROKER_UID if uid is None else uid,
        start_timeout_s=START_TIMEOUT_S + START_TIMEOUT_PER_DEVICE_S * count,
    )


def _require_host(topology: Topology, host: Host, runtime: Runtime) -> None:
    found = [
        TopologyError(join_path(problem.path), problem.value, problem.message, problem.hint)
        for problem in host_problems(topology, host, runtime)
    ]
    if found:
        raise TopologyErrors(found)
