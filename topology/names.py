"""Names of models, data sets and partitions that a topology may use: the built-in tables and installed plug-ins.

What is behind the names is on a higher floor (`learning`); a test holds both tables against each other. Plug-ins are
only listed here (their metadata is read, none is imported).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from wire import plugins

# Parameters of the reference models. Of an .onnx file they are known once it has been read.
PARAMETERS: Mapping[str, int] = {
    "cnn": 1_663_370,
    "conv1d": 24_038,
    "gru": 52_998,
    "mlp": 199_210,
    "mobile-cnn": 18_346,
    "transformer": 124_776,
}

# Training samples per data set; None: only known once it has been loaded, or as many as are asked for.
TRAIN_SAMPLES: Mapping[str, int | None] = {"mnist": 60_000, "mnist-mini": 10_000, "sensors": None}

# Kinds of `learning.personal`, on every device; a device refuses one that it does not know.
PERSONALIZATIONS = ("fedper", "fedrep", "ditto", "fine_tune")

PARTITIONS = ("iid", "dirichlet", "shards", "quantity", "natural", "feature-drift")

MODEL_PLUGINS, DATASET_PLUGINS, PARTITION_PLUGINS = (
    f"edgerig.{kind}" for kind in ("models", "datasets", "partitions")
)
MERGE_PLUGINS, SELECTION_PLUGINS, QUANTIZER_PLUGINS = (
    f"edgerig.{kind}" for kind in ("merges", "selections", "quantizers")
)


class WithPlugins:
    """The names of a table and of the installed plug-ins of a group, looked up when they are asked for."""

    def __init__(self, built_in: Mapping[str, object] | tuple[str, ...], group: str) -> None:
        self.built_in, self.group = tuple(built_in), group

    def __iter__(self) -> Iterator[str]:
        return iter((*self.built_in, *plugins.names(self.group)))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or any(name == known for known in self)


MODELS = WithPlugins(PARAMETERS, MODEL_PLUGINS)
DATASETS = WithPlugins(TRAIN_SAMPLES, DATASET_PLUGINS)
ALL_PARTITIONS = WithPlugins(PARTITIONS, PARTITION_PLUGINS)


def is_path(name: str) -> bool:
    """Whether a model or a data set is a file or folder rather than a name."""
    return "/" in name or name.endswith((".onnx", ".txt"))


QUANTIZERS = WithPlugins(
    ("none", "fp16", "bf16", "int8", "int4", "ternary", "qsgd", "eden"), QUANTIZER_PLUGINS
)
SELECTIONS = WithPlugins(
    ("random", "round_robin", "availability", "bandwidth", "oort", "power_of_choice"), SELECTION_PLUGINS
)
MERGES = WithPlugins(
    (
        "fedavg",
        "fedavgm",
        "fedadam",
        "fedyogi",
        "fednova",
        "scaffold",
        "median",
        "trimmed_mean",
        "krum",
        "norm_bound",
        "dp_fedavg",
    ),
    MERGE_PLUGINS,
)
