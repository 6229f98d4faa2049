"""Meta-World's own classes as the judge of ours."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch

from clrl.envs.catalog import make_skill
from clrl.envs.counter_random import uniform
from clrl.envs.episodes import Episodes
from clrl.envs.sawyer import SawyerSkill

HORIZON = 200
APART = 1e-9
ELSEWHERE = 1e-6  # of first observations: Meta-World's arm came to rest against a fixture
ACTED = ("mocap_pos", "ctrl")  # what an action sets
STATE = ("qpos", "qvel", "qacc_warmstart", *ACTED)  # after a control step


class _MendedIndex(np.ndarray):
    """Observations whose 6:9 is the handle at 11:14, which stick-pull's first reward means."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(slice(11, 14) if key == slice(6, 9) else key)


@dataclass
class Trace:
    """One episode of Meta-World's; arrays have its steps first."""

    drawn: np.ndarray
    first: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    success: np.ndarray
    state: dict[str, np.ndarray]


def oracle(name: str, version: str = "v2") -> Any:
    """Meta-World's environment, mended where it does not construct on today's MuJoCo."""
    base = import_module("metaworld.sawyer_xyz_env").SawyerMocapBase
    base.reset_mocap_welds = _reset_welds  # its weld data has 11 numbers, MuJoCo's has 12
    classes = import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS
    env = classes[f"{name}-v3"](reward_function_version=version)
    env._partially_observable = False
    env.__dict__.pop("sawyer_observation_space", None)
    env._set_task_called = True
    if (name, version) == ("stick-pull", "v1"):
        theirs = env.compute_reward
        env.compute_reward = lambda action, obs: theirs(action, obs.view(_MendedIndex))
    return env


class MetaWorldEnv(gym.Env[np.ndarray, np.ndarray]):
    """Meta-World's environment as Continual World uses it: a fresh start and goal every episode."""

    def __init__(self, name: str) -> None:
        self._env = oracle(name)
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True
        self._env.seed(0)
        self._steps, self._succeeded = 0, False
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (39,), np.float64)
        self.action_space = self._env.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw anew."""
        if seed is not None:
            self._env.seed(seed)
        self._steps, self._succeeded = 0, False
        observation: np.ndarray = self._env.reset()[0]
        return observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step; truncated after 200."""
        observation, reward, _, _, info = self._env.step(action)
        self._steps += 1
        self._succeeded |= bool(info["success"])
        ended = self._steps >= HORIZON
        return observation, float(reward), False, ended, {"is_success": self._succeeded}


def expert(name: str) -> Any:
    """Meta-World's scripted policy."""
    return import_module("metaworld.policies").ENV_POLICY_MAP[f"{name}-v3"]()


def draw(skill: SawyerSkill, rng: np.random.Generator) -> np.ndarray:
    """What a reset draws, by our own rule."""
    random = torch.from_numpy(rng.random((1, skill.draws)))
    return skill.drawn(random)[0].numpy()


def record(env: Any, drawn: np.ndarray, act: Any, steps: int = HORIZON) -> Trace:
    """Run Meta-World's environment from a drawn start."""
    env._freeze_rand_vec, env._last_rand_vec = True, drawn.copy()
    env.reset()
    env.reset()  # a second one sees no leftovers of another start
    first = _first(env)
    seen, observation = [], first
    for _ in range(steps):
        action = np.asarray(act(observation)).clip(-1, 1).astype(np.float32).astype(float)
        observation, reward, _, _, info = env.step(action)
        state = {key: getattr(env.data, key).copy() for key in STATE}
        seen.append((observation, reward, bool(info["success"]), state))
    return Trace(
        drawn,
        first,
        np.array([entry[0] for entry in seen]),
        np.array([entry[1] for entry in seen], dtype=float),
        np.array([entry[2] for entry in seen]),
        {key: np.array([entry[3][key] for entry in seen]) for key in seen[0][3]},
    )


@dataclass
class Judgement:
    """What ours says in the states of a trace, and where the next step takes them, `qpos`."""

    first: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    success: np.ndarray
    moved: np.ndarray


