"""Turns pip's installation report into requirements.lock: a constraints file, names and versions only."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HEADER = """\
# Versions that work together: a constraints file for pip (pip install -c requirements.lock ...), for .venv and images.
# Written by scripts/lock; to refresh it run that script, then `scripts/setup` and `make check test`.
"""


def locked(report: dict[str, Any]) -> list[str]:
    """`name==version` of every package but our own, sorted by normalised name (PEP 503)."""
    found = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        # A local version ("+cpu") names one index's build; the lock works with every index.
        found[name] = item["metadata"]["version"].partition("+")[0]
    found.pop("edgerig", None)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def main() -> None:
    """Usage: write_lock.py REPORT LOCK"""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lines = locked(report)
    Path(sys.argv[2]).write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"lock: {len(lines)} packages")


if __name__ == "__main__":
    main()
