"""A trained policy as one ONNX graph, from what comes off the sensors to what goes to the robot.

Every skill's statistics and head lie in tables, which the input `skill` indexes. The graph is
written by hand: it holds what acting needs and nothing else, and no tracer has to guess it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from clrl.envs.curriculum import Curriculum
from clrl.envs.layout import Layout

Array = NDArray[Any]
OPSET, IR = 17, 8  # 17 brought LayerNormalization; every runtime since 2022 reads both
_CLIP = 10.0  # standard deviations, as `clrl.agents.features`


class _Graph:
    """Nodes and tables as they are added; every method returns the name of a result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tables: dict[str, Array] = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def table(self, name: str, values: Any) -> str:
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        self.tables[name] = np.ascontiguousarray(values, np.float32)
        return name

    def of_skill(self, name: str, rows: Any) -> str:
        """The row of the skill at hand, of a table (skills, ...)."""
        return self.add("Gather", self.table(name, rows), "skill", axis=0)


def build(agent: Any, curriculum: Curriculum, parts: Layout | None = None) -> onnx.ModelProto:
    """The deterministic policy of every skill an agent has learned.

    Args:
        agent: A `ContinualPPO` or `ContinualSAC`.
        curriculum: What it learned, which says what a skill's actions are worth.
        parts: Take the observation as one input for each of these, instead of `observation`.

    Returns:
        A model with inputs `observation` (n, obs) float32 and `skill` () int64, an index, and the
        output `action` (n, act) float32 within the limits of the skill's environment.

    Raises:
        ValueError: the policy has a layer that is not known here.
    """
    graph, policy = _Graph(), agent.policy
    count = len(agent.skills)
    size = int(curriculum.observation_space.shape[0])
    x = "observation"
    if parts is not None:
        x = graph.add("Concat", *(part.name for part in parts), axis=1)
    is_sac = isinstance(policy, SACPolicy)
    actor: Any = policy.actor if is_sac else policy
    layers = [*(actor.latent_pi if is_sac else policy.mlp_extractor.policy_net)]
    if not layers:
        raise ValueError("a policy without hidden layers cannot be exported; give net_arch one")
    heads = (actor.mu if is_sac else policy.action_net).layers
    x = _normalised(graph, policy.features, count, x)
    x = _body(graph, [*layers, heads], policy, size, count, x)
    if is_sac:
        x = graph.add("Tanh", x)
        x = _unscaled(graph, agent.action_space, x)
    x = _clipped(graph, agent.action_space, x)
    if curriculum.is_padded:
        x = _own_actions(graph, curriculum, agent.skills, x)
    return _model(graph, x, parts, size, int(agent.action_space.shape[0]))


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Every table of a model by name."""
    return {table.name: numpy_helper.to_array(table) for table in model.graph.initializer}


def _normalised(graph: _Graph, features: Any, count: int, x: str) -> str:
    if not features.normalize:
        return x
    scale = (features.var[:count] + 1e-8).rsqrt()
    x = graph.add("Sub", x, graph.of_skill("observation_mean", features.mean[:count]))
    x = graph.add("Mul", x, graph.of_skill("observation_scale", scale))
    return graph.add("Clip", x, graph.table("least", -_CLIP), graph.table("most", _CLIP))


def _body(graph: _Graph, layers: Sequence[Any], policy: Any, size: int, count: int, x: str) -> str:
    """Trunk and heads; a skill's one-hot adds a column of the first weights to its bias."""
    for i, layer in enumerate(layers):
        name = f"layer_{i}"
        if isinstance(layer, nn.ModuleList):
            x = _heads(graph, list(layer), count, x)
        elif isinstance(layer, nn.Linear):
            weight, bias = layer.weight[:, :size] if i == 0 else layer.weight, layer.bias
            if i == 0 and policy.features.one_hot:
                rows = bias + layer.weight[:, size : size + count].t()
                offset = graph.of_skill(f"{name}.bias", rows)
            else:
                offset = graph.table(f"{name}.bias", bias)
            kernel = _kernel(graph, policy, f"{name}.weight", weight, count)
            x = graph.add("Gemm", x, kernel, offset, transB=1)
        else:
            x = _activation(graph, layer, name, x)
    return x


