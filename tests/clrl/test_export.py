"""A bundle acts as the agent did, is written whole, and nothing forgotten leaves unnoticed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import clrl
from clrl import bundle, export, hub, onnx_graph, sealed
from clrl.cli import main
from clrl.envs import Curriculum
from clrl.envs.arm_skills import Push
from clrl.envs.layout import layout_of
from clrl.envs.rendering import RenderError
from clrl.eval.retention import Retention
from clrl.run import Run
from clrl.verify import verify
from clrl.voices import Voice
from tests.clrl.conftest import PAIR

PPO_OPTIONS = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}
SAC_OPTIONS = {"learning_starts": 32, "gradient_steps": 1, "batch_size": 16}
KINDS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "ppo": ("ppo", PPO_OPTIONS, PAIR),
    "ppo one head": ("ppo", PPO_OPTIONS | {"policy_kwargs": {"multi_head": False}}, PAIR),
    "ppo elu": ("ppo", PPO_OPTIONS | {"policy_kwargs": {"activation_fn": torch.nn.ELU}}, PAIR),
    "sac": ("sac", SAC_OPTIONS, PAIR),
    "sac one head": ("sac", SAC_OPTIONS | {"policy_kwargs": {"multi_head": False}}, PAIR),
    "sac layer norm": ("sac", SAC_OPTIONS | {"policy_kwargs": {"layer_norm": True}}, PAIR),
    "ppo progressive": ("ppo", PPO_OPTIONS | {"policy_kwargs": {"progressive": True}}, PAIR),
    "sac progressive": ("sac", SAC_OPTIONS | {"policy_kwargs": {"progressive": True}}, PAIR),
    "padded": ("ppo", PPO_OPTIONS, ["arm-reach", "Pusher-v5"]),
}


@pytest.fixture(scope="module")
def files(run: Run) -> dict[str, bytes]:
    return export.export(run)


@pytest.fixture
def whole(files: dict[str, bytes], tmp_path: Path) -> Path:
    export.write(tmp_path / "bundle", files)
    return tmp_path / "bundle"


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_does_what_torch_does(kind: str) -> None:
    """Far from the statistics too, where normalised observations and actions are clipped."""
    from clrl.agents.catalog import make_agent

    algorithm, options, skills = KINDS[kind]
    if kind == "padded":
        skills = [clrl.envs.make_skill("arm-reach"), _pusher()]
    curriculum = Curriculum("two", skills)
    options = options | {
        "policy_kwargs": {"net_arch": [16, 16], "normalize": True}
        | options.get("policy_kwargs", {})
    }
    agent = make_agent(
        algorithm,
        observation_space=curriculum.observation_space,
        action_space=curriculum.action_space,
        worlds=4,
        protect={},
        seed=0,
        device="cpu",
        **options,
    )
    random = torch.Generator().manual_seed(0)
    for name in curriculum.names:
        agent.begin_skill(name)
        agent.policy.features.update(
            torch.randn((64, curriculum.observation_space.shape[0]), generator=random)
        )
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    graph = onnx_graph.build(_voices(agent, curriculum), curriculum).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    size = curriculum.observation_space.shape[0]
    rows = np.random.default_rng(1).normal(0.0, 3.0, (200, size)).astype(np.float32)
    for index, name in enumerate(curriculum.names):
        got = session.run(None, {"observation": rows, "skill": np.array(index)})[0]
        wanted = np.asarray(agent.act(rows, name))
        space = curriculum[name].action_space
        if curriculum.is_padded:
            wanted = space.low + (wanted[:, : len(space.low)] + 1) / 2 * (space.high - space.low)
            assert (got[:, len(space.low) :] == 0).all()
        assert np.abs(got[:, : len(space.low)] - wanted).max() < 1e-5
        assert np.ptp(got, axis=0)[: len(space.low)].min() > 0


def _voices(agent: Any, curriculum: Curriculum) -> list[Voice]:
    nothing: Any = None
    return [Voice(skill.name, skill, agent, nothing) for skill in curriculum]


def _pusher() -> Any:
    from clrl.envs import GymSkill

    return GymSkill("Pusher-v5", success_return=-30.0)


def test_both_kinds_of_inputs_give_one_policy(files: dict[str, bytes], run: Run) -> None:
    skill = run.curriculum.skills[0]
    row = np.random.default_rng(0).normal(size=(1, 23)).astype(np.float32)
    at, feed = 0, {"skill": np.array(1)}
    for part in layout_of(skill, "observation"):
        feed[part.name] = row[:, at : (at := at + len(part.elements))]
    by_part = onnxruntime.InferenceSession(files[bundle.LEAPP_GRAPH]).run(None, feed)[0]
    whole = onnxruntime.InferenceSession(files[bundle.GRAPH])
    assert (by_part == whole.run(None, {"observation": row, "skill": np.array(1)})[0]).all()
    description = files[bundle.LEAPP].decode()
    assert sealed.summed(files[bundle.LEAPP_GRAPH])["sha256"] in description
    assert '"kind": "state/body/position"' in description


def test_a_layer_nobody_knows_is_refused(run: Run) -> None:
    agent = run.agent()
    agent.policy.mlp_extractor.policy_net[1] = torch.nn.Softplus()
    with pytest.raises(ValueError, match="a layer Softplus cannot be exported; use Tanh"):
        onnx_graph.build(_voices(agent, run.curriculum), run.curriculum)


def test_the_contract_comes_from_the_environment(files: dict[str, bytes], run: Run) -> None:
    contract = json.loads(files[bundle.CONTRACT])
    skill = contract["skills"][1]
    assert [part["name"] for part in skill["observation"]][:3] == [
        "hand",
        "hand_velocity",
        "fingers",
    ]
    assert skill["action"][0]["scale"] == 0.04
    assert skill["control_hz"] == 40.0
    assert skill["measured"]["success"] == run.retention().success[-1][1]
    assert contract["protocol"]["episodes"] == run.config.episodes
    for name, digest in contract["sha256"].items():
        assert sealed.summed(files[name])["sha256"] == digest


def test_a_layout_that_misses_elements_is_refused() -> None:
    class Short(Push):
        observation_layout = Push.observation_layout[:-1]

    with pytest.raises(ValueError, match="declares 20 elements of its observation, which has 23"):
        layout_of(Short(), "observation")


@pytest.mark.parametrize("skill", [name for name in clrl.envs.SKILLS if name.startswith("cw-")])
def test_every_sawyer_skill_declares_its_layout(skill: str) -> None:
    from importlib import import_module

    module, _, name = clrl.envs.SKILLS[skill].partition(":")
    kind = getattr(import_module(module), name)
    names = [part.name for part in layout_of(kind, "observation")]
    assert names[0] == "hand"
    assert names[-1] == "goal"


# The gate


def forgotten(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = run.retention()
    kept = ("curriculum", "skills", "agent", "protections", "seed", "protocol", "cost", "versions")
    result = Retention.measured(
        **{name: getattr(old, name) for name in kept},
        successes=[[0, 0], [4, 0], [2, 4]],
        returns=np.zeros((3, 2)),
    )
    monkeypatch.setattr(Run, "retention", lambda self: result)


def test_an_agent_that_forgot_is_not_exported(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    forgotten(run, monkeypatch)
    with pytest.raises(SystemExit) as stop:
        main(["export", str(run.path), "--out", str(tmp_path / "b")])
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "after " in told.out  # the table
    assert told.err.count("\n") == 1
    assert "retention under 0.8 (reach 0.50)" in told.err
    assert list(tmp_path.iterdir()) == []


def test_forgetting_can_be_allowed_and_is_written_down(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten(run, monkeypatch)
    files = export.export(run, allow_forgetting=True)
    gate = json.loads(files[bundle.CONTRACT])["gate"]
    assert gate["allow_forgetting"] is True
    assert gate["forgotten"] == ["reach"]
    assert b"--allow-forgetting" in files[bundle.CARD]
    assert export.judge(run.retention(), 0.4, allow=False)["forgotten"] == []


def test_an_unfinished_run_is_not_exported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "finals", lambda self: [])
    with pytest.raises(ValueError, match=r"is not finished: .*; finish it with `clrl resume"):
        export.export(run)


# Writing and verifying


def test_export_and_verify_on_the_command_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(run.path), "--out", str(tmp_path / "b"), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["files"] == sorted(bundle.FILES)
    main(["verify", str(tmp_path / "b"), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["calls"] == 10_000
    assert report["skills"]["reach"]["difference"] < 1e-5
    assert 0 < report["latency_us"]["p50"] <= report["latency_us"]["p99"]
    with pytest.raises(SystemExit):
        main(["export", str(run.path), "--out", str(tmp_path / "b")])
    assert "exists; choose another place" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        export.write(tmp_path / "b", files)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("renderer", [True, False])
def test_the_hub_folder_holds_a_card_and_a_bundle(
    renderer: bool,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def film(run: Run, agent: Any, names: Any, episodes: int, target: Path) -> None:
        if not renderer:
            raise RenderError("no OpenGL renderer")
        target.write_bytes(b"video")

    monkeypatch.setattr(hub, "film", film)
    main(["export", str(run.path), "--hub-dir", str(tmp_path / "hub")])
    assert ("no replay.mp4: no OpenGL renderer" in capsys.readouterr().out) == (not renderer)
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert names == {"README.md", "bundle"} | ({"replay.mp4"} if renderer else set())
    card = (tmp_path / "hub" / "README.md").read_text()
    assert ("![replay](replay.mp4)" in card) == renderer
    front = dict(line.split(": ", 1) for line in card.split("---\n")[1].splitlines())
    results = json.loads(front["model-index"])[0]["results"]
    assert [r["dataset"]["name"] for r in results] == PAIR
    assert verify(tmp_path / "hub" / "bundle", calls=1)["calls"] == 1
