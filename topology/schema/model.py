"""What is trained: a reference model, a plug-in's, or any .onnx file; and how its training graph is derived."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from topology.errors import did_you_mean
from topology.fields import Strict, problem
from topology.names import MODELS, is_path


def _known(value: object) -> object:
    if isinstance(value, str) and not is_path(value) and value not in MODELS:
        hint = did_you_mean(value, MODELS)
        raise problem("no such model", f"{hint}; or the path of an .onnx file")
    return value


class Feed(Strict):
    """What a device feeds the model: raw samples of `dtype`; the graph turns them into `x·scale + offset`."""

    dtype: Annotated[
        Literal["uint8", "float32", "int64", "int32"] | None, Field(description="The data set's by default.")
    ] = None
    scale: Annotated[
        float | None, Field(gt=0, le=1e6, description="1/255 for bytes, else 1, by default.")
    ] = None
    offset: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0


class Model(Strict):
    """A model by name or path, its loss head, and which of its parameters are trained."""

    source: Annotated[
        str,
        Field(min_length=1, max_length=512, description="A name, or an .onnx file beside the topology."),
        BeforeValidator(_known),
    ]
    loss: Annotated[
        Literal["softmax_cross_entropy", "mean_squared_error", "binary_cross_entropy", "next_token"] | None,
        Field(
            description="The loss head; by default next_token for transformer, else softmax_cross_entropy."
        ),
    ] = None
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="softmax_cross_entropy: this share goes to all classes.")
    ] = 0.0
    trainable: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]] | None,
        Field(min_length=1, max_length=256, description="Name patterns, such as fc*; all by default."),
    ] = None
    batch_norm: Annotated[
        Literal["frozen", "train", "local"],
        Field(
            description="frozen: fixed statistics. train: of the batch; running ones are averaged. "
            "local: of the batch, and every device keeps its own (FedBN)."
        ),
    ] = "frozen"
    dropout: Annotated[bool, Field(description="Let Dropout nodes that are in the file drop.")] = False
    input: Feed = Feed()
    dims: Annotated[
        dict[Annotated[str, Field(max_length=256)], Annotated[int, Field(ge=1, le=1 << 20)]],
        Field(max_length=16, description="Sizes of dynamic dimensions other than the batch, by name."),
    ] = {}  # noqa: RUF012 (pydantic copies defaults)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.source.rsplit("/", 1)[-1].removesuffix(".onnx") if is_path(self.source) else self.source

    @property
    def is_file(self) -> bool:
        return is_path(self.source)

    @property
    def head(self) -> str:
        return self.loss or ("next_token" if self.source == "transformer" else "softmax_cross_entropy")
