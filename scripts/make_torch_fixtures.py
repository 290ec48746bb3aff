"""Make tests/learning/fixtures: ten models exported by PyTorch, each with the loss curve PyTorch itself trains to.

python scripts/make_torch_fixtures.py [NAME ...]     (needs torch and onnxscript; the tests that read them need neither)

Half of the files come from the tracing exporter, half from the one over torch.export: they leave different shape
arithmetic behind. Data are drawn from a fixed seed; 50 steps of momentum SGD on batches taken in order.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

OUT = Path(__file__).resolve().parent.parent / "tests" / "learning" / "fixtures"
BATCH, STEPS, SAMPLES, LR, MOMENTUM = 8, 50, 40, 0.02, 0.9


class Residual(nn.Module):
    """Convolution, batch norm, a skip connection, adaptive pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.inner(x))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(3, 6, batch_first=True, bidirectional=kind == "LSTM")
        self.head = nn.Linear(12 if kind == "LSTM" else 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Attention(nn.Module):
    """A token model with learned positions and causal scaled-dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(12, 8), nn.Parameter(torch.randn(1, 6, 8) * 0.1)
        self.qkv, self.norm, self.head = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.position
        q, k, v = self.qkv(h).reshape(x.shape[0], 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(self.norm(h + mixed.transpose(1, 2).reshape(x.shape[0], 6, 8)).mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.GELU(), nn.Linear(12, 4), nn.LogSoftmax(1))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.Hardswish(), nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.BatchNorm2d(4), nn.ReLU6(),
        nn.Conv2d(4, 8, 1), nn.LeakyReLU(0.1), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, (3, 2), padding=(1, 0), dilation=(1, 2)), nn.MaxPool2d(3, 2, 1), nn.Sigmoid(),
        nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


def series() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.Tanh(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 2), nn.ELU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def decoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.Softplus(), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Hardsigmoid(),
    )  # fmt: skip


IMAGE, SERIES = (1, 6, 6), (6, 3)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...] | None, str, bool]] = {
    "mlp": (mlp, IMAGE, "softmax_cross_entropy", True),
    "residual": (Residual, IMAGE, "softmax_cross_entropy", True),
    "depthwise": (depthwise, IMAGE, "softmax_cross_entropy", False),
    "pooled": (pooled, IMAGE, "softmax_cross_entropy", False),
    "series": (series, (3, 6), "softmax_cross_entropy", True),
    "gru": (lambda: Recurrent("GRU"), SERIES, "softmax_cross_entropy", False),
    "lstm": (lambda: Recurrent("LSTM"), SERIES, "softmax_cross_entropy", False),
    "attention": (Attention, None, "softmax_cross_entropy", True),
    "encoder": (Encoder, (6, 8), "softmax_cross_entropy", True),
    "decoder": (decoder, IMAGE, "mean_squared_error", False),
}


def data_of(shape: tuple[int, ...] | None, loss: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    if shape is None:
        x = torch.randint(0, 12, (SAMPLES, 6), generator=generator)
    else:
        x = torch.randn(SAMPLES, *shape, generator=generator)
    y = torch.randint(0, 4, (SAMPLES,), generator=generator)
    return x, torch.rand(x.shape, generator=generator) if loss == "mean_squared_error" else y


def folded(module: nn.Module) -> nn.Module:
    """As exporters write it: batch norm folded into the convolution before it."""
    if isinstance(module, Residual):
        module.stem, module.norm = fuse_conv_bn_eval(module.stem, module.norm), nn.Identity()
    elif isinstance(module, nn.Sequential):
        for index, layer in enumerate(module):
            if isinstance(layer, nn.BatchNorm2d):
                module[index - 1] = fuse_conv_bn_eval(module[index - 1], layer)
                module[index] = nn.Identity()
    return module


def curve(module: nn.Module, x: Tensor, y: Tensor, loss: str) -> list[float]:
    """The loss of every step."""
    optimizer = torch.optim.SGD(folded(module).parameters(), lr=LR, momentum=MOMENTUM)
    function = functional.cross_entropy if loss == "softmax_cross_entropy" else functional.mse_loss
    losses = []
    for step in range(STEPS):
        start = step * BATCH % SAMPLES
        optimizer.zero_grad()
        value = function(module(x[start : start + BATCH]), y[start : start + BATCH])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or CASES:
        make, shape, loss, modern = CASES[name]
        torch.manual_seed(7)
        module = make().eval()
        with torch.no_grad():
            # The newer exporter stores equal tensors once: two fresh LayerNorms would come out as one, tied.
            for parameter in module.parameters():
                parameter += 0.01 * torch.randn(parameter.shape)
        x, y = data_of(shape, loss)
        path = OUT / f"{name}.onnx"
        options = (
            {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if modern else {"dynamic_axes": {"x": [0]}}
        )
        torch.onnx.export(
            module, (x[:BATCH],), str(path), dynamo=modern, input_names=["x"], opset_version=18 if modern else 17,
            external_data=False, do_constant_folding=True, **options,
        )  # fmt: skip
        model = onnx.load(str(path))
        for node in model.graph.node:  # traces of the exporting machine
            node.doc_string = ""
            del node.metadata_props[:]
        del model.metadata_props[:]
        onnx.save(model, str(path))
        losses = curve(module, x, y, loss)
        np.savez_compressed(
            OUT / f"{name}.npz", x=x.numpy(), y=y.numpy(), losses=np.asarray(losses, np.float32)
        )
        print(f"{name}: {path.stat().st_size} bytes, loss {losses[0]:.4f} → {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
