"""The models of the file, their JSON Schema, and the tables behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import topology
from learning.datasets import DATASETS
from learning.models import MODELS, build_model
from learning.partition import PARTITIONS
from topology import names
from topology.errors import TopologyErrors
from topology.expectations import METRICS, Condition
from topology.generated import generated_files, json_schema
from topology.names import PARAMETERS, TRAIN_SAMPLES
from topology.plan import Shape
from topology.profiles import DEVICES, LINKS
from topology.validate import parse_topology

REPOSITORY = Path(topology.__file__).parent.parent
MINIMAL = """
name: x
devices: {a: {profile: laptop, count: 2, link: ethernet}}
data: {dataset: mnist-mini}
model: mlp
training: {rounds: 1}
"""


def error_of(text: str) -> str:
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(text)
    return str(caught.value)


def test_a_minimal_file_gets_the_documented_defaults() -> None:
    topology = parse_topology(MINIMAL).topology
    assert topology.policy.deadline == 60.0
    assert topology.policy.cohort is None
    assert topology.compression.uplink.sparsify is None
    assert topology.compression.downlink.quantize == "fp16"
    assert topology.device_names == ["a-1", "a-2"]


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        ('">= 0.95"', Condition(">=", 0.95)),
        ("0.9", Condition("==", 0.9)),
        ('"<1"', Condition("<", 1.0)),
        ("'== 0.5'", Condition("==", 0.5)),
    ],
)
def test_conditions(value: str, condition: Condition) -> None:
    assert parse_topology(f"{MINIMAL}expect: {{accuracy: {value}}}").topology.expect == {
        "accuracy": condition
    }


@pytest.mark.parametrize("value", ["'=> 1'", "'> -1'", "true", "''", "'>= 95 %'", "[1]", "~", "'>= 1e9999'"])
def test_bad_conditions(value: str) -> None:
    assert "expect.accuracy" in error_of(f"{MINIMAL}expect: {{accuracy: {value}}}")


def test_sparsify_none_and_a_null_section() -> None:
    assert (
        parse_topology(
            f"{MINIMAL}compression: {{uplink: {{sparsify: none}}}}"
        ).topology.compression.uplink.sparsify
        is None
    )
    assert "compression" in error_of(f"{MINIMAL}compression:\n")


def test_one_fault_per_entry() -> None:
    text = f"{MINIMAL}faults: [{{at: 1 s, kill: {{device: a-1}}, other: {{device: a-2}}}}]"
    assert "faults[0].other: unknown key" in error_of(text)


def test_a_broken_link_does_not_hide_other_errors() -> None:
    text = (
        MINIMAL.replace("link: ethernet", "link: 6g")
        + "policy: {cohort: 9}\nfaults: [{at: 1 s, kill: {device: b-1}}]"
    )
    found = error_of(text)
    assert "devices.a.link" in found
    assert "policy.cohort" in found
    assert "faults[0].kill.device" in found


def test_a_broken_group_count_causes_no_consequential_errors() -> None:
    found = error_of(
        MINIMAL.replace("count: 2", "cuont: 2")
        + "policy: {cohort: 2}\nfaults: [{at: 1 s, kill: {device: a-2}}]"
    )
    assert found.startswith("topology: 1 error")


# --- tables -------------------------------------------------------------------------------------------------


def test_data_sets_and_models_are_known_to_learning() -> None:
    assert set(TRAIN_SAMPLES) == set(DATASETS)
    assert set(PARAMETERS) == set(MODELS)
    assert set(names.PARTITIONS) == set(PARTITIONS) - {"dirichlet-free"}  # that one is `sizes: free`
    assert len(DATASETS["mnist-mini"](None).train_y) == TRAIN_SAMPLES["mnist-mini"]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameter_counts(name: str) -> None:
    import onnx

    counted = sum(
        onnx.numpy_helper.to_array(t).size for t in build_model(name).graph.initializer if t.data_type == 1
    )
    assert counted == PARAMETERS[name]


def test_metrics_are_those_of_the_verdict() -> None:
    from history.verdict import METRICS as JUDGED

    assert set(METRICS) == set(JUDGED)


def test_profiles_are_plausible() -> None:
    assert all(0.15 <= d.cpus <= 1 and d.memory_bytes >= 128 << 20 for d in DEVICES.values())
    for name, link in LINKS.items():
        for shape in (link.up, link.down):
            assert shape.jitter_s <= shape.delay_s, name
            assert 0 <= shape.loss < 0.05
        assert link.source
    assert LINKS["unshaped"].up == Shape()


def test_delay_is_one_way_whatever_the_source_calls_delay() -> None:
    """ATC's 650 ms each way and WebPageTest's round trip of 1300 ms are the same 2G."""
    assert LINKS["2g"].up.delay_s == LINKS["2g"].down.delay_s == 0.65
    assert LINKS["4g"].up.delay_s + LINKS["4g"].down.delay_s == pytest.approx(0.170)
    assert LINKS["lte"].up.delay_s + LINKS["lte"].down.delay_s == pytest.approx(0.070)
    assert LINKS["3g"].up.delay_s + LINKS["3g"].down.delay_s == pytest.approx(0.300)
    assert LINKS["home-wifi"].up.delay_s + LINKS["home-wifi"].down.delay_s == pytest.approx(0.002)


# --- JSON Schema --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(generated_files()))
def test_generated_files_are_fresh(path: str) -> None:
    assert (REPOSITORY / path).read_bytes() == generated_files()[path], "run `edgerig generated`"


def test_the_schema_is_for_editors_of_draft_7() -> None:
    schema = json_schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    text = json.dumps(schema)
    for keyword in ("prefixItems", "unevaluatedProperties", "$dynamicRef", "dependentRequired"):
        assert keyword not in text
    for reference in re.findall(r'"\$ref": "#/\$defs/(\w+)"', text):
        assert reference in schema["$defs"]


def test_every_object_of_the_schema_refuses_unknown_keys() -> None:
    for name, definition in json_schema()["$defs"].items():
        assert definition.get("additionalProperties") is False, name


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_examples_fit_the_schema(name: str) -> None:
    """The generated schema accepts the examples: a check of the parts that are written by hand in it."""
    from topology.loader import load_file

    file = REPOSITORY / "topology" / "examples" / f"{name}.yaml"
    assert file.read_text().startswith("# yaml-language-server: $schema=../schema.json\n")
    schema = json_schema()
    assert list(problems(load_file(file).data, schema, schema["$defs"])) == []
    broken = {**load_file(file).data, "seed": "seven", "surplus": 1, "policy": {"deadline": "60"}}
    assert len(list(problems(broken, schema, schema["$defs"]))) == 3


def problems(value: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> list[str]:
    """A validator of the keywords that the schema uses; there is none among the dependencies."""
    if "$ref" in schema:
        return problems(value, definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
    if "anyOf" in schema:
        tried = [problems(value, choice, definitions, path) for choice in schema["anyOf"]]
        return [] if [] in tried else [f"{path}: none of the choices"]
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
    }
    if "type" in schema and not isinstance(value, types[schema["type"]]):
        return [f"{path}: not {schema['type']}"]
    found = [f"{path}: not in enum"] if "enum" in schema and value not in schema["enum"] else []
    found += [f"{path}: not const"] if "const" in schema and value != schema["const"] else []
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{path}: pattern")
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += problems(item, schema.get("items", {}), definitions, f"{path}[{index}]")
    if isinstance(value, dict):
        found += _problems_of_object(value, schema, definitions, path)
    return found


def _problems_of_object(
    value: dict[str, Any], schema: dict[str, Any], definitions: dict[str, Any], path: str
) -> list[str]:
    known, found = schema.get("properties", {}), []
    for key, item in value.items():
        fits = [s for pattern, s in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        if key in known:
            found += problems(item, known[key], definitions, f"{path}.{key}")
        elif fits:
            found += problems(item, fits[0], definitions, f"{path}.{key}")
        elif isinstance(schema.get("additionalProperties"), dict):
            found += problems(item, schema["additionalProperties"], definitions, f"{path}.{key}")
        else:
            found.append(f"{path}.{key}: unknown")
    return found + [f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value]


def errors_in(text: str) -> list[tuple[str, str]]:
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(text)
    return [(error.path, error.message) for error in caught.value.errors]


WHOLE = """
name: x
devices: {a: {profile: laptop, cpus: 0.1, link: LINK}}
data: {dataset: mnist-mini}
model: mlp
training: {rounds: 2}
"""


@pytest.mark.parametrize("link", ["", "{up: }", "{up: 1 Mbit/s, delay: }", "{up: {rate: ~}}"])
def test_a_key_without_a_value_is_no_default(link: str) -> None:
    parse_topology(WHOLE.replace("LINK", "{up: 1 Mbit/s}"))
    ((path, message),) = errors_in(WHOLE.replace("LINK", link))
    assert path.startswith("devices.a.link")
    assert message == "has no value"


def test_an_empty_key_that_is_an_error_anyway_is_named_once() -> None:
    found = errors_in(WHOLE.replace("LINK", "4g").replace("{rounds: 2}", ""))
    assert [path for path, _ in found] == ["training"]


def test_faults_that_are_none_contradict_nobody() -> None:
    faults = "faults: [1, 2, {at: 2 s, kill: {device: a-1}}]\n"
    found = errors_in(WHOLE.replace("LINK", "4g") + faults)
    assert found == [("faults[0]", "a mapping is wanted"), ("faults[1]", "a mapping is wanted")]


@pytest.mark.parametrize(
    ("condition", "good"), [("2", 1), ("99", 0), ("'>= 3'", 0), ("'> 2'", 0), ("'> 1'", 1), ("'<= 9'", 1)]
)
def test_no_more_rounds_are_expected_than_there_are(condition: str, good: int) -> None:
    text = WHOLE.replace("LINK", "4g") + f"expect: {{rounds: {condition}}}\n"
    if good:
        parse_topology(text)
    else:
        assert errors_in(text) == [("expect.rounds", "the run has 2 rounds")]


def test_a_length_is_said_in_plain_words() -> None:
    found = dict(errors_in(WHOLE.replace("{a: {profile: laptop, cpus: 0.1, link: LINK}}", "{}")))
    assert found["devices"] == "at least 1 wanted, 0 found"
    found = dict(errors_in(WHOLE.replace("LINK", "4g").replace("name: x", f"name: {'x' * 99}")))
    assert found["name"] == "at most 40 characters wanted"


def test_thousands_of_errors_are_cut_for_people_and_not_for_programs() -> None:
    text = WHOLE.replace("LINK", "4g") + "".join(f"key-{number}: 1\n" for number in range(5_000))
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(text)
    assert len(caught.value.errors) == 5_000
    assert len(caught.value.lines()) == 102
    assert caught.value.lines()[-1] == "  and 4900 more"
