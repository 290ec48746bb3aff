"""client_takeover: somebody who has the device's own credentials connects under its client id, again and again.

A broker has one session per client id: each connection of the intruder ends the device's, and the other way round. The
intruder asks for a clean session, so what waited for the device is gone, too. It runs inside the device's container,
whose files hold the credentials; the program is the text below, so no agent carries it.
"""

from __future__ import annotations

from emulation.faults.base import FaultBase, FaultProblem, Seen, Tools, find
from history.fields import text

CONFIG = "/run/edgerig/private/{device}/agent.yaml"
AGAIN_S = 3.0  # the agent is back within one to four seconds
# What MQTT 5 tells the client that is put out (reason code 0x8E), and 3.1.1, which just closes.
SIGNS = ("taken over", "unspecified", "lost", "closed")

PROGRAM = r"""
import ssl, sys, time, pathlib, yaml
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
file, again_s = pathlib.Path(sys.argv[1]), float(sys.argv[2])
c = yaml.safe_load(file.read_text())
while True:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=c["username"], protocol=MQTTProtocolVersion.MQTTv5)
    client.username_pw_set(c["username"], (file.parent / c["password_file"]).read_text().strip())
    if c.get("ca_file"):
        client.tls_set(str(file.parent / c["ca_file"]), tls_version=ssl.PROTOCOL_TLS_CLIENT)
    try:
        client.connect(c["broker_host"], c["broker_port"], clean_start=True)
        client.loop_start()
        time.sleep(again_s)
        client.disconnect()
        client.loop_stop()
    except OSError:
        time.sleep(again_s)
"""


class ClientTakeover(FaultBase):
    kind = "client_takeover"
    devices_only = True
    verify_wait_s = 20.0  # an import and a TLS handshake within a quota of a tenth of a core

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def apply(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if not container.running:
            raise FaultProblem(
                f"{target} does not run ({container.status}): it has no connection to take over"
            )
        self._before[target] = len(tools.behaviours.says(target, "disconnected"))
        tools.machines.run_inside(container, PROGRAM, [CONFIG.format(device=target), str(AGAIN_S)])

    def verify(self, tools: Tools, target: str) -> Seen:
        """The device itself says that it was put out after the fault struck."""
        later = tools.behaviours.says(target, "disconnected")[self._before.get(target, 0) :]
        reasons = [text(event, "reason") for event in later]
        ok = any(sign in reason.lower() for reason in reasons for sign in SIGNS)
        return Seen(
            ok, f"the device was disconnected: {reasons[-1]}" if reasons else "the device is connected"
        )

    def heal(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if container.running:
            tools.machines.stop_inside(container)
