"""Options of agents and protections that do not fit: told by name and kind, before training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from clrl.agents import make_agent, make_protection
from clrl.agents.options import check_options, options_of

SPACES = (spaces.Box(-9, 9, (4,), np.float32), spaces.Box(-1, 1, (2,), np.float32))


class Base:
    def __init__(self, size: int = 1, rate: float | Callable[[], float] = 0.1) -> None:
        pass


class Kind(Base):
    def __init__(
        self, shape: list[int] | None = None, on: bool = False, who: str = "", **kwargs: Any
    ) -> None:
        pass


class Open:
    def __init__(self, **kwargs: Any) -> None:
        pass


class Undeclared:
    def __init__(self, later: "Callable[[], float] | int" = 1) -> None:
        pass


def test_options_are_those_of_the_class_and_what_it_hands_on() -> None:
    assert list(options_of(Kind)) == ["shape", "on", "who", "size", "rate"]
    assert options_of(Open) == {}
    assert options_of(Undeclared) == {"later": Any}  # quoted, for type checkers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise": 2}, "x has no option 'sise'; did you mean 'size'?"),
        ({"colour": 2}, "x has no option 'colour'; it takes shape, on, who, size, rate"),
        ({"size": "2"}, "x: size must be a whole number, got '2'"),
        ({"size": 2.5}, "x: size must be a whole number, got 2.5"),
        ({"size": None}, "x: size must be a whole number, got None"),
        ({"size": True}, "x: size must be a whole number, got True"),
        ({"rate": "fast"}, "x: rate must be a number, got 'fast'"),
        ({"on": 1}, "x: on must be true or false, got 1"),
        ({"who": 1}, "x: who must be text, got 1"),
        ({"shape": "wide"}, "x: shape must not be text, got 'wide'"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="x") as refused:
        check_options("x", Kind, options)
    assert str(refused.value) == message


def test_what_may_fit_passes() -> None:
    check_options("x", Kind, {"size": 2, "rate": 1, "on": True, "shape": [1], "who": "me"})
    check_options("x", Kind, {"rate": lambda: 0.1, "shape": None})
    check_options("x", Open, {"anything": "goes"})
    check_options("x", Undeclared, {"later": "whatever"})


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        ("ppo", {"gamma": "0.9"}, "agent 'ppo': gamma must be a number, got '0.9'"),
        ("ppo", {"n_steps": 2.5}, "n_steps must be a whole number"),
        ("sac", {"batch_size": "x"}, "batch_size must be a whole number"),
        ("sac", {"ent_coef": []}, None),  # text or a number: left to SAC, and still one line
        ("sac", {"policy_kwargs": {"net_arch": "x"}}, "policy_kwargs: net_arch must not be text"),
        ("ppo", {"policy_kwargs": {"net_ach": [4]}}, "did you mean 'net_arch'?"),
    ],
)
def test_agents_say_what_does_not_fit(
    agent: str, options: dict[str, Any], message: str | None
) -> None:
    with pytest.raises(ValueError, match="agent") as refused:
        make_agent(agent, *SPACES, **options)
    assert message is None or message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_protections_say_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^protection 'ewc': strength must be a number, got 'x'$"):
        make_protection("ewc", strength="x")
