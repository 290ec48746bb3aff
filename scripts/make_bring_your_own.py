"""Export the model of topology/examples/bring-your-own.yaml from PyTorch.

python scripts/make_bring_your_own.py     (needs torch; the example needs the file alone, which is committed)

As anybody would export a network of theirs, but for one thing: in training mode, so that the exporter neither folds
BatchNorm into the convolutions nor removes Dropout.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

OUT = Path(__file__).parent.parent / "topology" / "examples" / "models" / "digits.onnx"


def network() -> nn.Sequential:
    """28×28 grey images, ten classes: 9,994 parameters and 72 running statistics."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24 * 3 * 3, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def main() -> None:
    torch.manual_seed(7)
    OUT.parent.mkdir(exist_ok=True)
    torch.onnx.export(
        network().train(),
        (torch.zeros(2, 1, 28, 28),),
        str(OUT),
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": [0], "logits": [0]},
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        dynamo=False,
        opset_version=17,
    )


if __name__ == "__main__":
    main()
