"""Ditto (Li et al. 2021, arXiv:2012.04221, algorithm 1): a personal model beside, pulled towards the version received.

Its objective is the device's own loss plus λ/2·‖v − w‖²; λ = 0 is learning alone, a large λ the shared model. The
device keeps v on its disk; it begins as the first version that it receives.
"""

from __future__ import annotations

from dataclasses import replace

from learning.personal.base import LocalTask, Made


class Ditto:
    heads = False
    head_is_fixed = False

    def steps(self, task: LocalTask) -> int:
        return task.personal_steps()

    def make(self, task: LocalTask) -> Made:
        kept = task.own.personal
        model = kept.copy() if kept is not None and kept.size == task.trainer.artifact.size else task.whole()
        task.fit(model, proximal=task.options.proximal)
        return Made(model, replace(task.own, personal=model))
