"""Peak resident memory of an agent-like process while it trains: python -m benchmarks.memory [--model cnn]

Loads what an agent loads (paho with TLS, msgspec, zstandard, PyYAML, onnxruntime), holds a float32 residual
with error feedback and a received version in float16, and trains with momentum. Prints one JSON object;
`peak_rss_mb` is VmHWM in MB of 10⁶ bytes. The artifact is made by a child process, since an agent never
imports `onnx`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PREPARE = """
import sys
import numpy as np
from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.models import build_model
folder, name, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = build_model(name, 1)
artifact = build_training_graph(model, batch_size=batch)
open(f"{folder}/artifact", "wb").write(artifact.to_bytes())
np.save(f"{folder}/params.npy", initial_parameters(model, artifact).astype(np.float16))
data = load("mnist-mini")
np.save(f"{folder}/x.npy", data.train_x[:1000])
np.save(f"{folder}/y.npy", data.train_y[:1000].astype(np.int64))
"""


def status(key: str) -> float:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


def measure(folder: str, args: argparse.Namespace) -> dict[str, float]:
    import ssl

    import numpy as np
    import paho.mqtt.client as mqtt
    import yaml
    import zstandard

    from learning.artifact import TrainingArtifact
    from learning.shard import open_shard
    from learning.trainer import Trainer, TrainingSpec
    from wire.codecs import make_chain, uplink_spec
    from wire.codecs.feedback import ErrorFeedback

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.tls_set_context(ssl.create_default_context())
    del yaml, zstandard  # loaded only because an agent has them loaded
    imported = status("VmRSS")
    artifact = TrainingArtifact.from_bytes(Path(folder, "artifact").read_bytes())
    received = np.load(Path(folder, "params.npy"))
    memory = None if args.late_residual else ErrorFeedback(artifact.size)
    if memory is not None:
        memory._residual[:] = 1e-9  # touched, as after the first update
    spec = TrainingSpec(batch_size=args.batch, local_steps=args.steps, lr=0.02, momentum=args.momentum)
    began = time.process_time()
    result = Trainer(artifact, open_shard(folder)).train(received, spec, seed=1)
    cpu = time.process_time() - began
    trained = status("VmHWM")
    memory = memory or ErrorFeedback(artifact.size)
    memory.encode("t", result.delta, make_chain(uplink_spec(0.01, "int8")), seed=1)
    return {
        "imported_mb": round(imported, 1),
        "peak_rss_mb": round(trained, 1),
        "peak_with_encoding_mb": round(status("VmHWM"), 1),
        "cpu_ms_per_step": round(cpu / args.steps * 1e3, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--late-residual", action="store_true", help="load the residual after training")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", PREPARE, folder, args.model, str(args.batch)], check=True)
        print(json.dumps(measure(folder, args)))


if __name__ == "__main__":
    main()
