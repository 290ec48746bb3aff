"""FedPer (Arivazhagan et al. 2019, arXiv:1912.00818): the head stays on the device, all of it is trained together.

The personal model is the body received under the device's own head, as it was left by the last task that counted.
"""

from __future__ import annotations

from learning.personal.base import LocalTask, Made


class FedPer:
    heads = True
    head_is_fixed = False

    def steps(self, task: LocalTask) -> int:
        return 0

    def make(self, task: LocalTask) -> Made:
        return Made(task.whole(), task.own)
