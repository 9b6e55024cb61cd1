"""Ray's asynchronous successive halving, told of the trials that ended before this start."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from agehpc_tune.follow import Score
from agehpc_tune.objectives import Objective
from agehpc_tune.spec import Asha


def scheduler(
    asha: Asha, objective: Objective, kimg: float, ended: Iterable[Sequence[Score]]
) -> ASHAScheduler:
    """Return the scheduler of a sweep.

    Args:
        asha: its settings.
        objective: what trials are compared by.
        kimg: of a whole trial.
        ended: what each trial of an earlier start reached at its evaluations.
    """
    made = ASHAScheduler(
        time_attr="kimg",
        metric=objective.name,
        mode=objective.mode,
        max_t=kimg,  # type: ignore[arg-type] - its arithmetic is that of floats
        grace_period=asha.grace_kimg,  # type: ignore[arg-type]
        reduction_factor=asha.reduction,
        stop_last_trials=False,
    )
    controller: Any = None  # not looked at
    for number, scores in enumerate(ended):
        ghost: Any = SimpleNamespace(trial_id=f"ended-{number}")
        made.on_trial_add(controller, ghost)
        for score in scores:
            made.on_trial_result(controller, ghost, {"kimg": score.kimg, **score.values})
    return made
