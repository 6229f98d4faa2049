"""Adam without the bookkeeping, beside torch's own."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from clrl.agents import adam, sac_capture

SHAPES = ((5, 8), (3,), (2, 2))
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1, "amsgrad": True},
    {"maximize": True, "betas": (0.8, 0.9), "eps": 1e-5},
]


class Twins:
    """The same weights under two optimizers."""

    def __init__(self, **options: Any) -> None:
        self._random = torch.Generator().manual_seed(0)
        start = [torch.randn(*shape, generator=self._random) for shape in SHAPES]
        self.weights = [[nn.Parameter(value.clone()) for value in start] for _ in range(2)]
        self.ours, self.theirs = (
            torch.optim.Adam(weights, lr=1e-2, fused=True, **options) for weights in self.weights
        )

    def draw(self, last: bool) -> None:
        """The same gradients for both, none for the last weight unless asked."""
        for pair in zip(*self.weights, strict=True):
            gradient = torch.randn(pair[0].shape, generator=self._random)
            for weight in pair:
                weight.grad = gradient.clone() if last or weight.numel() != 4 else None

    def agree(self) -> bool:
        """Whether weights and all that the optimizers know are equal to the bit."""
        mine, other = self.ours.state, self.theirs.state
        return len(mine) == len(other) and all(
            torch.equal(a, b)
            and mine[a].keys() == other[b].keys()
            and all(torch.equal(mine[a][name], other[b][name]) for name in mine[a])
            for a, b in zip(*self.weights, strict=True)
        )


@pytest.mark.parametrize("many", [10**9, 4, 1])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_is_torchs_to_the_bit(
    options: dict[str, Any], many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or in shares, of which the second may be empty."""
    monkeypatch.setattr(adam, "_MANY", many)
    twins = Twins(**options)
    for i in range(6):
        twins.draw(last=i % 3 == 2)
        twins.theirs.step()
        adam.step(twins.ours)
        assert len(twins.ours.state) == (2 if i < 2 else 3)
    assert twins.agree()
    twins.ours.load_state_dict(deepcopy(twins.theirs.state_dict()))
    for optimizer, move in ((twins.ours, adam.step), (twins.theirs, torch.optim.Adam.step)):
        optimizer.param_groups[0]["lr"] = 3e-3
        move(optimizer)
    assert twins.agree()


def test_without_gradients_nothing_moves() -> None:
    twins = Twins()
    adam.step(twins.ours)
    assert twins.agree()


@pytest.mark.parametrize("options", OPTIONS)
def test_in_pieces_it_is_adam(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sac_capture, "_PIECE", 7)
    twins = Twins(**options)
    for i in range(6):
        twins.draw(last=i % 2 == 0)
        twins.theirs.step()
        adam.move(twins.ours, rate=torch.tensor(1e-2), cut=sac_capture.pieces)
    for mine, other in zip(*twins.weights, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
        assert twins.ours.state[mine]["step"] == twins.theirs.state[other]["step"]


def test_hooks_are_called_around_it() -> None:
    twins, seen = Twins(), []
    weight = twins.weights[0][0]
    before = weight.detach().clone()

    def silence(optimizer: Any, *_: Any) -> None:
        seen.append(("before", torch.equal(weight, before)))
        weight.grad.zero_()  # type: ignore[union-attr]

    twins.ours.register_step_pre_hook(silence)
    twins.ours.register_step_post_hook(
        lambda *_: seen.append(("after", torch.equal(weight, before)))
    )
    twins.draw(last=True)
    adam.step(twins.ours)
    assert seen == [("before", True), ("after", True)]
    assert not torch.equal(*(weights[1] for weights in twins.weights))


def test_what_is_more_than_adam_steps_itself() -> None:
    class Own(torch.optim.Adam):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            self.steps += 1

    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    own = Own([weight], fused=True)
    adam.step(own)
    assert own.steps == 1
    assert torch.equal(weight, torch.ones(3))
    decoupled = torch.optim.Adam(
        [weight], fused=True, weight_decay=0.5, decoupled_weight_decay=True
    )
    twin = nn.Parameter(weight.detach().clone())
    twin.grad = torch.ones(3)
    adam.step(decoupled)
    torch.optim.AdamW([twin], lr=1e-3, fused=True, weight_decay=0.5).step()
    assert torch.equal(weight, twin)
