"""Learning in tensors, with Warp's CPU device in the GPU's place: the ordinary way's results."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

import clrl
from clrl import checkpoint, divergence
from clrl.agents import (
    ContinualPPO,
    ContinualSAC,
    NumericalError,
    Protection,
    guard,
    make_protection,
)
from clrl.agents.buffer import COLUMNS
from clrl.agents.tensor_env import tensor_env
from clrl.envs import Curriculum, make_skill
from clrl.packing import pack, unpack
from clrl.run import Run
from tests.envs.test_warp_divergence import Flashes

pytest.importorskip("mujoco_warp")
N, HORIZON = 6, 10
ROLLOUT = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")
ESTIMATES = ("advantages", "returns")
NETS = {"net_arch": [16, 16], "normalize": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 12, "batch_size": 24, "n_epochs": 2, "gamma": 0.9},
    "sac": {"learning_starts": 0, "batch_size": 16, "buffer_size": 600, "train_freq": 3},
}
AGENTS: dict[str, Any] = {"ppo": ContinualPPO, "sac": ContinualSAC}


@pytest.fixture(scope="module")
def worlds() -> Any:
    """Worlds that all tests of a process share; the first step compiles."""
    return make_skill("arm-reach", horizon=HORIZON).vec_env(N, device="warp:cpu", stagger=3)


@pytest.fixture
def env(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The worlds, seeded, which refuse to step in arrays."""
    worlds.seed(5)

    def refuse(*_: Any) -> None:
        raise AssertionError("stepped in arrays")

    monkeypatch.setattr(worlds, "step", refuse)
    monkeypatch.setattr(worlds, "step_wait", refuse)
    yield worlds
    worlds.__dict__.pop("step_tensor", None)