def judge(skill: SawyerSkill, trace: Trace) -> Judgement:
    """Set a trace's states into our worlds, one world a step, and read ours."""
    low, high = (np.array(corner) for corner in skill.ranges)
    span = np.where(high > low, high - low, 1.0)
    random = np.tile((trace.drawn - low) / span, skill.draws // len(low))
    n = len(trace.reward)
    episodes = Episodes(skill, n, threads=1)
    world, every = episodes.world, torch.ones(n, dtype=torch.bool)
    with torch.inference_mode():
        skill.reset(world, every, torch.from_numpy(random).expand(n, -1))
        world.forward()
        first = skill.observe(world)[0].numpy().copy()
        start = skill.frame(world)[:1].clone()
        for key, value in trace.state.items():
            world.field(key)[:] = torch.from_numpy(value)
        world.forward()
        frame = skill.frame(world)
        world.field("userdata")[:, 0] = 1.0
        world.field("userdata")[:, 1:19] = torch.cat((start, frame[:-1]))
        reward = torch.stack(list(skill.reward(world).values())).sum(dim=0)
        observation, success = skill.observe(world), skill.success(world).numpy().copy()
        for key in ACTED:
            world.field(key)[:-1] = torch.from_numpy(trace.state[key][1:])
        world.step(skill.substeps)
        moved = world.field("qpos").numpy()[:-1].copy()
        return Judgement(first, observation.numpy(), reward.numpy().copy(), success, moved)


def compare(name: str, version: str, episodes: int, seed: int = 0) -> dict[str, float]:
    """Differences between Meta-World's judgement and ours over expert and random episodes.

    Of `states`, the greatest difference of observation and reward; episodes that start `elsewhere`
    are counted apart, with their `reward_elsewhere`. Of all, the greatest of the first observation,
    and how often success differs. One control step on, the median difference of the coordinates,
    m and rad (`motion`), and the share that came apart by more than `APART` (`parted`), beside the
    share that does where Meta-World's own states are moved by their last bits (`shaken`).
    """
    rng = np.random.default_rng(seed)
    skill: Any = make_skill(f"cw-{name}", reward=version)
    env, policy = oracle(name, version), expert(name)
    sums = dict.fromkeys(("states", "elsewhere", "success", "solved"), 0.0)
    most = dict.fromkeys(("first", "observation", "reward", "reward_elsewhere"), 0.0)
    moved, shaken = [], []
    for episode in range(episodes):
        noise = (0.0, 0.3, 1.0)[episode % 3]

        def act(observation: np.ndarray, noise: float = noise) -> np.ndarray:
            random = rng.uniform(-1, 1, 4)
            return random if noise == 1.0 else policy.get_action(observation) + noise * random

        trace = record(env, draw(skill, rng), act)
        ours = judge(skill, trace)
        sums["solved"] += float(trace.success.any())
        sums["success"] += float((ours.success != trace.success).sum())
        gaps = {
            key: float(np.abs(getattr(ours, key) - getattr(trace, key)).max())
            for key in ("first", "observation", "reward")
        }
        if gaps["first"] > ELSEWHERE:
            sums["elsewhere"] += 1
            gaps = {"first": gaps["first"], "reward_elsewhere": gaps["reward"]}
        else:
            sums["states"] += len(trace.reward)
        most |= {key: max(most[key], gap) for key, gap in gaps.items()}
        ends = trace.state["qpos"][1:]
        moved.append(np.abs(ours.moved - ends).max(axis=1))
        shaken.append(np.abs(shake(env, trace, rng) - ends).max(axis=1))
    motion, alone = np.concatenate(moved), np.concatenate(shaken)
    shares = {"parted": (motion > APART).mean(), "shaken": (alone > APART).mean()}
    return sums | most | {"motion": np.median(motion)} | shares


def shake(env: Any, trace: Trace, rng: np.random.Generator) -> np.ndarray:
    """Where Meta-World's own states lead in one step when moved by 1e-15 of their size, `qpos`."""
    data = mujoco.MjData(env.model)
    data.mocap_quat[:] = env.data.mocap_quat
    ends = []
    for now in range(len(trace.reward) - 1):
        for key in STATE:
            getattr(data, key)[:] = trace.state[key][now + (key in ACTED)]
        data.qpos *= 1.0 + 1e-15 * rng.standard_normal(data.qpos.shape)
        mujoco.mj_step(env.model, data, env.frame_skip)
        ends.append(data.qpos.copy())
    return np.array(ends)


def expert_success(name: str, episodes: int, seed: int = 0, horizon: int = HORIZON) -> float:
    """Success of Meta-World's scripted policy in our batched worlds."""
    return float(_expert_run(name, episodes, seed, horizon)[0].mean())


def expert_pairs(
    name: str, episodes: int, seed: int = 0, horizon: int = HORIZON
) -> tuple[np.ndarray, np.ndarray]:
    """Success of the scripted policy in our worlds, and in Meta-World from the same starts."""
    ours, starts = _expert_run(name, episodes, seed, horizon)
    env, policy = oracle(name), expert(name)
    traces = [record(env, start, policy.get_action, horizon) for start in starts]
    return ours, np.array([trace.success.any() for trace in traces])


def _expert_run(name: str, episodes: int, seed: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    skill: Any = make_skill(f"cw-{name}", horizon=horizon)
    worlds, policy = Episodes(skill, episodes, threads=0), expert(name)
    worlds.seed(seed)
    seeds, first = torch.arange(episodes) + seed, torch.zeros(episodes, dtype=torch.int64)
    starts = skill.drawn(uniform(seeds, first, skill.draws)).numpy()
    observation = worlds.reset()
    for _ in range(horizon):
        actions = np.array([policy.get_action(row) for row in observation.double().numpy()])
        observation = worlds.step(torch.from_numpy(actions)).observation
    return worlds.succeeded.numpy().copy(), starts


def _first(env: Any) -> np.ndarray:
    """The first observation, refreshed: window-close's reset shows the window before it opens."""
    mujoco.mj_forward(env.model, env.data)
    env._prev_obs = env._get_curr_obs_combined_no_goal()
    observation: np.ndarray = env._get_obs()
    return observation


def _reset_welds(self: Any) -> None:
    for i, kind in enumerate(self.model.eq_type):
        if kind == 1:
            self.model.eq_data[i, :11] = (*[0.0] * 6, -1.0, 0.0, 0.0, 0.0, 5.0)
