"""Shared layers with a head for each skill's rows: autograd's values and gradients."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clrl.agents.branches import Branches
from clrl.agents.heads import Heads

SHARE = 5
BODIES = {
    "deep": [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh()],
    "bare": [],
}


def build(body: str, single: bool = False) -> tuple[list[nn.Module], list[Heads]]:
    torch.manual_seed(0)
    width = 6 if BODIES[body] else 4
    heads = [Heads(nn.Linear(width, out)) for out in (3, 2)]
    for head in heads if not single else []:
        head.add()
        head.add()
    return BODIES[body], heads


def reference(
    body: Sequence[nn.Module], heads: Sequence[Heads], skills: Sequence[int], x: Tensor
) -> list[Tensor]:
    latent = nn.Sequential(*body)(x)
    parts = latent.split(SHARE)
    return [
        torch.cat(
            [
                head.layers[skill if len(head.layers) > 1 else 0](part)
                for skill, part in zip(skills, parts, strict=True)
            ]
        )
        for head in heads
    ]


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("skills", [[1], [2, 0], [0, 1, 2]])
def test_values_and_gradients_are_autograds(skills: list[int], body: str, single: bool) -> None:
    layers, heads = build(body, single)
    rows = SHARE * len(skills)
    x = torch.randn(rows, 4, requires_grad=True)
    expected = reference(layers, heads, skills, x)
    by_outputs = [torch.randn(rows, value.shape[1]) for value in expected]
    pairs = zip(by_outputs, expected, strict=True)
    loss = torch.stack([(g * v).sum() for g, v in pairs]).sum()
    parameters = [p for module in (*layers, *heads) for p in module.parameters()]
    options: Any = {"allow_unused": True}
    by_x, *gradients = torch.autograd.grad(loss, [x, *parameters], **options)
    for parameter in parameters:
        parameter.grad = None
    branches = Branches(layers, heads, skills)
    with torch.no_grad():
        values = branches.forward(x.detach())
        columns = branches.backward([g.clone() for g in by_outputs], inputs=slice(1, 3))
    for value, other in zip(values, expected, strict=True):
        torch.testing.assert_close(value, other.detach())
    torch.testing.assert_close(columns, by_x[:, 1:3])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("body", BODIES)
def test_nothing_is_given_where_nothing_is_asked(body: str) -> None:
    layers, heads = build(body)
    branches = Branches(layers, heads, [0, 2])
    with torch.no_grad():
        values = branches.forward(torch.randn(2 * SHARE, 4))
        assert branches.backward([torch.ones_like(v) for v in values]) is None


def test_what_cannot_be_right_is_refused() -> None:
    layers, heads = build("deep")
    with pytest.raises(ValueError, match="9 rows are not as many of each of 2"):
        Branches(layers, heads, [0, 1]).forward(torch.randn(9, 4))
