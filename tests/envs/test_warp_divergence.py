"""Steps that diverge on mujoco_warp are taken back, and told of where the code waits anyway."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clrl.envs import Curriculum, make_world
from clrl.envs.arm_skills import Push, Reach
from clrl.envs.world import World
from clrl.eval.evaluator import evaluate_skill
from tests.envs.test_divergence import STEPS, Bursts, actions

pytest.importorskip("mujoco_warp")
STILL = np.zeros((3, 4), np.float32)


class Flashes(Reach):
    """A force no integrator survives in world 1 of so many, at every so many steps."""

    name = "flashes"

    def __init__(self, worlds: int, every: int = 10, **chosen: Any) -> None:
        super().__init__(**chosen)
        self.worlds, self.every = worlds, every
        self.calls = 0

    def act(self, world: World, action: torch.Tensor) -> None:
        super().act(world, action)
        if world.n == self.worlds:
            self.calls += 1
            world.field("xfrc_applied")[1] = 0.0 if self.calls % self.every else 1e18

    @property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"worlds": self.worlds, "every": self.every}


def envs(*skills: Any, n: int = 3) -> tuple[Any, ...]:
    made = tuple(skill.vec_env(n, seed=3, device="warp:cpu") for skill in skills)
    for env in made:
        env.reset()
    return made


def test_worlds_that_diverge_stand_still_and_the_others_do_not_notice() -> None:
    calm, bursts = envs(Reach(), Bursts(), n=8)
    others, struck = [0, 2, 3, 4, 6, 7], [1, 5]
    world = bursts.episodes.world
    for step, action in enumerate(actions(8, 20)):
        stood = [world.field(name)[struck].clone() for name in ("time", "qpos", "qvel", "xpos")]
        wanted, got = calm.step(action), bursts.step(action)
        for a, b in zip(wanted[:2], got[:2], strict=True):
            assert np.array_equal(a[others], b[others])
            assert np.isfinite(b).all()
        assert torch.equal(calm.episodes.world.state()[others], world.state()[others])
        assert not got[2].any()
        assert world.diverged.tolist() == [step >= STEPS and i in struck for i in range(8)]
        stands = [
            torch.equal(before, world.field(name)[struck])
            for before, name in zip(stood, ("time", "qpos", "qvel", "xpos"), strict=True)
        ]
        assert stands == [step >= STEPS] * 4
    assert bursts.divergences.count == 0  # nobody has waited for the device
    bursts.check()
    assert bursts.divergences.count == 2 * (20 - STEPS)
    assert [(d.world, d.elapsed) for d in bursts.divergences.kept] == [
        (1, STEPS + 1),
        (5, STEPS + 1),
    ]
    calm.check()
    bursts.check()
    assert (calm.divergences.count, bursts.divergences.count) == (0, 2 * (20 - STEPS))


def test_a_reset_tells_of_what_came_before() -> None:
    (env,) = envs(Bursts(horizon=STEPS + 2))
    for action in actions(3, STEPS + 2):
        done = env.step(action)[2]
    assert done.all()
    assert env.divergences.count == 2
    (kept,) = env.divergences.take()
    assert (kept.world, kept.elapsed) == (1, STEPS + 1)
    assert (kept.facts["seed"], kept.facts["episode"]) == (4, 1)


def test_a_world_goes_on_as_one_that_never_diverged() -> None:
    env, other = envs(Flashes(3), Flashes(3, every=1000))
    for step, action in enumerate(actions(3, 19)):
        seen = env.step(action)[0]
        if step == 9:
            assert env.episodes.world.diverged.tolist() == [False, True, False]
            other.set_state(env.get_state())
        elif step > 9:
            assert np.array_equal(seen, other.step(action)[0])
            assert torch.equal(env.episodes.world.state(), other.episodes.world.state())
    env.check()
    assert env.divergences.count == 1


def test_what_led_there_can_be_done_again() -> None:
    (env,) = envs(Push())  # with parameters of its own in every world
    before = None
    for i, action in enumerate(actions(3, 6)):
        if i == 5:
            env.episodes.world.field("xfrc_applied")[1] = 1e18
            before, last = env.episodes.world.state(), torch.from_numpy(action)
        env.step(action)
    env.check()
    (kept,) = env.divergences.take()
    assert torch.equal(kept.facts["action"], last[1])
    changed = kept.facts["state"] != before[1]  # type: ignore[index]
    ctrl = env.episodes.world.field("ctrl").shape[1]
    assert 0 < int(changed.sum()) <= ctrl  # the action's controls alone
    (again,) = envs(Push())
    again.episodes.world.load_state(kept.facts["state"].repeat(3, 1))
    again.step(kept.facts["action"].repeat(3, 1).numpy())
    again.check()
    assert again.divergences.count == 3


def test_only_a_few_are_kept() -> None:
    (env,) = envs(Bursts(), n=24)
    for action in actions(24, STEPS + 1):
        env.step(action)
    env.check()
    assert env.divergences.count == 6
    assert len(env.divergences.take()) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e12])
@pytest.mark.parametrize("field", ["qpos", "qvel", "ctrl"])
def test_what_cannot_be_is_never_simulated_in_silence(field: str, value: float) -> None:
    class Broken(Push):
        broken = True

        def act(self, world: World, action: torch.Tensor) -> None:
            super().act(world, action)
            if self.broken:
                world.field(field)[1, 0] = value

    skill = Broken()
    env, calm = envs(skill, Push())
    goal = env.episodes.world.field("userdata").clone()
    for _ in range(3):
        got, wanted = env.step(STILL), calm.step(STILL)
        skill.broken = False
        for a, b in zip(got[:2], wanted[:2], strict=True):
            assert np.isfinite(a).all()
            assert np.array_equal(a[[0, 2]], b[[0, 2]])
    env.check()
    clamped = field == "ctrl" and value == 1e12
    assert env.divergences.count == (not clamped)
    assert torch.equal(env.episodes.world.field("userdata"), goal)


@pytest.mark.parametrize("force", [1e12, 1e18, 1e30, float("inf"), float("nan")])
def test_no_force_is_too_large_to_be_noticed(force: float) -> None:
    """At 1e18 float32 overflows in the solver, which then gives the accelerations before."""
    world = make_world(Reach().model, 2, "warp:cpu")
    world.step(4)
    world.field("xfrc_applied")[1] = force
    world.step(4)
    assert world.diverged is not None
    assert world.diverged.tolist() == [False, True]


def test_a_world_that_should_not_move_does_not_count() -> None:
    world = make_world(Reach().model, 3, "warp:cpu")
    world.field("xfrc_applied")[:2] = 1e18
    before = world.state()
    world.step(4, torch.tensor([True, False, True]))
    assert (world.state() != before).any(dim=1).tolist() == [False, False, True]
    assert world.diverged is not None
    assert world.diverged.tolist() == [True, False, False]
    taken = world.taken_back()
    assert taken is not None
    assert (taken.worlds.tolist(), taken.counts.tolist(), taken.ago.tolist()) == ([0], [1], [0])
    assert torch.equal(taken.states, before[:1])
    assert world.taken_back() is None
    world.step(4)
    assert world.diverged.tolist() == [True, True, False]


class Asking(TorchDispatchMode):
    """Notes operations whose result's value or shape must be known on the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.asked.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_step_that_diverges_waits_for_nothing() -> None:
    (env,) = envs(Flashes(3, every=1))
    env.episodes.step(torch.zeros(3, 4))
    with Asking() as mode:
        env.episodes.step(torch.zeros(3, 4))
    assert mode.asked == []
    with Asking() as mode:
        env.check()
    assert mode.asked
    assert env.divergences.count == 2


def test_an_evaluation_says_how_often_it_was(caplog: pytest.LogCaptureFixture) -> None:
    def still(observation: Any) -> Any:
        return np.zeros((len(observation), 4), np.float32)

    curriculum = Curriculum("one", [Bursts(horizon=STEPS + 3)])
    score = evaluate_skill(still, curriculum, "bursts", episodes=3, device="warp:cpu")
    assert np.isfinite(score.returns).all()
    assert "physics diverged in 3 control steps" in caplog.text
