"""Adam's step by torch's fused kernel, without the bookkeeping around it.

`torch.optim.Adam.step` sorts its tensors by device and type and guards against what an agent never
does, which takes as long as the kernel takes for the weights of two small networks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from clrl.agents.lanes import side_by_side

_MANY = 2**16  # numbers that take longer to move than to wake another thread
_ONE = torch.tensor(1.0)  # a third of the time that torch takes to add a number


def step(optimizer: torch.optim.Optimizer) -> None:
    """`optimizer.step()` to the bit, its hooks included."""
    if not is_plain(optimizer):
        optimizer.step()
        return
    for before in [*optimizer._optimizer_step_pre_hooks.values()]:
        before(optimizer, (), {})
    move(optimizer)
    for after in [*optimizer._optimizer_step_post_hooks.values()]:
        after(optimizer, (), {})


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Drop gradients; what nobody sets then, such as another skill's head, stays as it is."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


@torch.no_grad()
def move(
    optimizer: torch.optim.Optimizer,
    part: slice = slice(None),
    rate: Tensor | None = None,
    cut: Callable[[Sequence[Tensor]], list[Tensor]] | None = None,
) -> None:
    """Move the weights that have a gradient; no hook is called.

    Args:
        optimizer: `torch.optim.Adam` with `fused`.
        part: Of the weights of each of its groups.
        rate: The learning rate, (), in place of the optimizer's own.
        cut: Cuts each of some tensors into the pieces that the kernel is to see, if not the whole.
    """
    for group in optimizer.param_groups:
        used = [p for p in group["params"][part] if p.grad is not None]
        if not used:
            continue
        states = [optimizer.state[p] or _begun(optimizer, group, p) for p in used]
        steps = [state["step"] for state in states]
        if steps[0].is_cpu:
            torch._foreach_add_(steps, _ONE, alpha=1.0)
        else:
            torch._foreach_add_(steps, 1)
        columns: list[list[Any]] = [
            used,
            [p.grad for p in used],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        ]
        if cut is not None:
            steps = [step for step, p in zip(steps, used, strict=True) for _ in cut([p])]
            columns = [cut(column) for column in columns]
        columns.append(steps)
        kernel: Callable[..., None] = partial(
            torch._fused_adam_,
            lr=group["lr"] if rate is None else rate,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )
        shares = _shares(columns[0])
        works = (partial(kernel, *(column[share] for column in columns)) for share in shares)
        side_by_side(used[0].device, *works)


def is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `move` is what its own `step` would do."""
    return (
        type(optimizer) is torch.optim.Adam
        and "step" not in vars(optimizer)  # as a schedule of torch's puts there
        and not torch_optimizer._global_optimizer_pre_hooks
        and not torch_optimizer._global_optimizer_post_hooks
        and all(
            group["fused"]
            and not group.get("decoupled_weight_decay")
            and not group["differentiable"]
            for group in optimizer.param_groups
        )
    )


def _shares(tensors: Sequence[Tensor]) -> list[slice]:
    """All of them, or where that pays two parts with about as many numbers."""
    ends = [*accumulate(tensor.numel() for tensor in tensors)]
    if not tensors[0].is_cpu or ends[-1] < 2 * _MANY:
        return [slice(None)]
    middle = next(i for i, end in enumerate(ends, 1) if 2 * end >= ends[-1])
    return [slice(middle), slice(middle, None)]


def _begun(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor
) -> dict[str, Tensor]:
    """The state of a weight before its first step."""
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
    state: dict[str, Tensor] = optimizer.state[parameter]
    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
    state.update({name: torch.zeros_like(parameter) for name in names})
    return state
