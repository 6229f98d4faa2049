"""Evaluation: what is retained of every skill, with intervals, metrics and a report.

Names resolve on first use, so importing this package costs no more than the standard library.
"""

if __name__ != "clrl.eval":
    raise ImportError("this folder is the source of clrl.eval; import that instead")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clrl.eval.evaluator import Evaluator, Score, evaluate, evaluate_skill
    from clrl.eval.figure import plot
    from clrl.eval.intervals import wilson
    from clrl.eval.metrics import (
        FORMULAS,
        average_performance,
        backward_transfer,
        forgetting,
        forward_transfer,
        retention_per_skill,
        worst_retention,
    )
    from clrl.eval.report import table
    from clrl.eval.retention import Retention

# The functions `metrics` and `retention` are missing here: their names are those of submodules.
_HOME = {
    "FORMULAS": "metrics",
    "Retention": "retention",
    "Score": "evaluator",
    "average_performance": "metrics",
    "backward_transfer": "metrics",
    "evaluate": "evaluator",
    "Evaluator": "evaluator",
    "evaluate_skill": "evaluator",
    "forgetting": "metrics",
    "forward_transfer": "metrics",
    "plot": "figure",
    "retention_per_skill": "metrics",
    "table": "report",
    "wilson": "intervals",
    "worst_retention": "metrics",
}

__all__ = [
    "FORMULAS",
    "Evaluator",
    "Retention",
    "Score",
    "average_performance",
    "backward_transfer",
    "evaluate",
    "evaluate_skill",
    "forgetting",
    "forward_transfer",
    "plot",
    "retention_per_skill",
    "table",
    "wilson",
    "worst_retention",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
