"""The training step in a container under a quota: what a calibrated device will really be like here."""

from __future__ import annotations

from pathlib import Path

import docker.errors
import msgspec
import requests.exceptions

from compose import engine
from compose.errors import EnvironmentProblem
from compose.services import IMAGES
from learning.calibration import WALL_S_MAX, Calibration

LABEL = "io.edgerig.helper"
START_S = 60.0  # Python and onnxruntime start under the quota, too
MOUNTED = "/step.artifact"


def in_container(artifact: Path, cpus: float, threads: int, seconds: float) -> Calibration:
    """Run `edge-agent calibrate` in the agent's image with this quota. Raises EnvironmentProblem."""
    client = engine.client()
    command = ["calibrate", "--artifact", MOUNTED, "--json"]
    command += ["--threads", str(threads), "--seconds", f"{seconds:g}"]
    with engine.blamed():
        try:
            container = client.containers.create(
                IMAGES["agent"],
                command,
                nano_cpus=round(cpus * 1e9),
                network_mode="none",
                read_only=True,
                init=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                labels={LABEL: "calibrate"},
                volumes={str(artifact.resolve()): {"bind": MOUNTED, "mode": "ro"}},
            )
        except docker.errors.ImageNotFound:
            raise EnvironmentProblem("the image edgerig-agent is not built", hint=engine.SETUP_HINT) from None
        try:
            container.start()
            code = container.wait(timeout=START_S + WALL_S_MAX)["StatusCode"]
            said = container.logs(stdout=True, stderr=False)
            log = container.logs(stdout=False, stderr=True).decode("utf-8", "replace").splitlines()[-5:]
        except requests.exceptions.ReadTimeout:
            awaited = f"{START_S + WALL_S_MAX:.0f} s"
            raise EnvironmentProblem("the step in a container did not end", awaited=awaited) from None
        finally:
            container.remove(force=True)
    if code != 0:
        raise EnvironmentProblem(f"the step in a container ended with exit code {code}", log=log)
    return msgspec.json.decode(said, type=Calibration)
