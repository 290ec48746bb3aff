"""The small Python helpers of scripts/: pip's settings for builds, the lock, the bounded run."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

LIB = Path(__file__).resolve().parents[2] / "scripts/lib"
BOUND_S = 60


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", LIB / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pip_settings = load("pip_settings")
write_lock = load("write_lock")


def pip_conf(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_later_files_and_variables_win(tmp_path: Path) -> None:
    site = pip_conf(tmp_path, "site.conf", "[global]\nindex-url = https://one.example/simple\ntimeout = 5\n")
    user = pip_conf(
        tmp_path, "user.conf", "[global]\nindex-url = https://two.example/simple\n[install]\nretries = 9\n"
    )
    found = pip_settings.merged([site, user], {"PIP_TIMEOUT": "60"})
    assert found == {"index-url": "https://two.example/simple", "timeout": "60", "retries": "9"}


def test_what_points_into_this_machine_stays_here() -> None:
    settings = {
        "find-links": "/opt/wheels",
        "extra-index-url": "file:///srv/simple https://two.example/simple",
        "trusted-host": "two.example",
    }
    assert pip_settings.for_a_build(settings) == {
        "extra-index-url": "https://two.example/simple",
        "trusted-host": "two.example",
    }


def test_certificates_are_no_setting_of_a_build(tmp_path: Path) -> None:
    site = pip_conf(tmp_path, "site.conf", "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    assert pip_settings.merged([site], {}) == {}


def run_helper(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LIB / f"{name}.py"), *arguments]
    base = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=BOUND_S, env={**base, **environment}
    )


def test_written_file_is_private_and_read_back_by_pips_parser(tmp_path: Path) -> None:
    out = tmp_path / "pip.conf"
    out.write_text("old", encoding="utf-8")
    url = "https://user:pass%40word@one.example/simple"
    run_helper(
        "pip_settings", str(out), PIP_INDEX_URL=url, PIP_EXTRA_INDEX_URL="https://a.example https://b.example"
    )
    assert out.stat().st_mode & 0o777 == 0o600
    found = pip_settings.merged([out], {})
    assert found["index-url"] == url
    assert found["extra-index-url"].split() == ["https://a.example", "https://b.example"]


def test_no_settings_no_file(tmp_path: Path) -> None:
    out = tmp_path / "pip.conf"
    out.write_text("old", encoding="utf-8")
    done = run_helper("pip_settings", str(out), PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 0, done.stderr
    assert not out.exists()


def test_lock_is_sorted_normalised_and_without_ourselves() -> None:
    packages = [("PyYAML", "6.0.3"), ("edgerig", "0.1.0"), ("ml_dtypes", "0.6.0"), ("torch", "2.13.0+cpu")]
    report = {"install": [{"metadata": {"name": name, "version": version}} for name, version in packages]}
    assert write_lock.locked(report) == ["ml-dtypes==0.6.0", "pyyaml==6.0.3", "torch==2.13.0"]


def bounded(bound_s: str, code: str) -> subprocess.CompletedProcess[str]:
    return run_helper("bounded", bound_s, sys.executable, "-c", code)


@pytest.mark.parametrize("code", [0, 1, 5])
def test_bounded_passes_the_exit_code(code: int) -> None:
    assert bounded("30", f"raise SystemExit({code})").returncode == code


def test_bounded_interrupts_at_the_bound() -> None:
    hang = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('torn down')"
    done = bounded("2", hang)
    assert done.returncode == 124
    assert done.stdout == "torn down\n"
    assert "not finished after 2 s" in done.stderr


def test_bounded_passes_a_signal_on(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    hang = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, str(LIB / "bounded.py"), "60", sys.executable, "-c", hang])
    deadline = time.monotonic() + BOUND_S
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=BOUND_S) == 128 + signal.SIGTERM
