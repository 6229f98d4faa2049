"""Task importance: what each earlier skill weighs in protections, by what it retains."""

import math

TOLERANCE = 0.02  # of success; what is lost beyond it calls for more
GAIN = 10.0  # a tenth of success lost beyond it makes a look's factor e
LEAST, MOST = 1.0, 16.0  # below 1 it would keep less than equal weights do, and it did


def moved(importance: float, lost: float) -> float:
    """The importance of an earlier skill after one more look at it.

    "Learn this skill, subject to each earlier one losing at most a tolerance" has a multiplier for
    each earlier skill, which rises while its constraint is broken and falls while it is met. This
    is one step of dual ascent on the multiplier's logarithm, as in constrained reinforcement
    learning (Tessler et al., 2019, arXiv:1805.11074; Stooke et al., 2020, arXiv:2007.03964).

    Args:
        importance: Until now, in [`LEAST`, `MOST`].
        lost: Success when the skill ended minus success now, in [-1, 1].
    """
    step = GAIN * (max(lost, 0.0) - TOLERANCE)
    return min(MOST, max(LEAST, importance * math.exp(step)))
