"""Seconds for the exact diagonal Fisher of a policy, on one thread.

The peer computes the same numbers by per-sample Jacobians, `torch.func.vmap` of `jacrev`, and is
run on fewer samples: its time grows in proportion, and its row is scaled up so. Both must agree on
the samples that both did.
"""

import argparse
import time
from typing import Any

import torch
from table import Row, arguments, report, row
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from clrl.agents.fisher import fisher_diagonal
from clrl.agents.linear import speed_up

_OBSERVATIONS, _ACTIONS = 39, 4  # Meta-World's


class Policy(nn.Module):
    """A Gaussian policy with a trunk of tanh layers, or with Continual World's layer norm."""

    def __init__(self, layers: list[int], layer_norm: bool) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(
            zip([_OBSERVATIONS, *layers[:-1]], layers, strict=True)
        ):
            modules.append(nn.Linear(inputs, outputs))
            if layer_norm and i == 0:
                modules.append(nn.LayerNorm(outputs))
            modules.append(nn.Tanh())
        self.trunk, self.head = nn.Sequential(*modules), nn.Linear(layers[-1], _ACTIONS)
        self.log_std = nn.Parameter(torch.full((_ACTIONS,), -0.5))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std of the action, each (batch, act)."""
        mean = self.head(self.trunk(observations))
        return mean, self.log_std.expand_as(mean)

    def layers(self) -> list[nn.Module]:
        """Layers of the trunk with weights."""
        return [m for m in self.trunk if not isinstance(m, nn.Tanh)]


def per_sample(policy: Policy, observations: Tensor, chunk: int) -> list[Tensor]:
    """The Fisher of the trunk by the Jacobian of every sample."""
    parameters = {name: p.detach() for name, p in policy.named_parameters()}

    def standardised(trunk: dict[str, Tensor], observation: Tensor) -> Tensor:
        mean, log_std = functional_call(policy, parameters | trunk, (observation[None],))
        scaled: Tensor = (mean * torch.exp(-log_std))[0]
        return scaled

    trunk = {name: p for name, p in parameters.items() if name.startswith("trunk")}
    jacobian = vmap(jacrev(standardised), in_dims=(None, 0))
    totals = {name: torch.zeros_like(p) for name, p in trunk.items()}
    for part in observations.split(chunk):
        for name, rows in jacobian(trunk, part).items():
            totals[name] += rows.square().sum(dim=(0, 1))
    return [total / len(observations) for total in totals.values()]


def measure(options: Any, layers: list[int], layer_norm: bool) -> Row:
    """Alternate both; the ratio is the peer's time over ours."""
    torch.manual_seed(0)
    policy = Policy(layers, layer_norm)
    observations = torch.randn(options.samples, _OBSERVATIONS)
    few = observations[: options.peer_samples]
    theirs, seconds = [], []
    expected = per_sample(policy, few, options.chunk)
    speed_up(policy)  # as the agents do
    for ours, other in zip(fisher_diagonal(policy, policy.layers(), few), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5 * float(other.mean()))
    for _ in range(options.rounds):
        start = time.perf_counter()
        fisher_diagonal(policy, policy.layers(), observations)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        per_sample(policy, few, options.chunk)
        theirs.append((time.perf_counter() - start) * len(observations) / len(few))
    name = f"{len(layers)}x{layers[0]}{' layer norm' if layer_norm else ''}, {options.samples}"
    made = row(name, "ms", [1e3 * s for s in seconds], [1e3 * s for s in theirs])
    low, high = made["spread"]
    return made | {"ratio": 1 / made["ratio"], "spread": [1 / high, 1 / low]}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--samples", type=int, default=2560)
    parser.add_argument("--peer-samples", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=32, help="samples at a time of the peer")
    parser.add_argument("--rounds", type=int, default=5)


if __name__ == "__main__":
    chosen = arguments(__doc__ or "", configure)
    torch.set_num_threads(1)
    kinds = [([128] * 2, False), ([256] * 4, False), ([256] * 4, True)]
    report([measure(chosen, *kind) for kind in kinds], chosen.json)
