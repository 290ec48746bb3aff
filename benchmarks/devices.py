"""Effective CPU share against the quota asked for: python -m benchmarks.devices [--json]

Each quota from 0.05 to 1.0 of a core alone, then ten devices burning at once, each in a container of its own,
measured as hostd does (`emulation.cpu`). Other work on the machine is shown as `others_cores`: the host has
to be quiet.
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.emulation_rig import fleet
from emulation.cgroup import Cgroup
from emulation.cpu import CpuShare, measure_shares

ALONE = (0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
TOGETHER = (
    0.05,
    0.05,
    0.1,
    0.1,
    0.15,
    0.15,
    0.2,
    0.2,
    0.25,
    0.25,
)  # 1.5 cores in all, as a run on two cores may ask
SECONDS = 4.0


def figures(shares: dict[str, CpuShare]) -> list[dict[str, float]]:
    return [
        {
            "requested": share.requested,
            "effective": round(share.effective, 5),
            "error": round(share.error, 5),
            "others_cores": round(share.others_cores, 3),
        }
        for share in shares.values()
    ]


def measure() -> dict[str, object]:
    alone: list[dict[str, float]] = []
    with fleet(len(ALONE), ALONE) as made:
        for member, cores in zip(made.devices, ALONE, strict=True):
            groups = {member.name: (Cgroup.of_pid(member.pid), cores)}
            alone += figures(measure_shares(groups, seconds=SECONDS))
    with fleet(len(TOGETHER), TOGETHER) as made:
        everybody = {m.name: (Cgroup.of_pid(m.pid), c) for m, c in zip(made.devices, TOGETHER, strict=True)}
        together = figures(measure_shares(everybody, seconds=SECONDS))
    worst = max(abs(one["error"]) for one in alone + together)
    others = max(one["others_cores"] for one in alone + together)
    return {"cpu_error_max": worst, "others_cores_max": others, "alone": alone, "together": together}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    found = measure()
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    print(
        f"largest error {found['cpu_error_max']:.2%}; others used up to {found['others_cores_max']} cores meanwhile"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