def _kernel(graph: _Graph, policy: Any, name: str, weight: Tensor, count: int) -> str:
    """A shared layer's weights, of which each skill may have masked some."""
    if policy.masks is None:
        return graph.table(name, weight)
    rows = []
    for skill in range(count):
        with policy.using(skill):
            rows.append(weight.detach().cpu().numpy().copy())
    return graph.of_skill(name, np.stack(rows))


def _heads(graph: _Graph, heads: list[Any], count: int, x: str) -> str:
    if len(heads) == 1:
        weight = graph.table("head.weight", heads[0].weight)
        bias = graph.table("head.bias", heads[0].bias)
    else:
        rows = [head.weight.detach().cpu().numpy() for head in heads[:count]]
        weight = graph.of_skill("head.weight", np.stack(rows))
        rows = [head.bias.detach().cpu().numpy() for head in heads[:count]]
        bias = graph.of_skill("head.bias", np.stack(rows))
    return graph.add("Gemm", x, weight, bias, transB=1)


def _activation(graph: _Graph, layer: nn.Module, name: str, x: str) -> str:
    if isinstance(layer, nn.LayerNorm):
        tables = [graph.table(f"{name}.{n}", t) for n, t in layer.named_parameters()]
        return graph.add("LayerNormalization", x, *tables, axis=-1, epsilon=layer.eps)
    if isinstance(layer, nn.LeakyReLU):
        return graph.add("LeakyRelu", x, alpha=layer.negative_slope)
    if isinstance(layer, nn.ELU):
        return graph.add("Elu", x, alpha=layer.alpha)
    if isinstance(layer, nn.ReLU | nn.Tanh):
        return graph.add("Relu" if isinstance(layer, nn.ReLU) else "Tanh", x)
    kind = type(layer).__name__
    raise ValueError(f"a layer {kind} cannot be exported; use Tanh, ReLU, LeakyReLU or ELU")


def _unscaled(graph: _Graph, space: Any, x: str) -> str:
    """From [-1, 1] to the action space, as SB3's `unscale_action` does."""
    half = 0.5 * (space.high - space.low)
    x = graph.add("Mul", x, graph.table("action_half", half))
    return graph.add("Add", x, graph.table("action_middle", space.low + half))


def _clipped(graph: _Graph, space: Any, x: str) -> str:
    x = graph.add("Max", x, graph.table("action_low", space.low))
    return graph.add("Min", x, graph.table("action_high", space.high))


def _own_actions(graph: _Graph, curriculum: Curriculum, skills: Sequence[str], x: str) -> str:
    """From [-1, 1] to the skill's own bounds, zeros where it has fewer actions."""
    half, middle = (np.zeros((len(skills), curriculum.action_space.shape[0])) for _ in range(2))
    for i, name in enumerate(skills):
        space = curriculum[name].action_space
        half[i, : space.shape[0]] = 0.5 * (space.high - space.low)
        middle[i, : space.shape[0]] = 0.5 * (space.high + space.low)
    x = graph.add("Mul", x, graph.of_skill("skill_half", half))
    return graph.add("Add", x, graph.of_skill("skill_middle", middle))


def _model(graph: _Graph, x: str, parts: Layout | None, size: int, actions: int) -> onnx.ModelProto:
    graph.nodes[-1].output[0] = "action"
    sizes = {p.name: len(p.elements) for p in parts} if parts else {"observation": size}
    batch: str | int = 1 if parts else "n"
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, width])
        for name, width in sizes.items()
    ]
    inputs.append(helper.make_tensor_value_info("skill", TensorProto.INT64, []))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            inputs,
            [helper.make_tensor_value_info("action", TensorProto.FLOAT, [batch, actions])],
            [numpy_helper.from_array(values, name) for name, values in graph.tables.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="clrl",
    )
    onnx.checker.check_model(model, full_check=True)
    return model
