"""Options of agents and protections that do not fit: told by name and kind, before training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from gymnasium import spaces
from torch import nn

from clrl.agents import make_agent, make_protection
from clrl.agents.options import ACTIVATIONS, check_options, options_of
from clrl.preparation import prepare

SPACES = (spaces.Box(-9, 9, (4,), np.float32), spaces.Box(-1, 1, (2,), np.float32))


class Base:
    def __init__(self, size: int = 1, rate: float | Callable[[], float] = 0.1) -> None:
        pass


class Kind(Base):
    def __init__(
        self,
        shape: list[int] | None = None,
        on: bool = False,
        who: str = "",
        kind: type[Base] = Base,
        table: Mapping[str, int] | None = None,
        mode: Literal["a", "b"] = "a",
        where: Path | None = None,
        **kwargs: Any,
    ) -> None:
        pass


class Open:
    def __init__(self, **kwargs: Any) -> None:
        pass


class Undeclared:
    def __init__(self, later: "Callable[[], float] | int" = 1) -> None:
        pass


def test_options_are_those_of_the_class_and_what_it_hands_on() -> None:
    assert list(options_of(Kind)) == [
        "shape",
        "on",
        "who",
        "kind",
        "table",
        "mode",
        "where",
        "size",
        "rate",
    ]
    assert options_of(Open) == {}
    assert options_of(Undeclared) == {"later": Any}  # quoted, for type checkers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise": 2}, "x has no option 'sise'; did you mean 'size'?"),
        (
            {"colour": 2},
            "x has no option 'colour'; it takes shape, on, who, kind, table, mode, where, "
            "size, rate",
        ),
        ({"size": "2"}, "x: size must be a whole number, got '2'"),
        ({"size": 2.5}, "x: size must be a whole number, got 2.5"),
        ({"size": None}, "x: size must be a whole number, got None"),
        ({"size": True}, "x: size must be a whole number, got True"),
        ({"rate": "fast"}, "x: rate must be a number or a function, got 'fast'"),
        ({"rate": True}, "x: rate must be a number or a function, got True"),
        ({"shape": 4}, "x: shape must be a list, got 4"),
        ({"kind": "relu"}, "x: kind must be a class, got 'relu'"),
        ({"table": "wide"}, "x: table must be a table, got 'wide'"),
        ({"on": 1}, "x: on must be true or false, got 1"),
        ({"who": 1}, "x: who must be text, got 1"),
        ({"shape": "wide"}, "x: shape must be a list, got 'wide'"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="x") as refused:
        check_options("x", Kind, options)
    assert str(refused.value) == message


def test_what_may_fit_passes() -> None:
    check_options("x", Kind, {"size": 2, "rate": 1, "on": True, "shape": [1], "who": "me"})
    check_options("x", Kind, {"mode": "b", "where": "here", "kind": Kind, "table": {"a": 1}})
    check_options("x", Kind, {"size": np.int64(3), "rate": np.float64(0.5)})
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
        (
            "sac",
            {"policy_kwargs": {"net_arch": "x"}},
            "policy_kwargs: net_arch must be a list or a table",
        ),
        ("ppo", {"policy_kwargs": {"net_ach": [4]}}, "did you mean 'net_arch'?"),
        (
            "ppo",
            {"policy_kwargs": {"net_arch": [64.5]}},
            "net_arch must be a list of whole numbers",
        ),
        (
            "sac",
            {"policy_kwargs": {"net_arch": [0]}},
            "net_arch must be a list of whole numbers >= 1",
        ),
        (
            "ppo",
            {"policy_kwargs": {"net_arch": {"pii": [4]}}},
            "the networks 'pi' and 'vf', no others",
        ),
        (
            "sac",
            {"policy_kwargs": {"net_arch": {"vf": [4]}}},
            "the networks 'pi' and 'qf', no others",
        ),
        ("ppo", {"n_steps": 0}, "n_steps must be >= 1, got 0"),
        ("ppo", {"n_epochs": -3}, "n_epochs must be >= 1, got -3"),
        ("ppo", {"gamma": 2.0}, "gamma must be in [0, 1], got 2.0"),
        ("ppo", {"gamma": float("nan")}, "gamma must be in [0, 1], got nan"),
        ("ppo", {"clip_range": -0.2}, "clip_range must be >= 0, got -0.2"),
        ("sac", {"tau": 2.0}, "tau must be in [0, 1], got 2.0"),
        ("sac", {"buffer_size": 0}, "buffer_size must be >= 1, got 0"),
        ("sac", {"gradient_steps": -7}, "gradient_steps must be >= -1, got -7"),
        ("sac", {"train_freq": 0}, "train_freq must be >= 1, got 0"),
        ("sac", {"ent_coef": -1.0}, "ent_coef must be >= 0, got -1.0"),
        ("sac", {"ent_coef": "autoo"}, "ent_coef must be a number, 'auto' or such as 'auto_0.1'"),
        ("sac", {"ent_coef": "auto_x"}, "ent_coef must be a number, 'auto' or such as 'auto_0.1'"),
    ],
)
def test_agents_say_what_does_not_fit(
    agent: str, options: dict[str, Any], message: str | None
) -> None:
    with pytest.raises(ValueError, match=r"agent|ent_coef") as refused:
        make_agent(agent, *SPACES, **options)
    assert message is None or message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_protections_say_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^protection 'ewc': strength must be a number, got 'x'$"):
        make_protection("ewc", strength="x")


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_an_activation_goes_by_its_name(kind: str) -> None:
    for name in ACTIVATIONS:
        agent = make_agent(kind, *SPACES, policy_kwargs={"activation_fn": name, "net_arch": [8]})
        assert type(agent.policy.body[1]).__name__ == name
    with pytest.raises(ValueError, match="must be one of Tanh, ReLU, LeakyReLU, ELU, got 'relu'"):
        make_agent(kind, *SPACES, policy_kwargs={"activation_fn": "relu"})


def test_a_class_of_torch_is_kept_by_its_name_and_a_function_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"curriculum": "arm-reach", "out": tmp_path / "run"}
    made = prepare(**options, policy_kwargs={"activation_fn": nn.ReLU})
    assert made.config.options["policy_kwargs"]["activation_fn"] == "ReLU"
    with pytest.raises(ValueError, match="learning_rate must be of numbers"):
        prepare(**options, learning_rate=lambda left: left)
