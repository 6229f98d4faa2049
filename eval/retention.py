"""The result of a run: what it retained of every skill, as `retention.json` holds it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from clrl.envs.untrusted import read_bytes
from clrl.eval import atomic, schema
from clrl.eval import metrics as formulas
from clrl.eval.intervals import wilson

_PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Success on every skill before training and after each skill, and what follows from it.

    The matrices have N + 1 rows and N columns for N skills: row 0 before training, row i after
    skill i; column j is skill j. They are kept as tuples, so that two results compare with `==`.
    Every value is checked on construction; ValueError names the key that is wrong.

    Attributes:
        curriculum: Name of the curriculum.
        skills: Names of the skills, in the order in which they were learned.
        agent: Name of the algorithm.
        protections: Names of the protections, in order; empty for none.
        seed: Seed of the training.
        protocol: How success was measured: episodes in each cell, horizon (control steps), success
            (the rule), deterministic, seed, device.
        success: Success rates in [0, 1].
        success_low: Lower bounds of their 95 % intervals.
        success_high: Upper bounds of their 95 % intervals.
        returns: Mean undiscounted returns, `return` in the file.
        metrics: Value of each formula in `metrics.FORMULAS`, None where it is undefined.
        cost: Seconds, steps, updates, parameters and bytes that the run took.
        versions: Version of each package that made it, and of Python.
    """

    curriculum: str
    skills: tuple[str, ...]
    agent: str
    protections: tuple[str, ...]
    seed: int
    protocol: Mapping[str, Any]
    success: Rows
    success_low: Rows
    success_high: Rows
    returns: Rows
    metrics: Mapping[str, float | None]
    cost: Mapping[str, float]
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        checked = schema.checked({_key(f.name): getattr(self, f.name) for f in fields(self)})
        for field in fields(self):
            object.__setattr__(self, field.name, checked[_key(field.name)])

    @classmethod
    def measured(
        cls,
        *,
        curriculum: str,
        skills: Sequence[str],
        agent: str,
        protections: Sequence[str],
        seed: int,
        protocol: Mapping[str, Any],
        successes: ArrayLike,
        returns: ArrayLike,
        cost: Mapping[str, float],
        versions: Mapping[str, str],
        forward_transfer: float | None = None,
    ) -> Self:
        """The result that follows from counted episodes: rates, intervals and metrics.

        Args:
            curriculum: As the attribute, likewise all others that are not described here.
            skills: As the attribute.
            agent: As the attribute.
            protections: As the attribute.
            seed: As the attribute.
            protocol: As the attribute; its `episodes` were run in every cell.
            successes: Episodes that succeeded, shape (N + 1, N).
            returns: Mean undiscounted returns, shape (N + 1, N).
            cost: As the attribute.
            versions: As the attribute.
            forward_transfer: Result of `metrics.forward_transfer`; None without a baseline.

        Raises:
            ValueError: A value breaks the schema.
        """
        low, high = wilson(successes, episodes := protocol.get("episodes", 0))
        success = np.asarray(successes, np.float64) / episodes
        return cls(
            curriculum=curriculum,
            skills=tuple(skills),
            agent=agent,
            protections=tuple(protections),
            seed=seed,
            protocol=protocol,
            success=success.tolist(),
            success_low=low.tolist(),
            success_high=high.tolist(),
            returns=np.asarray(returns, np.float64).tolist(),
            metrics=formulas.metrics(success, forward_transfer),
            cost=cost,
            versions=versions,
        )

    @property
    def matrix(self) -> formulas.Matrix:
        """Success rates in [0, 1], shape (N + 1, N)."""
        return np.array(self.success)

    def __str__(self) -> str:
        from clrl.eval.report import table  # report imports this module

        return table(self)

    def to_json(self) -> str:
        """The text of `retention.json`: one key a line, one matrix row a line."""
        document = {"schema": schema.VERSION}
        document |= {_key(f.name): getattr(self, f.name) for f in fields(self)}
        lines = [f"  {json.dumps(key)}: {_laid_out(key, value)}" for key, value in document.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "retention.json") -> Self:
        """Read what `to_json` wrote.

        Args:
            text: The JSON document.
            source: Where it comes from, for messages.

        Raises:
            ValueError: The text is not such a document, or was altered; one line naming the source
                and the key.
        """
        try:
            document = schema.parsed(text)
            return cls(**{f.name: document[_key(f.name)] for f in fields(cls)})
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file so that readers see either the old one or the whole new one.

        Raises:
            OSError: It cannot be written; an older file stays as it was.
            ValueError: Its name is that of a picture, which `clrl.eval.plot` draws.
        """
        if (suffix := os.path.splitext(path)[1].lower()) in _PICTURES:
            name = os.fspath(path)
            raise ValueError(f"{name}: a result is saved as JSON; clrl.eval.plot draws a {suffix}")
        atomic.replace(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not a valid result; one line naming the file and the key.
        """
        try:
            text = read_bytes(path, follow=True)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None
        return cls.from_json(text, os.fspath(path))


def _key(field: str) -> str:
    return "return" if field == "returns" else field  # a keyword cannot name an attribute


def _laid_out(key: str, value: Any) -> str:
    if key not in schema.MATRICES:
        return json.dumps(value, allow_nan=False)
    return "[\n    " + ",\n    ".join(json.dumps(row) for row in value) + "\n  ]"
