"""Nothing of the run is left on the host: what hostd had changed, and what the runner had started."""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.record import Record


@check("Is the host as it was before?")
def nothing_leaked(record: Record) -> Answer:
    problems = [f"still there: {text}" for text in record.left_behind]
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    wanted = {"hostd", "runner"} if record.plan.runtime == "docker" else {"runner"}
    silent = sorted(wanted - record.cleaned_by)
    if silent:
        return Answer("unknown", f"no word of {' and '.join(silent)} on what was left", tuple(silent))
    return Answer("pass", "every rule, container, network and process was taken away")
