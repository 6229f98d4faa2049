"""Arithmetic that is compiled where a graph is captured, and runs as it is elsewhere."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from clrl.agents import fused as module
from clrl.agents.fused import fused, fusing
from clrl.agents.sac_update import GradientSteps
from tests.agents.conftest import make_agent, trained_on


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module._Fusing, "told", False)
    monkeypatch.setattr(module._Fusing, "trouble", "")
    yield
    torch._dynamo.reset()


def test_a_function_is_compiled_within_and_runs_as_it_is_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []

    def compile_it(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        compiled.append(function)
        return lambda x: function(x) + 100

    monkeypatch.setattr(torch, "compile", compile_it)
    twice = fused(lambda x: 2 * x)
    assert twice(1) == 2
    with fusing():
        assert [twice(1), twice(2)] == [102, 104]
    assert twice(1) == 2
    assert len(compiled) == 1
    assert capsys.readouterr().err.count("compiling updates") == 1


def test_where_compiling_fails_functions_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def broken(*_: Any) -> None:
            raise RuntimeError("no C compiler\nand more")

        return broken

    monkeypatch.setattr(torch, "compile", fail)
    twice, thrice = fused(lambda x: 2 * x), fused(lambda x: 3 * x)
    with caplog.at_level(logging.WARNING), fusing():
        assert [twice(1), thrice(1), twice(2)] == [2, 3, 4]
    (said,) = caplog.messages
    assert said.endswith("updates are slower: RuntimeError: no C compiler")


def test_compiled_steps_are_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tracing of `torch.compile`; its code for a GPU only a GPU runs."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    weights = []
    for compiled in (False, True):
        agent = trained_on(make_agent("sac", layer_norm=True), "near")
        steps = GradientSteps(agent)
        torch.manual_seed(0)
        for rows in agent.draws(3, 16):
            if compiled:
                with fusing():
                    steps.step(rows, polyak=True)
            else:
                steps.step(rows, polyak=True)
        weights.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    assert not module._Fusing.trouble
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
