"""Whatever is asked for and whatever a file holds: a result, or one line.

3,900 cases in all; each test says how many of them are its own.
"""

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clrl import bundle, checkpoint, identity, onnx_graph, packing, sealed, trainer, verify, wire
from clrl.agents.catalog import make_agent
from clrl.bundle import Bundle
from clrl.config import Config, resolve
from clrl.deploy import Policy
from clrl.envs import Curriculum, make_curriculum
from clrl.envs.untrusted import parse_json
from clrl.eval.retention import Retention
from clrl.position import Position
from clrl.run import Run
from clrl.voices import Voice
from tests.clrl.forgery import tensors

ARM = make_curriculum(["arm-reach", "arm-press"])
WORDS = st.sampled_from(
    (
        *("ppo", "sac", "cpu", "ewc", "replay", "any-step", "arm-reach", "Reacher-v5", "reach"),
        *("os:system", "a:b:c", ":", "../x", "", "x\ny", "\0", "\ud800", "1e999", "ω", "a" * 300),
    )
)
NUMBERS = st.one_of(
    st.integers(-2, 300),
    st.sampled_from((2**31, 2**53 + 1, 2**63, 10**30, -(10**12))),
    st.floats(),
)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def fuzz(cases: int) -> Callable[[Any], Any]:
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=cases, suppress_health_check=quiet)


@st.composite
def altered(draw: Any, base: Any) -> Any:
    """A document in which one to three places hold something else, more, or nothing."""
    document = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        inner = document
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], dict | list) and draw(st.integers(0, 3)):
                inner = inner[key]
                continue
            _alter(draw, inner, key)
            break
    return document


def _alter(draw: Any, inner: Any, key: Any) -> None:
    kind = draw(st.integers(0, 5))
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[draw(WORDS)] = draw(VALUES)
    elif kind == 1:
        inner.append(draw(VALUES))
    else:
        inner[key] = draw(VALUES)


def outcome(call: Callable[[], Any]) -> Any:
    """The result, or None where it was refused in one line; anything else fails the test."""
    try:
        return call()
    except (ValueError, OSError) as error:
        said = str(error)
    assert said
    assert "\n" not in said
    assert len(said) < 2000
    return None


OPTIONS = st.dictionaries(
    st.sampled_from(
        (
            *("worlds", "threads", "episodes", "n_steps", "batch_size", "learning_rate", "gamma"),
            *("policy_kwargs", "policy", "env", "name", "seed_", "device_", "explore", "updates"),
        )
    ),
    VALUES,
    max_size=4,
)


@fuzz(400)
@given(
    agent=WORDS | LEAVES,
    protect=st.none()
    | st.lists(WORDS, max_size=3)
    | st.dictionaries(WORDS, VALUES, max_size=2)
    | VALUES,
    seed=NUMBERS | LEAVES,
    device=st.sampled_from(("auto", "cpu", "warp:cpu")) | LEAVES,
    options=OPTIONS,
)
def test_arguments(agent: Any, protect: Any, seed: Any, device: Any, options: Any) -> None:
    config = outcome(
        lambda: resolve(ARM.to_json(), agent, protect, seed=seed, device=device, options=options)
    )
    if config is not None:
        assert config.agent in ("ppo", "sac")


@fuzz(150)
@example(curriculum="arm-reach", steps=2**10, horizon=10, rule="any-step")
@given(
    curriculum=WORDS | VALUES,
    steps=NUMBERS | LEAVES,
    horizon=NUMBERS | LEAVES,
    rule=WORDS | LEAVES,
)
def test_arguments_of_a_training(
    tmp_path: Path, curriculum: Any, steps: Any, horizon: Any, rule: Any
) -> None:
    """Up to where a run's directory would be made."""

    class MadeError(Exception):
        pass

    def made(*_: Any) -> Any:
        raise MadeError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "create", made)
        patch.chdir(tmp_path)
        with suppress(MadeError):
            outcome(
                lambda: trainer.train(
                    curriculum, steps_per_skill=steps, horizon=horizon, success_rule=rule
                )
            )
    assert not list(tmp_path.iterdir())


BASE = resolve(ARM.to_json(), "ppo", None, seed=0, device="cpu", options={}).to_json()


@fuzz(350)
@given(altered(json.loads(json.dumps(BASE))) | VALUES)
def test_run_json(content: Any) -> None:
    config = outcome(lambda: Config.from_json(content, "run.json"))
    if config is not None:
        outcome(lambda: Curriculum.from_json(config.curriculum))


@fuzz(350)
@given(altered(ARM.to_json()) | VALUES)
def test_curricula(content: Any) -> None:
    found = outcome(lambda: Curriculum.from_json(content))
    if found is not None:
        assert len(found.steps) == len(found.names) == len(set(found.names))


TOML = st.lists(
    st.sampled_from(
        (
            *("name", "skills", "id", "=", "[", "]", "{", "}", ",", "[[skills]]", "\n", ".", '"'),
            *('"arm-reach"', "steps", "horizon", "nan", "inf", "1_0", "0x1F", "2020-01-01", "#"),
            *("'x'", '"""', "true", "-", " ", "\\", "é"),
        )
    ),
    max_size=30,
)


@fuzz(300)
@given(data=TOML.map("".join).map(str.encode) | st.binary(max_size=60))
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_curriculum_files(tmp_path: Path, data: bytes, suffix: str) -> None:
    file = tmp_path / f"mine.{suffix}"
    file.write_bytes(data)
    outcome(lambda: make_curriculum(file))


@fuzz(200)
@given(text=st.text(max_size=40) | VALUES.map(json.dumps) | st.binary(max_size=40))
def test_json(text: Any) -> None:
    outcome(lambda: parse_json(text))


