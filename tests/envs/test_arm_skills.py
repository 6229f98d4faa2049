"""The arm's skills keep their contract with Gymnasium, SB3 and their own documentation."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from scipy import stats
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import clrl  # noqa: F401  registers the skills
from clrl.envs import CURRICULA, SKILLS, make_skill
from clrl.envs.counter_random import uniform
from clrl.envs.episodes import Episodes
from clrl.envs.skill import Skill


def arm(name: str) -> Skill:
    skill = make_skill(name)
    assert isinstance(skill, Skill)
    return skill


ARM = [name for name in SKILLS if name.startswith("arm-")]


@pytest.mark.parametrize("name", ARM)
def test_both_checkers_pass_without_a_warning(name: str) -> None:
    env = gym.make(f"clrl/{name}-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium's own advice about wrappers and unbounded observations is not about the env
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)


@pytest.mark.parametrize("name", ARM)
def test_reward_terms_sum_to_a_reward_between_0_and_1(name: str) -> None:
    episodes = Episodes(arm(name), 32, threads=1)
    episodes.seed(0)
    episodes.reset()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        step = episodes.step(2 * torch.rand(32, 4, generator=generator) - 1)
        assert torch.isfinite(step.observation).all()
        assert step.reward.min() >= 0.0
        assert step.reward.max() <= 1.0
        assert torch.equal(step.reward, torch.stack(list(step.terms.values())).sum(dim=0))


@pytest.mark.parametrize("name", ARM)
def test_nothing_is_accomplished_at_the_start_or_by_standing_still(name: str) -> None:
    episodes = Episodes(arm(name), 100, threads=1)
    episodes.seed(7)
    episodes.reset()
    still = torch.zeros(100, 4)
    for _ in range(20):
        episodes.step(still)
    assert episodes.succeeded.float().mean() <= 0.05


@pytest.mark.parametrize("name", ARM)
def test_an_episode_depends_on_its_seed_alone(name: str) -> None:
    many, one = Episodes(arm(name), 9, threads=1), Episodes(arm(name), 1, threads=1)
    many.seed(100)
    one.seed(104)
    assert torch.equal(many.reset()[4], one.reset()[0])
    mask = torch.zeros(9, dtype=torch.bool)
    mask[4] = True
    assert torch.equal(many.reset(mask)[4], one.reset()[0])


def test_the_vector_env_agrees_with_single_ones() -> None:
    vector: Any = gym.make_vec("clrl/arm-push-v0", num_envs=3)
    singles = [gym.make("clrl/arm-push-v0") for _ in range(3)]
    observations, _ = vector.reset(seed=5)
    for i, env in enumerate(singles):
        assert np.array_equal(observations[i], env.reset(seed=5 + i)[0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
        observations, rewards, _, _, infos = vector.step(actions)
        for i, env in enumerate(singles):
            observation, reward, _, _, info = env.step(actions[i])
            assert np.array_equal(observations[i], observation)
            assert rewards[i] == reward
            assert infos["at_goal"][i] == info["at_goal"]


def test_the_vector_env_resets_in_the_step_that_ends_an_episode() -> None:
    vector: Any = gym.make_vec("clrl/arm-reach-v0", num_envs=2)
    vector.reset(seed=0)
    for _ in range(100):
        observation, _, terminated, truncated, infos = vector.step(np.zeros((2, 4), np.float32))
    assert truncated.all()
    assert not terminated.any()
    assert not np.array_equal(infos["final_obs"], observation)


@pytest.mark.parametrize(
    ("stagger", "clocks"),
    [
        (False, [0, 0, 0, 0, 0, 0]),
        (True, [0, 2, 4, 6, 8, 10]),
        (3, [0, 0, 4, 4, 8, 8]),
        (8, [0, 2, 4, 6, 8, 10]),
    ],
)
def test_first_episodes_start_together_apart_or_in_groups(stagger: Any, clocks: list[int]) -> None:
    env: Any = make_skill("arm-reach", horizon=12).vec_env(6, threads=1, stagger=stagger)
    env.reset()
    assert env.episodes.elapsed.tolist() == clocks


def test_same_seed_same_rollout_other_seed_another() -> None:
    env = gym.make("clrl/arm-dial-v0")
    first, again, other = (env.reset(seed=s)[0] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(env.reset()[0], other)  # without a seed the next episode


def test_the_hand_stays_upright_in_its_workspace_and_joints_in_range() -> None:
    skill = arm("arm-reach")
    episodes = Episodes(skill, 16, threads=1)
    episodes.seed(0)
    episodes.reset()
    generator = torch.Generator().manual_seed(0)
    push = 2 * torch.rand(16, 4, generator=generator) - 1
    for _ in range(60):
        episodes.step(push)
    world = episodes.world
    hand = world.sensor("hand_position")
    assert (hand > torch.tensor([0.28, -0.34, 0.0])).all()
    assert (hand < torch.tensor([0.62, 0.34, 0.40])).all()
    limits = torch.as_tensor(skill.model.jnt_range[:6])
    joints = world.field("qpos")[:, :6]
    assert (joints >= limits[:, 0] - 0.02).all()
    assert (joints <= limits[:, 1] + 0.02).all()


def test_a_full_action_moves_the_hand_that_way() -> None:
    episodes = Episodes(arm("arm-reach"), 3, threads=1)
    episodes.seed(0)
    before = episodes.reset()[:, :3]
    action = torch.cat((0.5 * torch.eye(3), torch.zeros(3, 1)), dim=1)
    for _ in range(5):
        after = episodes.step(action).observation[:, :3]
    moved = after - before
    assert (moved.diagonal() > 0.02).all()
    assert ((moved - torch.diag(moved.diagonal())).abs() < 0.01).all()


def test_starts_follow_seeds_states_and_counts_whatever_was_drawn_before() -> None:
    skill: Any = make_skill("arm-push")
    used, new = Episodes(skill, 3), Episodes(skill, 3)
    for episodes in (used, new):
        episodes.seed(7)
        episodes.reset()
    before = new.state()
    used.reset(torch.tensor([False, True, False]))
    used.reset(torch.tensor([True, True, False]))
    used.load_state(before)
    assert torch.equal(used.reset(), new.reset())
    used.seed(8)
    new.seed(torch.tensor([8, 9, 10]))
    assert torch.equal(used.reset(), new.reset())
    for mask in ([True, False, False], [True, False, True], [True, True, True]):
        later = used.reset(torch.tensor(mask))
    for _ in range(3):
        first = new.reset(torch.tensor([True, False, False]))
    assert torch.equal(later[0], first[0])
    assert torch.equal(later[1], new.reset(torch.tensor([False, True, False]))[1])


def test_counter_random_numbers_are_uniform_and_independent() -> None:
    seeds = torch.arange(2000)
    draws = uniform(seeds, torch.zeros(2000, dtype=torch.int64), 4).numpy()
    later = uniform(seeds, torch.ones(2000, dtype=torch.int64), 4).numpy()
    for column in range(4):
        assert stats.kstest(draws[:, column], "uniform").pvalue > 1e-3
    everything = np.concatenate((draws, later), axis=1)
    correlation = np.corrcoef(everything, rowvar=False) - np.eye(8)
    assert np.abs(correlation).max() < 0.1


def test_goals_and_objects_fill_their_ranges() -> None:
    episodes = Episodes(arm("arm-push"), 500, threads=1)
    episodes.seed(0)
    observation = episodes.reset()
    puck, goal = observation[:, 7:9], observation[:, 17:19]
    assert puck.min(dim=0).values.tolist() == pytest.approx([0.40, -0.08], abs=0.005)
    assert puck.max(dim=0).values.tolist() == pytest.approx([0.49, 0.08], abs=0.005)
    distance = (goal - puck).norm(dim=1)
    assert distance.min() > 0.079
    assert distance.max() < 0.161


def test_curricula_name_known_skills() -> None:
    assert all(set(skills) <= set(SKILLS) for skills in CURRICULA.values())


@pytest.mark.parametrize("name", ARM)
def test_the_mirrored_scene_does_in_the_mirror_what_the_plain_one_does(name: str) -> None:
    mirror = torch.ones(23)
    mirror[[1, 4, 8, 11, 14, 18, 21]] = -1.0  # what points along y
    scenes = [Episodes(make_skill(name, mirrored=on), 8) for on in (False, True)]  # type: ignore[arg-type]
    seen = []
    for scene in scenes:
        scene.seed(3)
        seen.append(scene.reset())
    assert torch.allclose(seen[0] * mirror, seen[1], atol=1e-6)
    action = torch.zeros(8, 4)
    action[:, :3] = torch.tensor([0.6, -0.4, -0.2])
    for _ in range(10):
        plain = scenes[0].step(action)
        other = scenes[1].step(action * torch.tensor([1.0, -1.0, 1.0, 1.0]))
    assert torch.allclose(plain.observation * mirror, other.observation, atol=1e-4)
    assert torch.allclose(plain.reward, other.reward, atol=1e-4)


def test_a_payload_hangs_at_the_hand_and_friction_is_scaled() -> None:
    plain, other = (
        make_skill("arm-push", **chosen).model  # type: ignore[attr-defined]
        for chosen in ({}, {"payload": 2, "friction": 3})
    )
    assert other.body("hand").subtreemass[0] == pytest.approx(plain.body("hand").subtreemass[0] + 2)
    assert other.body_gravcomp[other.body("payload").id] == 0.0
    for name in ("puck", "table"):
        assert other.geom(name).friction[0] == pytest.approx(3 * plain.geom(name).friction[0])
    assert (other.geom("left_finger").friction == plain.geom("left_finger").friction).all()
    for name in ("dial", "drawer"):
        assert other.joint(name).frictionloss == pytest.approx(3 * plain.joint(name).frictionloss)


@pytest.mark.parametrize(
    "chosen", [{"payload": 5}, {"payload": True}, {"friction": 0}, {"mirrored": 1}]
)
def test_a_variant_out_of_range_is_refused(chosen: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(chosen))} must be"):
        make_skill("arm-push", **chosen)


def test_gymnasium_takes_a_skills_options_and_refuses_what_is_no_action() -> None:
    env = gym.make("clrl/arm-push-v0", payload=3.0, horizon=50).unwrapped
    assert env.skill.spec == {"id": "arm-push", "payload": 3.0, "horizon": 50}  # type: ignore[attr-defined]
    env.reset(seed=0)
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        env.step(np.full(4, np.nan, np.float32))
    with pytest.raises(ValueError, match=r"actions must have shape \(4,\), got \(3,\)"):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(
        ValueError, match="has no option 'paylod'; it takes payload, friction, mirrored, name"
    ):
        gym.make("clrl/arm-push-v0", paylod=3.0)
    vector: Any = gym.make_vec("clrl/arm-push-v0", 2, vectorization_mode="vector_entry_point")
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        vector.step(np.full((2, 4), np.nan, np.float32))
