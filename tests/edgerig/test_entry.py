"""The first and the last moments of `edgerig`, with a command that only plays one: never a death by a signal."""

from __future__ import annotations

import subprocess
import sys

import pytest

# `edgerig.cli` as given, imported by the real entry; its interpreter says where a signal comes.
CHILD = """
import atexit, os, signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so in every child
def come(): os.kill(os.getpid(), signal.{name})
{before}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "edgerig.cli":
            {importing}
            from importlib.machinery import ModuleSpec
            return ModuleSpec(name, self)
    def create_module(self, spec): return None
    def exec_module(self, module): module.main = main
def main():
    {running}
sys.meta_path.insert(0, Finder())
from edgerig.entry import main as enter
enter()
"""
QUIET = {"before": "", "importing": "pass", "running": "sys.exit(1)"}


def ended(name: str, **where: str) -> tuple[int, str]:
    code = CHILD.format(name=name, **{**QUIET, **where})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("where", ["importing", "running"])
def test_a_signal_while_nothing_runs_is_exit_code_4(name: str, where: str) -> None:
    assert ended(name, **{where: "come()"}) == (4, "interrupted\n")


# The interpreter takes its handlers back before it clears its modules.
LATE = """
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{name}): kill(pid, number)
late = Late()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("before", ["atexit.register(come)", LATE])
def test_a_signal_while_the_interpreter_ends_leaves_the_exit_code(name: str, before: str) -> None:
    assert ended(name, before=before.format(name=name)) == (1, "")


def test_a_second_signal_does_not_replace_the_first_ones_exit_code() -> None:
    assert ended("SIGTERM", running="come()", before="atexit.register(come)") == (4, "interrupted\n")


def test_a_signal_while_the_verdict_is_printed_leaves_it() -> None:
    said = "from compose import signals; signals.settle(1); come(); print('all of it', file=sys.stderr); sys.exit(1)"
    assert ended("SIGTERM", running=said) == (1, "all of it\n")


def test_a_second_signal_then_ends_at_once_with_the_verdict() -> None:
    said = "from compose import signals; signals.settle(1); come(); come(); print('more', file=sys.stderr)"
    assert ended("SIGTERM", running=said) == (1, "")