RESULT = Retention.measured(
    curriculum="two",
    skills=["a", "b"],
    agent="ppo",
    protections=["ewc"],
    seed=0,
    protocol={
        "episodes": 10,
        "horizon": 100,
        "success": "any-step",
        "deterministic": True,
        "seed": 1000,
        "device": "cpu",
    },
    successes=[[0, 1], [8, 0], [7, 9]],
    returns=[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
    cost={
        name: 1
        for name in (
            *("wall_seconds", "train_seconds", "eval_seconds", "env_steps", "updates"),
            *("parameters", "protection_bytes", "protection_seconds"),
        )
    },
    versions={
        name: "1"
        for name in ("clrl", "mujoco", "torch", "stable_baselines3", "gymnasium", "python")
    },
)


@fuzz(250)
@given(altered(json.loads(RESULT.to_json())) | VALUES)
def test_retention_json(content: Any) -> None:
    outcome(lambda: Retention.from_json(json.dumps(content)))


@fuzz(150)
@given(altered({"format": 1, "info": {"final": True}, "files": {"a": {"bytes": 1}}}) | VALUES)
def test_manifests(tmp_path: Path, content: Any) -> None:
    try:
        data = sealed.seal(content)
    except (ValueError, TypeError):  # no manifest could say it
        data = json.dumps(content).encode()
    outcome(lambda: sealed.read_manifest(data))
    (tmp_path / sealed.MANIFEST).write_bytes(data)
    outcome(lambda: checkpoint.info(tmp_path))


HEADER = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
}


@fuzz(250)
@given(altered(HEADER) | VALUES, st.binary(max_size=8))
def test_safetensors_headers(header: Any, tail: bytes) -> None:
    data = tensors(header, bytes(24) + tail)
    outcome(lambda: wire.check_tensors(data, "x"))


PACKED = packing.pack({"a": [1, 2.5, None, float("inf")], "b": {"c": 2**70}, "d": {1: "x"}})[0]


@fuzz(250)
@given(altered(PACKED) | VALUES)
def test_packed_states(packed: Any) -> None:
    outcome(lambda: packing.unpack(packed, {}))


POSITION: dict[str, Any] = {
    "skill": 1,
    "begun": False,
    "start": 0,
    "ends": [100],
    "successes": [[0, 1], [2, 3]],
    "returns": [[0.0, 1.0], [2.0, 3.0]],
    "curves": {"reach": [[1, 0.5]]},
    "cost": {"wall_seconds": 0.0, "train_seconds": 0.0, "eval_seconds": 0.0},
    "diverged": {"total": 0, "window": 0, "recent": 0},
}


@fuzz(200)
@given(altered(POSITION) | VALUES)
def test_positions(saved: Any) -> None:
    outcome(lambda: Position.of(saved, ARM, "run"))


def test_the_position_that_is_altered_is_one() -> None:
    assert Position.of(POSITION, ARM, "run").ends == [100]


IDENTITY = json.loads(json.dumps(identity.identity(Config.from_json(BASE, "x"), ARM)))


@fuzz(150)
@given(altered(IDENTITY) | VALUES)
def test_identities(found: Any) -> None:
    outcome(lambda: identity.check(found, Config.from_json(BASE, "x"), ARM, "checkpoint"))
    outcome(lambda: identity.other_versions(found))


@pytest.fixture(scope="module")
def graph() -> bytes:
    agent = make_agent(
        "ppo", ARM.observation_space, ARM.action_space, policy_kwargs={"net_arch": [4]}
    )
    for name in ARM.names:
        agent.begin_skill(name)
    nothing: Any = None
    voices = [Voice(skill.name, skill, agent, nothing) for skill in ARM]
    model: bytes = onnx_graph.build(voices, ARM).SerializeToString()
    return model


@fuzz(300)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_graphs(graph: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(graph)
    for place, value in changes:
        data[place % len(data)] = value
    outcome(lambda: wire.check_graph(bytes(data), "policy.onnx"))


def _part(name: str, size: int, **more: Any) -> dict[str, Any]:
    bounds = {"low": [-1.0] * size, "high": [1.0] * size}
    return {"name": name, "elements": [str(i) for i in range(size)], **bounds, **more}


CONTRACT = {
    "format": 1,
    "skills": [
        {
            "name": name,
            "index": i,
            "control_hz": 40.0,
            "observation": [_part("hand", 3), _part("rest", 20)],
            "action": [_part("move", 4, stop=0.0)],
        }
        for i, name in enumerate(ARM.names)
    ],
}


@fuzz(150)
@given(altered(CONTRACT))
def test_contracts(graph: bytes, contract: Any) -> None:
    outcome(lambda: Policy(Bundle(Path("b"), contract, {bundle.GRAPH: graph})))


def test_the_contract_that_is_altered_is_one(graph: bytes) -> None:
    assert Policy(Bundle(Path("b"), CONTRACT, {bundle.GRAPH: graph})).skills == ARM.names


PAIRS = {name: {"observation": [[0.0] * 23], "action": [[0.0] * 4]} for name in ARM.names}


@fuzz(150)
@given(altered({"tolerance": 1e-5, "skills": PAIRS}))
def test_golden_pairs(graph: bytes, content: Any) -> None:
    data = json.dumps(content).encode()
    files = {bundle.GRAPH: graph, bundle.GOLDEN: data}
    whole = Bundle(Path("b"), CONTRACT, files)
    policy = Policy(whole)

    def compare() -> None:
        pairs, tolerance = verify._pairs(whole, policy)
        for name, rows in pairs.items():
            verify._compare(policy, name, *rows, tolerance)

    outcome(compare)
