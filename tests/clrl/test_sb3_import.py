"""An agent that plain Stable-Baselines3 trained becomes a run that acts as it does."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import clrl
from clrl import sb3_import
from clrl.envs import make_curriculum
from clrl.eval.evaluator import evaluate_skill
from clrl.run import Run

SKILL = "arm-reach"
RELU = {"activation_fn": nn.ReLU, "net_arch": {"pi": [32, 16], "vf": [24], "qf": [24, 8]}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("PPO", {}),
    "relu": ("PPO", {"policy_kwargs": {**RELU, "net_arch": {"pi": [32, 16], "vf": [24]}}}),
    "a2c": ("A2C", {}),
    "sac": ("SAC", {"policy_kwargs": {"net_arch": {"pi": [32, 16], "qf": [24, 8]}}}),
    "tanh": ("SAC", {"policy_kwargs": {"activation_fn": nn.Tanh, "net_arch": [32]}}),
}
Import = Callable[..., Run]


@pytest.fixture(scope="module")
def venv() -> Any:
    return make_vec_env("clrl/arm-reach-v0", 2)


@pytest.fixture(scope="module", autouse=True)
def less_to_see() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sb3_import, "_SEEN", 4096)
        yield


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Import a model into `tmp_path / "run"`."""
    return into(tmp_path)


def into(folder: Path) -> Import:
    def run(model: Any, skill: str = SKILL, **options: Any) -> Run:
        model.save(folder / "model.zip")
        settings: Any = {"trust_pickle": True, "threads": 1, "quiet": True, "out": folder / "run"}
        return clrl.from_sb3(folder / "model.zip", skill, **settings | options)

    return run


@pytest.fixture(scope="module")
def pair(venv: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Run]]:
    """A model of a kind and the run that was made of it."""

    @cache
    def made(kind: str) -> tuple[Any, Run]:
        model = make(kind, venv)
        protect = ["ewc", "distill", "replay"]
        return model, into(tmp_path_factory.mktemp(kind))(model, protect=protect)

    return made


def make(kind: str, venv: Any) -> Any:
    name, options = KINDS[kind]
    model = getattr(stable_baselines3, name)("MlpPolicy", venv, seed=1, gamma=0.9, **options)
    with torch.no_grad():  # SB3's own begin so near to 0 that any two would agree
        for parameter in model.policy.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_it_acts_as_the_agent_in_the_file(kind: str, pair: Any) -> None:
    model, run = pair(kind)
    rows = np.random.default_rng(0).normal(size=(64, 23)).astype(np.float32)
    action = clrl.load(run.path).act(rows, skill="reach")
    np.testing.assert_allclose(action, model.predict(rows, deterministic=True)[0], atol=1e-5)
    assert np.ptp(action) > 0.5
    assert run.config.options["gamma"] == 0.9


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_its_score_is_that_of_the_agent_in_the_file(kind: str, pair: Any) -> None:
    model, run = pair(kind)
    result = run.retention()
    score = evaluate_skill(model, make_curriculum([SKILL]), "reach", threads=1)
    assert result.success[-1] == (score.rate,)
    assert result.returns[-1][0] == pytest.approx(score.returns.mean(), rel=1e-3)
    assert result.cost["updates"] == 0


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_its_protections_have_seen_it(kind: str, pair: Any) -> None:
    for protection in pair(kind)[1].agent().protections:
        kept = [x for x in tensors(protection.state_dict()) if x.is_floating_point()]
        assert any(x.any() for x in kept)
        assert all(x.isfinite().all() for x in kept)


def tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, dict | list | tuple):
        parts = state.values() if isinstance(state, dict) else state
        return [x for part in parts for x in tensors(part)]
    return [state] if isinstance(state, torch.Tensor) else []


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_statistics_of_vecnormalize_come_along(
    kind: str, venv: Any, imported: Import, tmp_path: Path
) -> None:
    normal: Any = VecNormalize(venv)
    normal.reset()
    for _ in range(50):
        normal.step(np.array([venv.action_space.sample() for _ in range(2)]))
    normal.save(str(tmp_path / "normal.pkl"))
    model = make(kind, venv)
    run = imported(model, vec_normalize=tmp_path / "normal.pkl")
    rows = np.random.default_rng(0).normal(size=(64, 23)).astype(np.float32)
    expected = model.predict(normal.normalize_obs(rows), deterministic=True)[0]
    action = clrl.load(run.path).act(rows, skill="reach")
    np.testing.assert_allclose(action, expected, atol=1e-4)
    assert run.agent().policy.features.count[0] == pytest.approx(normal.obs_rms.count)


