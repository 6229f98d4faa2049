"""Several methods side by side: what each kept and what it cost, with intervals over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from clrl.eval import bootstrap
from clrl.eval.figure import Curves
from clrl.eval.metrics import retention_per_skill, when_learned
from clrl.eval.retention import Retention

COLUMNS: dict[str, str] = {
    "average_performance": "mean success on all skills at the end",
    "iqm": "the same, without the lowest and the highest quarter of all seeds and skills",
    "forgetting": "mean success lost since each skill was learned, the last included",
    "backward_transfer": "mean change of the earlier skills since each was learned",
    "forward_transfer": "mean gain in learning over each skill trained alone, by area",
    "worst_retention": "least share of its success that a learned skill kept",
    "train_seconds": "training, without evaluation",
    "eval_seconds": "evaluation, with the looks at all skills during training",
    "update_seconds": "training per 1,000 gradient updates, the worlds' steps included",
    "update_overhead": "the same, less that of the unprotected agent",
    "parameters": "numbers in the policy and its critics",
    "protection_bytes": "what protections keep beside the policy",
}
"""What each figure of a method means."""


class Estimate(NamedTuple):
    """A figure over seeds, with its 95 % interval; no interval for a single seed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """Runs of one method on one curriculum, which differ by their seeds alone.

    Attributes:
        name: What it is called.
        curriculum: Name of the curriculum.
        results: One for each run, by rising seed; all of the same skills.
        paths: Directory of each run.
        curves: Learning curves of each run, see `figure.plot`.
        ends: Environment steps at the end of each skill, of each run.
        transfer: For each run, (AUC_i - AUC_i^b) / (1 - AUC_i^b) by skill; None without a baseline.
        setting: Agent and options, protections apart; overhead is told between methods of one.
        unprotected: Whether it has no protections.
    """

    name: str
    curriculum: str
    results: tuple[Retention, ...]
    paths: tuple[str, ...] = ()
    curves: tuple[Curves, ...] = ()
    ends: tuple[Sequence[int], ...] = ()
    transfer: tuple[Sequence[float], ...] | None = None
    setting: str = ""
    unprotected: bool = False

    @property
    def skills(self) -> tuple[str, ...]:
        """Names of the skills, in order."""
        return self.results[0].skills

    @property
    def in_turn(self) -> bool:
        """Whether it learns one skill after another; a row of joint training is no skill's end."""
        return "joint" not in self.results[0].protections

    @cached_property
    def final(self) -> bootstrap.Array:
        """Success on each skill at the end, shape (runs, skills)."""
        return np.array([result.matrix[-1] for result in self.results])

    @cached_property
    def lost(self) -> bootstrap.Array:
        """Success lost on each skill since it was learned, shape (runs, skills)."""
        return np.array([when_learned(r.matrix) - r.matrix[-1] for r in self.results])

    @cached_property
    def update_seconds(self) -> bootstrap.Array:
        """Seconds of training per 1,000 updates, shape (runs, 1)."""
        costs = [result.cost for result in self.results]
        return np.array([[1000 * c["train_seconds"] / max(c["updates"], 1)] for c in costs])

    def figures(self, unprotected: "Method | None" = None) -> dict[str, Estimate | None]:
        """Every figure of `COLUMNS`; None where undefined, as forgetting of joint training is.

        Args:
            unprotected: The same agent on the same curriculum without protections.
        """
        kept = [retention_per_skill(result.matrix) for result in self.results if self.in_turn]
        worst = [[np.nanmin(shares)] for shares in kept if not np.isnan(shares).all()]
        found: dict[str, Estimate | None] = {
            "average_performance": estimate(bootstrap.mean, self.final),
            "iqm": estimate(bootstrap.iqm, self.final),
            "forgetting": estimate(bootstrap.mean, self.lost) if self.in_turn else None,
            "backward_transfer": estimate(bootstrap.mean, -self.lost[:, :-1])
            if self.in_turn and len(self.skills) > 1
            else None,
            "forward_transfer": estimate(bootstrap.mean, np.array(self.transfer))
            if self.transfer
            else None,
            "worst_retention": estimate(bootstrap.mean, np.array(worst)) if worst else None,
            "update_seconds": estimate(bootstrap.mean, self.update_seconds),
            "update_overhead": estimate(_gap, self.update_seconds, unprotected.update_seconds)
            if unprotected and unprotected is not self
            else None,
        }
        for name in ("train_seconds", "eval_seconds", "parameters", "protection_bytes"):
            costs = np.array([[float(result.cost[name])] for result in self.results])
            found[name] = estimate(bootstrap.mean, costs)
        return {name: found[name] for name in COLUMNS}


Rows = Sequence[tuple[Method, Mapping[str, Estimate | None]]]
"""Methods with their figures."""


@dataclass(frozen=True)
class Comparison:
    """Methods on one curriculum or several, in the order given."""

    methods: tuple[Method, ...]

    @cached_property
    def curricula(self) -> dict[str, list[Method]]:
        """Methods of each curriculum, the best average performance first."""
        found: dict[str, list[Method]] = {}
        for method in self.methods:
            found.setdefault(method.curriculum, []).append(method)
        return {k: sorted(v, key=lambda m: -float(m.final.mean())) for k, v in found.items()}

    def rows(self, curriculum: str) -> Rows:
        """Each method of a curriculum with its figures, the best average performance first."""
        methods = self.curricula[curriculum]
        bare = {method.setting: method for method in methods if method.unprotected}
        return [(method, method.figures(bare.get(method.setting))) for method in methods]

    def improvement(self, curriculum: str) -> list[list[Estimate]]:
        """Probability that a run of the row's method beats one of the column's on a random skill.

        Rows and columns are in the order of `curricula`; scores are successes at the end.
        """
        methods = self.curricula[curriculum]
        better = bootstrap.probability_of_improvement
        return [[estimate(better, a.final, b.final) for b in methods] for a in methods]

    def to_json(self) -> list[dict[str, Any]]:
        """One object for each method and curriculum, and who is better than whom."""
        content = []
        for curriculum, methods in self.curricula.items():
            pairs = self.improvement(curriculum)
            for (method, figures), beats in zip(self.rows(curriculum), pairs, strict=True):
                others = zip(methods, beats, strict=True)
                row = {
                    "curriculum": curriculum,
                    "method": method.name,
                    "agent": method.results[0].agent,
                    "protections": list(method.results[0].protections),
                    "runs": list(method.paths),
                    "seeds": [result.seed for result in method.results],
                    "figures": {k: v and v._asdict() for k, v in figures.items()},
                    "better_than": {m.name: p._asdict() for m, p in others if m is not method},
                }
                content.append(row)
        return content

    def __str__(self) -> str:
        from clrl.eval.report import comparison_table

        return comparison_table(self)


def estimate(statistic: bootstrap.Statistic, *scores: bootstrap.Array) -> Estimate:
    """A statistic of tables (runs, tasks) with its interval."""
    bounds = bootstrap.interval(statistic, *scores) or (None, None)
    return Estimate(float(statistic(*scores)), *bounds)


def _gap(ours: bootstrap.Array, theirs: bootstrap.Array) -> bootstrap.Array:
    return bootstrap.mean(ours) - bootstrap.mean(theirs)
