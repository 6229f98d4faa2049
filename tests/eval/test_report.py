import io
import re
import sys
from collections.abc import Callable

import pytest

from clrl.eval.metrics import FORMULAS
from clrl.eval.report import table
from clrl.eval.retention import Retention

Make = Callable[..., Retention]


class Terminal(io.StringIO):
    """A stdout that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_table_says_what_was_measured_and_how(result: Retention) -> None:
    text = table(result)
    assert "arm2: ppo + ewc + replay, seed 0" in text
    assert re.search(r"before training +0 % \(0-4\) +10 % \(6-17\)", text)
    assert re.search(r"after reach +80 % \(71-87\) +10 % \(6-17\)", text)
    assert re.search(r"after push +40 % \(31-50\) +90 % \(83-94\)", text)
    assert re.search(r"forward transfer +-  ", text)
    assert re.search(r"backward transfer +-0.400  mean over i < N", text)
    assert all(formula in text for formula in FORMULAS.values())
    assert (
        "100 episodes a cell, 95 % Wilson intervals, horizon 50 steps, success any-step, "
        "deterministic actions, seed 1000, cpu\n" in text
    )
    assert "12 min 11 s (training 10 min 40 s, evaluation 12.3 s, protections 1 h 6 min)" in text
    assert text.endswith("protections keep 1.2 MB")


def test_a_run_without_protections_is_named_by_its_agent(make: Make) -> None:
    assert table(make(protections=[])).startswith("arm2: ppo, seed 0\n")


def test_names_are_not_read_as_markup(make: Make) -> None:
    assert "after [bold]" in table(make(skills=["[bold]", "push"]))


def test_colour_is_for_terminals(result: Retention, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" not in table(result)
    assert "\x1b[" in table(result, colour=True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert "\x1b[" in table(result)
    assert "\x1b[" not in table(result, colour=False)


def test_intervals_go_below_the_rates_on_a_narrow_terminal(
    result: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    assert re.search(r"after push +40 % +90 %\n +\(31-50\) +\(83-94\)", table(result, colour=False))


def test_lines_can_be_printed_in_a_narrow_encoding(
    result: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert table(result).isascii()
