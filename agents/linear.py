"""Linear layers whose products of matrices run on the faster of torch's two CPU libraries.

torch multiplies float32 matrices with MKL, which withholds AVX-512 from processors that are not
Intel's. oneDNN, which torch carries too, uses it there: about twice as fast, float32 all the same.
Only the order of summation differs. The choice follows from the processor, from shapes and from
torch's number of threads, never from a timing, so that runs reproduce.
"""

import math
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clrl.agents.fused import fused

_WIDE = 64  # inputs from which a weight's gradient is quicker with the batch made contiguous
_NARROW = 8  # columns up to which MKL is quicker with the product turned over
_LEAST = 2**20  # multiplications below which starting oneDNN costs more than it saves
_LONG = 512  # rows from which it is as good as MKL where both multiply at the same rate
_MINUS_ONE = torch.tensor(-1.0)


@cache
def onednn_threads() -> float:
    """Most threads with which oneDNN is not the slower one for many rows; 0 where it always is.

    It is the faster one with AVX-512 on a processor not known to be Intel's. AMD's family 25 does
    that in two halves: there both are alike on one thread, and MKL is faster on more. The
    environment variable CLRL_ONEDNN, 0 or 1, decides instead where it is set.
    """
    if (chosen := os.environ.get("CLRL_ONEDNN")) is not None:
        return math.inf if chosen == "1" else 0
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return 0
    described = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not described.exists():
        return 0
    processor = described.read_text()
    if "GenuineIntel" in processor:
        return 0
    return 1 if re.search(r"cpu family\s*: 25\b", processor) else math.inf


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    then: str = "none",
    slope: float = 0.0,
) -> Tensor:
    """Value of x @ weight.T + bias without a graph, on the library that suits the size.

    Args:
        x: Float32, (m, k), of any strides, as is `weight`.
        weight: (n, k).
        bias: (n,).
        then: What to apply in the same pass, "relu", "leaky_relu", "tanh" or "none"; tanh costs a
            sixth of torch's own there.
        slope: Of "leaky_relu" below 0.

    Returns:
        A new tensor (m, n).
    """
    if goes_to_onednn(x, weight.numel(), then):
        operands = _dense(x), _dense(weight)
        scalars = [slope] if then == "leaky_relu" else []
        result: Tensor = torch.ops.mkldnn._linear_pointwise(*operands, bias, then, scalars, "")
        return result
    if x.is_cuda and bias is not None:  # at such sizes cuBLAS takes twice as long with a bias
        return _biased(torch.mm(x, weight.t()), bias.detach(), then, slope)
    if x.is_cpu and then == "tanh" and not onednn_threads():
        return _tanh_of_product(x, weight, bias)
    return _activate(functional.linear(x, weight, bias), then, slope)


def goes_to_onednn(x: Tensor, weights: int, then: str = "none") -> bool:
    """Whether oneDNN is to multiply rows (m, k) with so many weights, `then` to follow."""
    most = onednn_threads()
    if not most or not x.is_cpu or x.shape[0] * weights < _LEAST or torch.get_num_threads() > most:
        return False
    return most > 1 or then == "tanh" or max(x.shape) >= _LONG


