"""FedRep (Collins et al. 2021, arXiv:2102.07078, algorithm 1): first the head on the body received, then the body.

The personal model is the body received under the head that was just fitted to it.
"""

from __future__ import annotations

from dataclasses import replace

from learning.personal.base import LocalTask, Made
from learning.travelling import take_local


class FedRep:
    heads = True
    head_is_fixed = True

    def steps(self, task: LocalTask) -> int:
        return task.personal_steps()

    def make(self, task: LocalTask) -> Made:
        model = task.whole()
        task.fit(model, only_local=True)
        return Made(model, replace(task.own, local=take_local(task.trainer.artifact, model)))
