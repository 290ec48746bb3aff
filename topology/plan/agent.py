"""What one device is told about itself."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# The one file through which hostd tells an agent to do wrong, in its state folder (docs/faults.md).
HOOK_NAME = "faults.json"


class AgentConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one device is told about itself: the file `agent.yaml`, in a container as on a Raspberry Pi.

    Paths are relative to the file's own folder unless absolute. `uplink_bit_s` and `downlink_bit_s` bound the bytes
    in flight to one second of the link; 0 means unknown (then a cautious 1 Mbit/s is assumed). `rtt_s` is the link's
    round trip without queues: the keepalive leaves room for it. An empty `gate` means: no link gate.
    `hook` is for experiments: a file that tells the agent to do wrong; empty, as on every real device, means none.
    """

    run: str
    agent: str
    broker_host: str
    broker_port: int
    username: str
    password_file: str
    ca_file: str | None = None
    tls_server_name: str | None = None
    mqtt_version: Literal[4, 5] = 5
    shard: str
    state: str
    gate: str = ""
    hook: str = ""
    power: str = ""  # where hostd writes the battery's state; empty: the kernel is asked
    gate_wait_s: float = 180.0
    threads: int = 1
    uplink_bit_s: int = 0
    downlink_bit_s: int = 0
    rtt_s: float = 0.0
    congestion: str = ""
    log_level: str = "info"