def test_one_more_skill_is_learned_beside_it(venv: Any, imported: Import, tmp_path: Path) -> None:
    model = make("ppo", venv)
    moved = {}
    for strength in (1e-6, 100.0):
        run = imported(model, protect={"ewc": {"strength": strength}}, out=tmp_path / f"{strength}")
        more = clrl.adapt(run.path, "arm-press", steps=4096, quiet=True)
        assert more.retention().success[-2][0] == run.retention().success[-1][0]
        assert more.config.imported == run.config.imported
        rows = np.random.default_rng(0).normal(size=(64, 23)).astype(np.float32)
        before, after = (clrl.load(path).act(rows, skill="reach") for path in (run.path, more.path))
        moved[strength] = np.square(after - before).mean()
    assert moved[100.0] < 0.5 * moved[1e-6]


def test_a_run_says_where_it_came_from(venv: Any, imported: Import, tmp_path: Path) -> None:
    run = Run.open(imported(make("ppo", venv)).path)
    sha256 = hashlib.sha256((tmp_path / "model.zip").read_bytes()).hexdigest()
    assert run.config.imported == {"file": "model.zip", "sha256": sha256}


def refuse(imported: Import, tmp_path: Path, model: Any, match: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=match) as error:
        imported(model, **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("skill", ["Reacher-v5", "cw-push"])
def test_an_agent_of_another_skill_is_refused(
    skill: str, venv: Any, imported: Import, tmp_path: Path
) -> None:
    refuse(imported, tmp_path, make("ppo", venv), "trained on another skill", skill=skill)


@pytest.mark.parametrize("name", ["si", "packnet", "progressive", "compress"])
def test_protections_that_need_the_training_are_refused(
    name: str, venv: Any, imported: Import, tmp_path: Path
) -> None:
    refuse(imported, tmp_path, make("ppo", venv), "remembers how", protect=[name])


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("PPO", {"use_sde": True}, "gSDE"),
        ("PPO", {"policy_kwargs": {"activation_fn": nn.Softplus}}, "Softplus"),
        ("SAC", {"policy_kwargs": {"n_critics": 3}}, "has critic.qf2.0.bias, which clrl's lacks"),
        ("PPO", {"policy_kwargs": {"net_arch": []}}, "of one layer or more"),
        ("TD3", {}, "neither PPO nor SAC"),
    ],
)
def test_agents_that_ours_are_not_are_refused(
    name: str,
    options: dict[str, Any],
    match: str,
    venv: Any,
    imported: Import,
    tmp_path: Path,
) -> None:
    model = getattr(stable_baselines3, name)("MlpPolicy", venv, **options)
    refuse(imported, tmp_path, model, match)


def test_policies_that_are_not_sb3s_are_refused(
    venv: Any, imported: Import, tmp_path: Path, pair: Any
) -> None:
    class Scaled(ActorCriticPolicy):
        def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
            return super().extract_features(2.0 * obs, features_extractor)

    refuse(imported, tmp_path, stable_baselines3.PPO(Scaled, venv), "has a policy of 'tests")
    refuse(imported, tmp_path, pair("ppo")[1].agent(), "of clrl's own")


def test_a_skill_may_have_options_and_a_name_goes_without_zip(
    venv: Any, imported: Import, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = imported(make("ppo", venv), variant={"payload": 2.0}, out=tmp_path / "first")
    assert run.curriculum.to_json()["skills"][0]["payload"] == 2.0
    assert "% of reach; was it trained on another skill" in caplog.text
    options: Any = {"trust_pickle": True, "threads": 1, "quiet": True, "out": tmp_path / "second"}
    assert clrl.from_sb3(tmp_path / "model", SKILL, **options).config.imported is not None


def test_sigterm_leaves_nothing_half_written(venv: Any, tmp_path: Path) -> None:
    make("sac", venv).save(tmp_path / "model.zip")
    asked = ["import", "model.zip", "--skill", SKILL, "--trust-pickle", "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "clrl", *asked], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(600):
            if list(tmp_path.glob("runs/.tmp-*")):
                break
            time.sleep(0.1)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said == "clrl: stopped\n"
    assert not list((tmp_path / "runs").iterdir())


def test_other_ways_to_normalise_are_refused(venv: Any, imported: Import, tmp_path: Path) -> None:
    model = make("ppo", venv)
    changes: list[dict[str, Any]] = [{"clip_obs": 5.0}, {"norm_obs": False}, {"epsilon": 1e-3}]
    for options in changes:
        path = tmp_path / "normal.pkl"
        VecNormalize(venv, **options).save(str(path))
        refuse(imported, tmp_path, model, "with clip_obs 10|leave it out", vec_normalize=path)


def test_a_directory_that_is_there_stays(venv: Any, imported: Import, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError, match="choose another --out"):
        imported(make("ppo", venv))
    assert not list((tmp_path / "run").iterdir())
