"""The package of docs/plugins, found by its entry points as an installed one is: a whole run with one of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from learning.plugins import load_plugins
from wire.plugins import PluginError, load_into

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "docs" / "plugins"
TOPOLOGY = """
name: plugged
seed: 2
devices: {pi: {profile: raspberry-pi-4, count: 4, link: home-wifi, cpus: 0.5}}
data:
  dataset: blobs
  options: {samples: 600, spread: 0.5}
  samples_per_device: 100
  partition: {kind: one-class, options: {other: 0.3}}
model: logistic
training: {rounds: 4, batch_size: 10, optimizer: {lr: 0.1}}
policy: {kind: synchronous, cohort: 3, deadline: 30 s, quorum: 0.6, selection: slowest-first}
merge: {kind: plain-mean}
compression: {uplink: {quantize: signs}}
expect: {rounds: 4, updates_lost: 0, accuracy: ">= 0.6"}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install docs/plugins` would leave it: the module, and the metadata with its entry points."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copyfile(EXAMPLE / "edgerig_example.py", folder / "edgerig_example.py")
    info = folder / "edgerig_example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgerig-example\nVersion: 1.0\n")
    groups = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def edgerig(site: Path | None, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(site)} if site else {})}
    command = [sys.executable, "-m", "edgerig", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, env=environment, check=False
    )


def test_a_whole_run_with_one_of_each(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "plugged.yaml"
    file.write_text(TOPOLOGY)
    ended = edgerig(
        site, "run", file, "--runtime", "process", "--runs", tmp_path / "runs", "--run-id", "plugged"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((tmp_path / "runs" / "plugged" / "summary.json").read_text())
    assert (summary["model"], summary["dataset"]) == ("logistic", "blobs")
    assert [max(share["classes"]) >= 70 for share in summary["data"]["shares"]] == [True] * 4
    audit = edgerig(site, "audit", tmp_path / "runs" / "plugged")
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_without_the_package_its_names_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "plugged.yaml"
    file.write_text(TOPOLOGY)
    ended = edgerig(None, "validate", file)
    assert ended.returncode == 2
    for said in (
        "no such data set",
        "no such partition",
        "no such model",
        "no such selection",
        "no such quantizer",
    ):
        assert said in ended.stderr
    assert "merge.kind" in ended.stderr


def test_a_quantizer_of_a_plug_in_keeps_to_the_codecs_contract(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    import edgerig_example

    from wire.codecs import decode, make_chain, uplink_spec
    from wire.codecs.quantize import QUANTIZERS

    for table in ("_by_name", "_by_code"):  # in this test alone: the registry is the process's
        monkeypatch.setattr(QUANTIZERS, table, dict(getattr(QUANTIZERS, table)))
    QUANTIZERS.add(edgerig_example.Signs())
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    back = decode(make_chain(uplink_spec(None, "signs")).encode(values, seed=1), n=1000).values
    np.testing.assert_array_equal(np.sign(back), np.sign(values))
    assert np.unique(np.abs(back)).size == 1


def test_a_plug_in_that_does_not_load_is_named() -> None:
    broken = EntryPoint("mine", "nowhere_at_all:thing", "edgerig.partitions")
    with pytest.raises(PluginError, match=r"'mine' of nowhere_at_all:thing does not load"):
        load_plugins([broken])
    with pytest.raises(PluginError, match="has that name already"):
        load_plugins([EntryPoint("iid", "json:loads", "edgerig.partitions")])
    with pytest.raises(PluginError, match="neither function nor class"):
        load_into({}, "edgerig.models", [EntryPoint("pi", "math:pi", "edgerig.models")])
