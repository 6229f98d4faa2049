"""A trained policy as one ONNX graph, from what comes off the sensors to what goes to the robot.

What differs between skills (statistics, heads, layers of variants) lies in tables, which the input
`skill` indexes. The graph is written by hand: it holds what acting needs and nothing else, and no
tracer has to guess it.
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
from clrl.voices import Voice

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
        self.tables[name] = _array(values)
        return name

    def of_skill(self, name: str, rows: Sequence[Any]) -> str:
        """What the skill at hand has of some rows, one for each skill; equal ones are kept once."""
        arrays = [_array(row) for row in rows]
        distinct: dict[bytes, int] = {}
        which = [distinct.setdefault(array.tobytes(), len(distinct)) for array in arrays]
        if len(distinct) == 1:
            return self.table(name, arrays[0])
        index = "skill"
        if len(distinct) < len(arrays):
            self.tables[f"{name}.of"] = np.array(which, np.int64)
            index = self.add("Gather", f"{name}.of", "skill", axis=0)
        stacked = np.stack([arrays[which.index(i)] for i in range(len(distinct))])
        return self.add("Gather", self.table(name, stacked), index, axis=0)


def build(
    voices: Sequence[Voice], curriculum: Curriculum, parts: Layout | None = None
) -> onnx.ModelProto:
    """The deterministic policy of some skills.

    Args:
        voices: Who performs them; their policies are of one make.
        curriculum: The same skills, which say what their actions are worth.
        parts: Take the observation as one input for each of these, instead of `observation`.

    Returns:
        A model with inputs `observation` (n, obs) float32 and `skill` () int64, an index, and the
        output `action` (n, act) float32 within the limits of the skill's environment.

    Raises:
        ValueError: the policy has a layer that is not known here.
    """
    graph, agent = _Graph(), voices[0].agent
    size = int(curriculum.observation_space.shape[0])
    x = "observation"
    if parts is not None:
        x = graph.add("Concat", *(part.name for part in parts), axis=1)
    x = _normalised(graph, voices, x)
    x = _body(graph, voices, size, x)
    if isinstance(agent.policy, SACPolicy):
        x = graph.add("Tanh", x)
        x = _unscaled(graph, agent.action_space, x)
    x = _clipped(graph, agent.action_space, x)
    if curriculum.is_padded:
        x = _own_actions(graph, curriculum, x)
    return _model(graph, x, parts, size, int(agent.action_space.shape[0]))


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Every table of a model by name."""
    return {table.name: numpy_helper.to_array(table) for table in model.graph.initializer}


def _array(values: Any) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.ascontiguousarray(values, np.float32)


def _normalised(graph: _Graph, voices: Sequence[Voice], x: str) -> str:
    features = [(voice.agent.policy.features, voice.index) for voice in voices]
    if not features[0][0].normalize:
        return x
    x = graph.add("Sub", x, graph.of_skill("observation_mean", [f.mean[i] for f, i in features]))
    scale = [(f.var[i] + 1e-8).rsqrt() for f, i in features]
    x = graph.add("Mul", x, graph.of_skill("observation_scale", scale))
    return graph.add("Clip", x, graph.table("least", -_CLIP), graph.table("most", _CLIP))


def _body(graph: _Graph, voices: Sequence[Voice], size: int, x: str) -> str:
    """Layers of each skill; its one-hot adds a column of the first weights to the first bias."""
    stacks = [voice.layers for voice in voices]
    if len(stacks[0]) < 2:
        raise ValueError("a policy without hidden layers cannot be exported; give net_arch one")
    for i, layers in enumerate(zip(*stacks, strict=True)):
        if not isinstance(layers[0], nn.Linear):
            x = _activation(graph, layers, f"layer_{i}", x)
            continue
        name = "head" if i == len(stacks[0]) - 1 else f"layer_{i}"
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        if i == 0 and voices[0].agent.policy.features.one_hot:
            pairs = zip(layers, voices, strict=True)
            biases = [layer.bias + layer.weight[:, size + v.index] for layer, v in pairs]
            weights = [weight[:, :size] for weight in weights]
        weight = graph.of_skill(f"{name}.weight", weights)
        x = graph.add("Gemm", x, weight, graph.of_skill(f"{name}.bias", biases), transB=1)
    return x


def _activation(graph: _Graph, layers: Sequence[nn.Module], name: str, x: str) -> str:
    layer = layers[0]
    if isinstance(layer, nn.LayerNorm):
        own = [dict(other.named_parameters()) for other in layers]
        tables = [graph.of_skill(f"{name}.{key}", [o[key] for o in own]) for key in own[0]]
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


def _own_actions(graph: _Graph, curriculum: Curriculum, x: str) -> str:
    """From [-1, 1] to the skill's own bounds, zeros where it has fewer actions."""
    shape = (len(curriculum), curriculum.action_space.shape[0])
    half, middle = np.zeros(shape), np.zeros(shape)
    for i, skill in enumerate(curriculum):
        space = skill.action_space
        half[i, : space.shape[0]] = 0.5 * (space.high - space.low)
        middle[i, : space.shape[0]] = 0.5 * (space.high + space.low)
    x = graph.add("Mul", x, graph.of_skill("skill_half", list(half)))
    return graph.add("Add", x, graph.of_skill("skill_middle", list(middle)))


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
