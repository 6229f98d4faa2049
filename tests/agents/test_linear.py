"""The linear layer against torch's own, in value and gradients, wherever it takes oneDNN."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from clrl.agents import linear as module
from clrl.agents.linear import (
    Chain,
    Linear,
    by_input,
    by_weight,
    goes_to_onednn,
    linear,
    onednn_threads,
    product,
    speed_up,
)


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """oneDNN for every size, whatever the processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(module, "_LEAST", 1)
    monkeypatch.setenv("CLRL_ONEDNN", "1")
    onednn_threads.cache_clear()
    yield
    onednn_threads.cache_clear()


def tensors(m: int, k: int, n: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    shapes = [(m, k), (n, k), (n,), (m, n)]
    return tuple(torch.randn(*shape, generator=random) for shape in shapes)


def exact(m: int, k: int, n: int, seed: int) -> list[torch.Tensor]:
    """Value and gradients in float64."""
    x, weight, bias, upstream = (t.double().requires_grad_() for t in tensors(m, k, n, seed))
    y = functional.linear(x, weight, bias)
    return [y, *torch.autograd.grad(y, (x, weight, bias), upstream)]


SIZES = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(m=SIZES, k=SIZES, n=SIZES, seed=st.integers(0, 99))
def test_value_and_gradients_are_those_of_float64(m: int, k: int, n: int, seed: int) -> None:
    x, weight, bias, upstream = tensors(m, k, n, seed)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    y = linear(x, weight, bias)
    assert "_Linear" in type(y.grad_fn).__name__
    ours = [y, *torch.autograd.grad(y, inputs, upstream)]
    for mine, theirs in zip(ours, exact(m, k, n, seed), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("chosen", ["0", "1"])
@pytest.mark.parametrize(
    ("wide", "asked"), [(43, slice(39, None)), (43, slice(None)), (80, slice(3))]
)
def test_gradients_of_a_product(
    chosen: str, wide: int, asked: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of inputs, all or a few of them, and of weights, as a network's way back asks for them."""
    monkeypatch.setenv("CLRL_ONEDNN", chosen)
    onednn_threads.cache_clear()
    x, weight, _, upstream = tensors(50, wide, 70)
    by_x = by_input(upstream, weight[:, asked])
    torch.testing.assert_close(by_x, upstream @ weight[:, asked], rtol=1e-5, atol=5e-5)
    found = by_weight(upstream, x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, upstream.t() @ x, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("then", ["none", "relu", "leaky_relu", "tanh"])
def test_a_bias_and_an_activation_after_a_product(then: str) -> None:
    """As on a GPU, where the product comes without."""
    x, weight, bias, _ = tensors(9, 5, 7)
    expected = product(x, weight, bias, then, 0.3)
    torch.testing.assert_close(module._biased(x @ weight.t(), bias, then, 0.3), expected)


@pytest.mark.parametrize("least", [1, 10**9])
def test_a_product_may_end_in_relu(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", least)
    x, weight, bias, _ = tensors(9, 5, 7)
    expected = functional.linear(x, weight, bias).relu()
    torch.testing.assert_close(product(x, weight, bias, "relu"), expected)


@pytest.mark.parametrize("least", [1, 10**9])
def test_a_product_may_end_in_tanh(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", least)
    x, weight, bias, upstream = tensors(9, 5, 7)
    expected = torch.tanh(functional.linear(x, weight, bias))
    torch.testing.assert_close(product(x, weight, bias, "tanh"), expected)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    ours = torch.autograd.grad(linear(x, weight, bias, tanh=True), inputs, upstream)
    theirs = torch.autograd.grad(functional.linear(x, weight, bias).tanh(), inputs, upstream)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("biased", [True, False])
def test_tanh_without_onednn_is_off_by_rounding(
    biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onednn_threads", lambda: 0)
    x, weight = torch.linspace(-30.0, 30.0, 20_001)[:, None], torch.ones(3, 1)
    bias = torch.tensor([0.0, 1e-4, -2.0]) if biased else None
    exact = torch.tanh(functional.linear(x, weight, bias).double())
    found = product(x, weight, bias, "tanh")
    assert (found - exact).abs().max() < 2e-7
    assert found.abs().max() <= 1.0
    assert product(torch.full((1, 1), torch.nan), weight, bias, "tanh").isnan().all()


def test_products_of_transposed_matrices() -> None:
    x, weight, _, upstream = tensors(9, 5, 7)
    torch.testing.assert_close(product(upstream, weight.t()), upstream @ weight)
    torch.testing.assert_close(product(upstream.t(), x.t()), upstream.t() @ x)


def test_products_of_parts_of_wider_matrices_are_as_fast_as_of_copies() -> None:
    x, weight = tensors(512, 200, 100)[:2]
    x, weight = x[:, 20:148], weight[:, 20:148]
    torch.testing.assert_close(product(x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)

    def least(x: torch.Tensor, weight: torch.Tensor) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            product(x, weight)
            times.append(time.perf_counter() - start)
        return min(times)

    copies = least(x.contiguous(), weight.contiguous())
    assert least(x, weight) < 20.0 * copies  # oneDNN left alone takes hundreds of times


def test_gradients_of_gradients() -> None:
    results: list[list[torch.Tensor]] = []

    def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, weight, bias).tanh()

    for multiply in (partial(linear, tanh=True), plain):
        x, weight, bias, _ = (t.requires_grad_() for t in tensors(6, 4, 5))
        y = multiply(x, weight, bias)
        gradients = torch.autograd.grad(y.sum(), (x, weight, bias), create_graph=True)
        penalty = torch.stack([g.square().sum() for g in gradients]).sum()
        results.append(list(torch.autograd.grad(penalty, (x, weight, bias))))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_transforms_and_other_dtypes_are_torchs_own() -> None:
    x, weight, bias, _ = tensors(6, 4, 5)
    mapped = torch.vmap(lambda row: linear(row, weight, bias))(x[:, None])
    torch.testing.assert_close(mapped[:, 0], functional.linear(x, weight, bias))
    jacobian = torch.func.jacrev(lambda w: linear(x, w, bias).sum())(weight)
    torch.testing.assert_close(jacobian, x.sum(dim=0).expand(5, 4))
    double = linear(x.double().requires_grad_(), weight.double(), bias.double())
    assert "_Linear" not in type(double.grad_fn).__name__


def test_only_the_gradients_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, _ = (t.requires_grad_() for t in tensors(6, 4, 5))
    y = linear(x, weight, bias).sum()
    calls: list[Any] = []

    def counted(*args: Any) -> torch.Tensor:
        calls.append(args)
        return product(*args)

    monkeypatch.setattr(module, "product", counted)
    torch.autograd.grad(y, [x], retain_graph=True)
    assert len(calls) == 1
    torch.autograd.grad(y, [weight], retain_graph=True)
    assert len(calls) == 2
    y.backward()
    assert len(calls) == 4


def test_speeding_up_keeps_parameters_and_state() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
    x = torch.randn(6, 4)
    before, state, own = network(x), list(network.state_dict()), list(network.parameters())
    speed_up(network)
    assert type(network) is Chain
    assert type(network[0]) is Linear
    assert isinstance(network[2], nn.Linear)
    assert list(network.state_dict()) == state
    assert all(a is b for a, b in zip(network.parameters(), own, strict=True))
    torch.testing.assert_close(network(x), before)


def test_a_chain_shows_a_hook_what_its_layer_returns() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.ReLU())
    x = torch.randn(6, 4)
    expected = network[0](x)
    speed_up(network)
    fused = network(x)
    seen: list[torch.Tensor] = []
    handle = network[0].register_forward_hook(lambda *args: seen.append(args[2]))
    torch.testing.assert_close(network(x), fused)
    handle.remove()
    network(x)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", True)])
def test_the_environment_may_decide(
    value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLRL_ONEDNN", value)
    onednn_threads.cache_clear()
    assert goes_to_onednn(torch.empty(2, 3), 6) is expected


@pytest.mark.parametrize(
    ("capability", "vendor", "family", "expected"),
    [
        ("AVX512", "AuthenticAMD", 26, ["few", "many", "tanh", "few 2", "many 2", "tanh 2"]),
        ("AVX512", "AuthenticAMD", 25, ["many", "tanh"]),
        ("AVX512", "GenuineIntel", 6, []),
        ("AVX2", "AuthenticAMD", 25, []),
    ],
)
def test_processor_threads_and_rows_decide_otherwise(
    capability: str,
    vendor: str,
    family: int,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Described:
        def __init__(self, _: str) -> None: ...

        def exists(self) -> bool:
            return True

        def read_text(self) -> str:
            return f"vendor_id : {vendor}\ncpu family\t: {family}\nmodel : 25\n"

    monkeypatch.delenv("CLRL_ONEDNN")
    monkeypatch.setattr(module, "Path", Described)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    onednn_threads.cache_clear()
    few, many = torch.empty(256, 8), torch.empty(1024, 8)
    products = {"few": (few, "relu"), "many": (many, "relu"), "tanh": (few, "tanh")}
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        for name, (x, then) in products.items():
            if goes_to_onednn(x, 64, then):
                found.append(name if threads == 1 else f"{name} 2")
    assert found == expected