@pytest.fixture(params=["ppo", "sac"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both algorithms."""
    name: str = request.param
    return name


def make(kind: str, env: Any, **options: Any) -> Any:
    settings = {**OPTIONS[kind], "policy_kwargs": dict(NETS), "seed": 0, "device": "cpu"}
    agent = AGENTS[kind]("MlpPolicy", env, **settings | options)
    env.seed(5)  # an agent seeds its environment
    return agent


class Watch(BaseCallback):
    """What a callback sees, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.seen: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}

    def _on_rollout_start(self) -> None:
        self.calls.append("start")
        self.logged |= self.model.logger.name_to_value

    def _on_step(self) -> bool:
        self.calls.append("step")
        self.seen = dict(self.locals)
        return True

    def _on_rollout_end(self) -> None:
        self.calls.append("end")


class Poison(Protection):
    """Spoils a gradient once it is armed."""

    armed = False

    def update(self, learner: Any) -> None:
        if self.armed:
            next(iter(learner.policy.parameters())).grad.fill_(float("nan"))


def learned(kind: str, env: Any, steps: int = 2 * 12 * N, **options: Any) -> tuple[Any, Watch]:
    agent, watch = make(kind, env, **options), Watch()
    agent.learn(steps, callback=watch, log_interval=1)
    return agent, watch


@pytest.fixture
def pair(kind: str, worlds: Any, env: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two agents and what their callbacks saw: in tensors, and the ordinary way."""
    tensors = learned(kind, env)
    monkeypatch.undo()
    monkeypatch.setattr(worlds, "device", "cpu")
    return tensors, learned(kind, worlds)


def test_what_is_learned_is_what_the_ordinary_way_learns(kind: str, pair: Any) -> None:
    (ours, watch), (ordinary, other) = pair
    names = ROLLOUT + ESTIMATES if kind == "ppo" else COLUMNS
    mine, theirs = (
        getattr(a, f"{'rollout' if kind == 'ppo' else 'replay'}_buffer") for a, _ in pair
    )
    stored = slice(None if kind == "ppo" else mine.pos)
    assert mine.pos == theirs.pos
    for name in names:
        a, b = getattr(mine, name)[stored], torch.as_tensor(getattr(theirs, name)[stored])
        assert isinstance(a, Tensor)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(ours.policy.parameters(), ordinary.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.policy.features.mean, ordinary.policy.features.mean)
    assert watch.calls == other.calls


def test_episodes_and_logs_are_those_of_the_ordinary_way(pair: Any) -> None:
    (ours, watch), (ordinary, other) = pair
    assert len(ours.ep_info_buffer) >= N
    for key in ("r", "l"):
        mine, theirs = ([e[key] for e in a.ep_info_buffer] for a in (ours, ordinary))
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert list(ours.ep_success_buffer) == list(ordinary.ep_success_buffer)
    assert {*watch.logged, *ours.logger.name_to_value} >= set(other.logged) - {"time/iterations"}
    assert any(key.startswith("train/") for key in {*other.logged, *ordinary.logger.name_to_value})


def test_a_callback_sees_tensors_and_can_stop(kind: str, env: Any) -> None:
    agent, watch = learned(kind, env)
    per_rollout = agent.n_steps if kind == "ppo" else 3
    assert watch.calls[: per_rollout + 2] == ["start", *["step"] * per_rollout, "end"]
    assert all(isinstance(watch.seen[name], Tensor) for name in ("new_obs", "rewards", "actions"))
    assert watch.seen["dones"].dtype == np.bool_
    assert len(watch.seen["infos"]) == 0
    stopped = make(kind, env)
    stopped.learn(600, callback=lambda *_: stopped.num_timesteps < 2 * N)
    assert stopped.num_timesteps == 2 * N


def test_a_rollout_can_be_cut_into_batches_by_sb3(env: Any) -> None:
    agent, _ = learned("ppo", env)
    batches = list(agent.rollout_buffer.get(24))
    assert sum(len(batch.observations) for batch in batches) == 12 * N
    assert {batch.advantages.shape for batch in batches} == {(24,)}


def test_protections_guard_skills_learned_in_tensors(kind: str, env: Any) -> None:
    protect = [make_protection(name) for name in ("ewc", "distill", "replay")]
    agent = make(kind, env, protect=protect)
    for name in ("one", "two"):
        agent.begin_skill(name, env, 2 * 12 * N)
        agent.learn(2 * 12 * N, reset_num_timesteps=False)
        agent.end_skill()
    assert len(protect[2].reservoirs) == 2  # type: ignore[attr-defined]
    assert len(protect[1].memory) == 2  # type: ignore[attr-defined]
    assert agent.protection_seconds > 0.0


@pytest.mark.parametrize("explore", ["random", "best-head"])
def test_a_warm_up_acts_within_bounds(explore: str, env: Any) -> None:
    agent = make("sac", env, explore=explore, learning_starts=6 * N)
    for name in ("one", "two"):
        agent.begin_skill(name, env)
        agent.learn(6 * N, reset_num_timesteps=False)
    actions = agent.replay_buffer.actions[: agent.replay_buffer.pos]
    assert len(actions) == 6
    assert 0.5 < float(actions.abs().max()) <= 1.0
    assert float(actions.std()) > 0.2
    assert agent._n_updates == 0


def test_a_number_that_is_not_finite_stops_the_rollout_it_came_in(kind: str, env: Any) -> None:
    agent = make(kind, env)
    agent.begin_skill("reach")
    agent.learn(12 * N)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    plain = env.step_tensor

    def poisoned(action: Tensor) -> Any:
        step, following = plain(action)
        return step, following * torch.nan

    env.step_tensor = poisoned
    end = agent.num_timesteps + N * (agent.n_steps if kind == "ppo" else 3)
    with pytest.raises(
        NumericalError,
        match=f"skill 'reach': observation is not finite in the rollout that ended at step {end};",
    ):
        agent.learn(24 * N, reset_num_timesteps=False)
    after = agent.policy.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_bad_gradient_on_a_device_is_told_at_the_end_of_training(
    kind: str, env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "on_device", lambda tensor: True)
    poison = Poison()
    agent = make(kind, env, protect=[poison])
    agent.begin_skill("reach")
    agent.learn(12 * N)  # nothing to tell
    updates, poison.armed = agent._n_updates, True
    with pytest.raises(NumericalError, match=r"skill 'reach': gradient of the .* is not finite"):
        agent.learn(12 * N, reset_num_timesteps=False)
    assert agent._n_updates > updates  # not at the update itself
    assert agent.unread.read() is None


def test_what_a_wrapper_changes_is_not_passed_by(worlds: Any) -> None:
    assert tensor_env(VecNormalize(worlds)) is None
    assert tensor_env(worlds) is not None


def test_a_run_learns_in_tensors_and_resumes(tmp_path: Path, monkeypatch: Any, kind: str) -> None:
    options = {key: value for key, value in OPTIONS[kind].items() if key != "learning_starts"}
    options |= {"learning_starts": 60} if kind == "sac" else {}
    arguments: dict[str, Any] = {
        "steps_per_skill": 288,
        "horizon": HORIZON,
        "worlds": N,
        "episodes": 2,
        "device": "warp:cpu",
        "quiet": True,
        **options,
    }
    pair = ["arm-reach", "arm-press"]
    whole = clrl.train(pair, kind, out=tmp_path / "whole", **arguments)
    save, saved = Run.save_checkpoint, []

    def save_some(run: Run, step: int, *rest: Any) -> None:
        save(run, step, *rest)
        saved.append(step)
        if step >= 144 and max(saved[:-1]) < 144:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_checkpoint", save_some)
    with pytest.raises(KeyboardInterrupt):
        clrl.train(pair, kind, out=tmp_path / "cut", checkpoint_seconds=0.0, **arguments)
    assert 0 < saved[-1] < 288
    resumed = clrl.resume(tmp_path / "cut", quiet=True)
    states = [_final(run) for run in (whole, resumed)]
    for name, value in states[0]["policy"].items():
        torch.testing.assert_close(states[1]["policy"][name], value, rtol=1e-4, atol=1e-5)
    assert resumed.retention().success == whole.retention().success


def flashing(kind: str, out: Path) -> tuple[Run, Flashes]:
    """A training whose physics diverges at every tenth step of one world."""
    skill = Flashes(worlds=N, horizon=HORIZON)
    options = {key: value for key, value in OPTIONS[kind].items() if key != "learning_starts"}
    options |= {"steps_per_skill": 288, "worlds": N, "episodes": 2}
    curriculum = Curriculum("flashes", [skill])
    return clrl.train(curriculum, kind, out=out, device="warp:cpu", quiet=True, **options), skill


def test_a_training_outlives_a_few_divergences(kind: str, tmp_path: Path) -> None:
    run, skill = flashing(kind, tmp_path / "run")
    wanted = skill.calls // skill.every
    assert wanted >= 4
    rows = csv.DictReader((run.path / "progress.csv").read_text().splitlines())
    counts = [int(row["env/diverged"]) for row in rows if row.get("env/diverged")]
    assert counts == sorted(counts)
    assert counts[-1] == wanted
    said = sorted((run.path / "diverged").glob("*.json"))
    assert 0 < len(said) <= wanted
    for path in said:
        facts = json.loads(path.read_text())
        assert facts["world"] == 1
        assert 1 <= facts["elapsed"] <= HORIZON
        assert {"state", "action"} <= load_file(path.with_suffix(".safetensors")).keys()
    policy = _final(run)["policy"]
    assert all(bool(value.isfinite().all()) for value in policy.values())


def test_more_divergences_than_are_borne_stop_a_training(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "MOST", 2)
    with pytest.raises(NumericalError, match="physics diverged 3 times within") as found:
        flashing(kind, tmp_path / "run")
    assert "\n" not in str(found.value)
    assert str(found.value).endswith("training stopped")
    assert list((tmp_path / "run" / "diverged").glob("*.json"))


def _final(run: Run) -> dict[str, Any]:
    path = checkpoint.newest_valid(run.checkpoints)
    assert path is not None
    state: dict[str, Any] = checkpoint.read(path)[0]["agent"]
    return state


def test_an_agent_that_learned_in_tensors_is_saved_and_learns_on(
    kind: str, env: Any, tmp_path: Path
) -> None:
    agent, _ = learned(kind, env)
    agent.save(tmp_path / "agent.zip")
    again = AGENTS[kind].load(tmp_path / "agent.zip", env, device="cpu", trust_pickle=True)
    observation = np.zeros((1, *env.observation_space.shape), np.float32)
    actions = [a.predict(observation, deterministic=True)[0] for a in (agent, again)]
    np.testing.assert_array_equal(*actions)
    again.learn(12 * N, reset_num_timesteps=False)
    assert again.num_timesteps == agent.num_timesteps + 12 * N


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_two_skills_and_goes_on_from_a_state(kind: str) -> None:
    def build() -> Any:
        protect = [make_protection(name) for name in ("ewc", "distill", "replay")]
        return make(kind, gpu, device="cuda", protect=protect)

    gpu = make_skill("arm-reach", horizon=HORIZON).vec_env(N, device="cuda", stagger=3)
    agent = build()
    for name in ("one", "two"):
        agent.begin_skill(name, gpu, 2 * 12 * N)
        agent.learn(2 * 12 * N, reset_num_timesteps=False)
        agent.end_skill()
    assert all(column.is_cuda for column in agent.fresh().values())
    again = build()
    again.load_train_state(unpack(*pack(agent.train_state())))
    again.learn(2 * 12 * N, reset_num_timesteps=False)
    assert all(p.is_cuda and bool(p.isfinite().all()) for p in again.policy.parameters())
