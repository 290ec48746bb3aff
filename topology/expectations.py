"""What a run may be held against: `expect: {accuracy: ">= 0.95"}`. One entry here per metric."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple, cast

from pydantic import PlainValidator, WithJsonSchema

from topology.fields import problem

Operator = Literal[">=", "<=", "==", ">", "<"]
_CONDITION = re.compile(r"^\s*(>=|<=|==|>|<)?\s*([0-9]+(?:\.[0-9]+)?)\s*$", re.ASCII)


class Metric(NamedTuple):
    """One line of help, and the largest value that makes sense (None: no bound)."""

    description: str
    largest: float | None = None


# Judged by history.verdict; a metric that a run did not produce counts as not held.
METRICS: dict[str, Metric] = {
    "accuracy": Metric("test accuracy of the last version, 0 to 1", 1.0),
    "best_accuracy": Metric("highest test accuracy of any version, 0 to 1", 1.0),
    "loss": Metric("test loss of the last version, without label smoothing"),
    "f1": Metric("F1 of the last version, mean over the classes that occur", 1.0),
    "mse": Metric("mean squared test error of the last version"),
    "perplexity": Metric("e to the test loss per token of the last version (next_token)"),
    "worst_class_accuracy": Metric("smallest test accuracy of any class, 0 to 1", 1.0),
    "largest_confusion": Metric("largest share of one class that is taken for one other, 0 to 1", 1.0),
    "rounds": Metric("rounds closed"),
    "versions": Metric("model versions made"),
    "staleness_max": Metric("largest staleness of a merged update, in versions"),
    "staleness_mean": Metric("mean staleness of the merged updates, in versions"),
    "updates_stale": Metric("updates discarded because they were older than max_staleness"),
    "updates_lost": Metric("updates acked but neither merged nor discarded with a reason"),
    "updates_duplicated": Metric("updates merged more than once"),
    "uplink_ratio": Metric("bytes of the same updates in float32 over the bytes sent"),
    "uplink_bytes": Metric("payload bytes of all updates sent up, in chunks or in offers"),
    "uplink_raw_bytes": Metric("bytes of all updates that were made, as float32"),
    "uplink_encoded_bytes": Metric("bytes of the same updates as they were encoded"),
    "uplink_mqtt_bytes": Metric("bytes that the devices' MQTT clients sent, headers and resends included"),
    "uplink_wire_bytes": Metric("bytes that left the devices' network interfaces"),
    "downlink_raw_bytes": Metric("bytes of all versions that were fetched, as float32, and of the graphs"),
    "downlink_encoded_bytes": Metric("bytes of the objects that were fetched for them"),
    "downlink_mqtt_bytes": Metric("bytes that reached the devices' MQTT clients"),
    "downlink_wire_bytes": Metric("bytes that reached the devices' network interfaces"),
    "epsilon": Metric("with merge: dp_fedavg, the ε that a device's data were given away with, for its δ"),
    "wall_s": Metric("seconds from run_started to run_finished"),
    "lapses": Metric("limits that were not held"),
    "faults_applied": Metric("faults that were applied and verified"),
    "recovery_s": Metric("longest time from the end of a fault to the next version, in seconds"),
    "local_accuracy": Metric("accuracy on the devices' own tests, mean over devices, 0 to 1", 1.0),
    "local_accuracy_min": Metric("the same of the worst device", 1.0),
    "local_accuracy_variance": Metric("the same: variance over devices", 1.0),
    "worst_decile_accuracy": Metric("the same: mean of the worst tenth of the devices", 1.0),
    "received_accuracy": Metric("of the shared model on the devices' own tests, mean over devices", 1.0),
    "personal_gain": Metric("local_accuracy less received_accuracy", 1.0),
    "fairness": Metric("Jain's index of the devices' merged updates, 0 to 1", 1.0),
}
# Of the devices' own tests (`evaluation: {local: true}`): of their personal models, where they have any.
LOCAL_METRICS = frozenset(
    {
        "local_accuracy",
        "local_accuracy_min",
        "local_accuracy_variance",
        "worst_decile_accuracy",
        "received_accuracy",
        "personal_gain",
    }
)
# Judged by history.checks, under the same names: `pass` is the one thing that may be expected of them, and a check
# that cannot tell does not pass.
CHECKS: dict[str, str] = {
    "emulation_held": "links and CPU quotas were what they claim to be",
    "faults_healed": "every fault was taken back",
    "faults_met_tasks": "every fault took effect while its target had work",
    "history_whole": "nothing is missing from the history",
    "nobody_starved": "every device that was there had its part",
    "nothing_leaked": "the host is as it was before",
    "progress_after_heal": "the run made progress after every heal",
    "staleness_bounded": "every merged update was as fresh as the schedule wants",
    "updates_conserved": "every acked update was merged once or discarded with a reason",
    "versions_gapless": "the model's versions follow each other without a gap",
}
PASS = "pass"
METRICS |= {name: Metric(f"check: {question}; `pass`", 1.0) for name, question in CHECKS.items()}


class Condition(NamedTuple):
    """`op` and `value` of an expectation."""

    op: Operator
    value: float

    def __str__(self) -> str:
        return f"{self.op} {self.value:g}"


def parse_condition(value: object) -> Condition:
    """`">= 0.95"` → (">=", 0.95); a bare number means `==`."""
    if isinstance(value, Condition):
        return value
    if value == PASS:
        return Condition("==", 1.0)
    match = None if isinstance(value, bool) else _CONDITION.match(str(value))
    if match is None:
        raise problem(
            "an operator and a number are wanted", 'write it like ">= 0.95"; operators: >= <= == > <'
        )
    return Condition(cast(Operator, match[1] or "=="), float(match[2]))


Expected = Annotated[
    Condition,
    PlainValidator(parse_condition),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "string", "pattern": r"^\s*((>=|<=|==|>|<)?\s*[0-9]+(\.[0-9]+)?|pass)\s*$"},
            ],
            "description": "A number (equal to it), an operator and a number, or `pass` for a check.",
            "examples": [">= 0.95", 0],
        }
    ),
]
