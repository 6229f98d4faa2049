"""What the documents say of the code is what the code says."""

import inspect
import re
from pathlib import Path

import pytest
from methods_figures import table

from clrl.agents.catalog import PROTECTIONS, make_protection
from clrl.sweep import Sweep

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROWS = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|$", (DOCS / "methods.md").read_text(), re.M))


def test_the_table_of_methods_has_every_protection() -> None:
    assert ROWS.keys() == PROTECTIONS.keys()


@pytest.mark.parametrize("name", PROTECTIONS)
def test_the_table_of_methods_has_each_options_default(name: str) -> None:
    told = dict(pair.rsplit(" ", 1) for pair in ROWS[name].split(", "))
    kind = type(make_protection(name))
    defaults: dict[str, object] = {}
    for base in kind.__mro__[:-1]:  # nearest first
        for parameter in inspect.signature(base).parameters.values():
            if parameter.default is not parameter.empty:
                defaults.setdefault(parameter.name, parameter.default)
    for option, value in told.items():
        assert float(value.replace(",", "")) == defaults[option], option
        make_protection(name, **{option: defaults[option]})


@pytest.mark.parametrize(
    ("spec", "curricula"), [("methods", {"arm3", "arm6"}), ("methods_sac", {"fast3"})]
)
def test_the_tables_of_runs_are_of_the_published_ones(
    spec: str, curricula: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    comparison = Sweep.read(f"benchmarks/{spec}.toml").comparison()
    assert comparison is not None
    assert comparison.curricula.keys() == curricula
    told = (DOCS / "methods.md").read_text().splitlines()
    for curriculum in comparison.curricula:
        for line in table(comparison, curriculum).splitlines():
            assert line in told
