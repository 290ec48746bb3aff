"""Errors of a run's life that are neither the topology's nor a bug: the machine, Docker, a container, a port."""

from __future__ import annotations

from collections.abc import Sequence

SWEEP = "`edgerig sweep` removes what is left of dead runs"


class EnvironmentProblem(Exception):
    """Something outside EdgeRig is missing or failed. Exit code 3.

    `what` failed, what was `awaited`, the last lines of the right `log`, and what to do next (`hint`).
    """

    def __init__(self, what: str, *, awaited: str = "", log: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(what)
        self.what, self.awaited, self.log, self.hint = what, awaited, tuple(log), hint

    def lines(self) -> list[str]:
        lines = [self.what]
        if self.awaited:
            lines.append(f"  awaited: {self.awaited}")
        lines += [f"  | {line}" for line in self.log]
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return lines


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM reached the runner. Exit code 4.

    No Exception: a library that turns every error of its own into another must not do so with this one.
    `left` is what the teardown did not get rid of, None where it could not be asked.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name
        self.left: Sequence[str] | None = ()

    def lines(self) -> list[str]:
        if self.left is None:
            return ["interrupted; nobody could say what is left", f"  next: {SWEEP}"]
        if self.left:
            return [f"interrupted; left behind: {', '.join(self.left)}", f"  next: {SWEEP}"]
        return ["interrupted; everything this run had started is gone"]