def by_input(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a layer's input (batch, in) by that of its output (batch, out), no graph."""
    if goes_to_onednn(gradient, weight.numel()):
        return product(gradient, weight.t())
    if gradient.is_cpu and weight.shape[1] <= _NARROW < gradient.shape[1]:
        return torch.mm(weight.t(), gradient.t()).t()
    return torch.mm(gradient, weight)


def by_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of a weight (out, in) by that of the output (batch, out) and by x (batch, in)."""
    goes = goes_to_onednn(x, gradient.shape[1] * x.shape[1])
    if x.is_cpu and x.shape[1] < _WIDE < gradient.shape[1]:
        turned = product(x.t(), gradient.t()) if goes else torch.mm(x.t(), gradient)
        return turned.t().contiguous()
    return product(gradient.t().contiguous(), x.t()) if goes else torch.mm(gradient.t(), x)


def _tanh_of_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """2 sigmoid(2 x) - 1 is tanh within 2e-7, in a third of the time that torch's own takes."""
    if bias is None:
        y = torch.mm(x, weight.t()).mul_(2.0)
    else:
        y = torch.addmm(bias, x, weight.t(), beta=2.0, alpha=2.0)
    return torch.add(_MINUS_ONE, y.sigmoid_(), alpha=2.0, out=y)


@fused
def _biased(y: Tensor, bias: Tensor, then: str, slope: float) -> Tensor:
    return _activate(y + bias, then, slope)


def _activate(y: Tensor, then: str, slope: float) -> Tensor:
    """Apply an activation in place."""
    if then == "relu":
        return y.relu_()
    if then == "leaky_relu":
        return functional.leaky_relu_(y, slope)
    return y.tanh_() if then == "tanh" else y


def _dense(matrix: Tensor) -> Tensor:
    """The matrix, copied if part of a wider one: with such weights oneDNN takes 1,000 times."""
    if matrix.is_contiguous() or matrix.t().is_contiguous():
        return matrix
    return matrix.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, tanh: bool = False) -> Tensor:
    """`torch.nn.functional.linear`, values and gradients, on the library that suits the size.

    Other dtypes and devices, small products, `torch.func` transforms, autocast and tracing go to
    torch's own.

    Args:
        x: (m, k); other shapes go to torch's own.
        weight: (n, k).
        bias: (n,).
        tanh: Apply tanh to the result.

    Returns:
        x @ weight.T + bias, (m, n).
    """
    if _suits(x, weight, "tanh" if tanh else "none"):
        if not torch.is_grad_enabled():
            return product(x, weight, bias, "tanh" if tanh else "none")
        result: Tensor = _Linear.apply(x, weight, bias, tanh)  # type: ignore[no-untyped-call]
        return result
    result = functional.linear(x, weight, bias)
    return result.tanh() if tanh else result


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`: the same parameters, state and initialisation."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as torch names it
        """Value of the layer, x @ weight.T + bias."""
        return linear(input, self.weight, self.bias)


class Chain(nn.Sequential):
    """`nn.Sequential` that takes a `Linear` and the tanh after it in one pass."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as torch names it
        """Value of the last layer."""
        value, fused = input, False
        layers: list[Any] = list(self)
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if fused:  # this tanh is done
                fused = False
                continue
            fused = _fusible(layer, following)
            value = linear(value, layer.weight, layer.bias, True) if fused else layer(value)
        return value


def speed_up(network: nn.Module) -> None:
    """Turn every `nn.Linear` and `nn.Sequential` of a network into those above, in place.

    Parameters, their names and their values stay.
    """
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
        elif type(module) is nn.Sequential:
            module.__class__ = Chain


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
        y = product(x, weight, bias, "tanh" if tanh else "none")
        ctx.save_for_backward(x, weight, *([y] if tanh else []))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight, *y) = gradients, ctx.saved_tensors
        if y:
            gradient = torch.ops.aten.tanh_backward(gradient, y[0])
        # With create_graph the gradients need a graph of their own, which `linear` gives them.
        multiply = linear if torch.is_grad_enabled() else product
        return (
            multiply(gradient, weight.t()) if _asked(ctx, 0) else None,
            multiply(gradient.t(), x.t()) if _asked(ctx, 1) else None,
            gradient.sum(dim=0) if _asked(ctx, 2) else None,
            None,
        )


def _fusible(layer: nn.Module, following: nn.Module | None) -> bool:
    """Whether one pass does for both; whoever hooked one of them wants to see what it returns."""
    return (
        type(layer) is Linear
        and type(following) is nn.Tanh
        and not layer._forward_hooks
        and not following._forward_hooks
    )


def _suits(x: Tensor, weight: Tensor, then: str) -> bool:
    return (
        x.dim() == 2
        and goes_to_onednn(x, weight.numel(), then)
        and x.dtype == weight.dtype == torch.float32
        and type(x) in (Tensor, nn.Parameter)
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
    )


def _asked(ctx: Any, index: int) -> bool:
    """Whether the backward pass at hand wants the gradient of an input.

    `needs_input_grad` says only that it could be wanted: `autograd.grad` with respect to something
    else would compute gradients of weights and throw them away.
    """
    if not ctx.needs_input_grad[index]:
        return False
    try:
        wanted: bool = torch._C._will_engine_execute_node(ctx.next_functions[index][0])
    except RuntimeError:  # a leaf that `autograd.grad` was asked for
        return True
    return wanted
