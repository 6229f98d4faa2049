"""Worlds on mujoco_warp, on Warp's CPU device: the kernels and graphs that a GPU runs.

The first run on a machine compiles them.
"""

from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from clrl.envs import make_skill, make_world
from clrl.envs.episodes import Episodes
from clrl.envs.skill import Skill
from clrl.envs.world import CapacityError, World

pytest.importorskip("mujoco_warp")
N = 4
LOST = 5e-3  # what float32 loses over an episode without hard contacts, m and m/s
TWO = torch.tensor([True, False, True, False])


def skill_of(name: str) -> Skill:
    skill = make_skill(name)
    assert isinstance(skill, Skill)
    return skill


@pytest.fixture(scope="module")
def shared() -> World:
    """One arm for the tests that leave its parameters alone."""
    return make_world(skill_of("arm-reach").model, N, "warp:cpu")


@pytest.fixture
def arm(shared: World) -> Iterator[World]:
    shared.reset()
    shared.forward()
    yield shared
    shared.field("qvel").zero_()  # whatever a test did to it, the next reset finds no overflow


def shake(world: World, steps: int, seed: int = 0) -> None:
    """Random targets for the hand, the same for any world of the arm."""
    generator = torch.Generator().manual_seed(seed)
    ctrl = world.field("ctrl")
    start = ctrl.clone()
    for _ in range(steps):
        ctrl.copy_(start)
        ctrl[:, :3] += 0.1 * (torch.rand(world.n, 3, generator=generator) - 0.5).to(ctrl.dtype)
        world.step(4)


def test_it_moves_as_the_cpu_engine_does(arm: World) -> None:
    reference = make_world(arm.model, N, threads=1)
    for world in (reference, arm):
        shake(world, 25)
    assert (reference.field("qpos") - arm.field("qpos")).abs().max() < 1e-4
    assert (reference.field("qpos") - reference.field("qpos")[:1]).abs().max() > 1e-2
    for derived in ("sensordata", "xpos", "geom_xmat", "site_xpos"):
        torch.testing.assert_close(
            arm.field(derived).double(), reference.field(derived), rtol=0, atol=1e-3
        )


def test_fields_share_memory_with_the_engine(arm: World) -> None:
    arm.field("qpos")[1, 0] = 0.3
    arm.forward()
    assert arm.field("qpos").data_ptr() == arm._data.qpos.ptr  # type: ignore[attr-defined]
    hands = arm.sensor("hand_position")
    assert not torch.equal(hands[0], hands[1])
    assert torch.equal(hands[0], hands[2])


def test_derived_fields_are_at_the_new_state(arm: World) -> None:
    shake(arm, 5)
    for i in (0, 3):
        _, data = arm.snapshot(i)
        for name in ("sensordata", "xpos"):
            here = arm.field(name)[i].numpy()
            np.testing.assert_allclose(here, getattr(data, name), atol=2e-4)


def test_a_masked_reset_leaves_the_others(arm: World) -> None:
    shake(arm, 3)
    before = arm.state()
    arm.reset(TWO)
    arm.forward(TWO)
    after = arm.state()
    assert torch.equal(after[~TWO], before[~TWO])
    reference = make_world(arm.model, N, threads=1).state()
    assert torch.equal(after[TWO], reference[TWO].float().double())


def test_a_masked_step_leaves_the_others(arm: World) -> None:
    shake(arm, 3)
    before, tip = arm.state(), arm.sensor("hand_position").clone()
    arm.step(4, TWO)
    moved = (arm.state() != before).any(dim=1)
    assert torch.equal(moved, TWO)
    assert torch.equal(arm.sensor("hand_position")[~TWO], tip[~TWO])


def test_a_state_continues_bit_for_bit_and_is_that_of_the_cpu_engine(arm: World) -> None:
    shake(arm, 5)
    state = arm.state()
    shake(arm, 5, seed=1)
    once = arm.state()
    arm.load_state(state)
    shake(arm, 5, seed=1)
    assert torch.equal(arm.state(), once)
    other = make_world(arm.model, N, threads=1)
    other.load_state(state)
    torch.testing.assert_close(
        other.field("xpos"), arm_at(arm, state).field("xpos").double(), rtol=0, atol=1e-5
    )
    with pytest.raises(ValueError, match="the world's state has shape"):
        arm.load_state(state[:, 1:])


def arm_at(world: World, state: Tensor) -> World:
    world.load_state(state)
    return world


def test_a_parameter_per_copy_changes_that_copy_alone() -> None:
    model = skill_of("arm-reach").model
    world, reference = make_world(model, N, "warp:cpu"), make_world(model, N, threads=1)
    shake(world, 1)  # captured before, so that the graph must be made anew
    world.reset()
    world.forward()
    wrist = int(model.jnt_bodyid[3])
    for each in (world, reference):
        each.parameter("body_mass")[1, wrist] *= 3.0
        each.parameter("dof_damping")[2] += 5.0
        each.refresh_constants()
        shake(each, 10)
    q = world.field("qpos").double()
    torch.testing.assert_close(q, reference.field("qpos"), rtol=0, atol=1e-4)
    alone = make_world(model, N, threads=1)
    shake(alone, 10)
    apart = (q - alone.field("qpos")).abs().amax(dim=1) > 1e-3
    assert apart.tolist() == [False, True, True, False]


def test_what_the_engine_lacks_is_refused(arm: World) -> None:
    with pytest.raises(ValueError, match="no field 'qM'"):
        arm.field("qM")
    with pytest.raises(ValueError, match="no parameter 'geom_quat'"):
        arm.parameter("geom_quat")


def test_a_lack_of_room_is_an_error_at_the_next_reset() -> None:
    from clrl.envs.warp_world import WarpWorld

    model = skill_of("arm-push").model
    world = WarpWorld(model, N, "cpu", contacts=1)
    world.step(20)
    with pytest.raises(CapacityError, match=r"of 4 worlds had no room .*: 1 contacts and"):
        world.reset()
    world.reset()  # told once


FALLING = """
<mujoco>
  <worldbody>
    <body name="table" pos="0 0 0"><geom name="top" type="box" size=".1 .1 .1"/></body>
    <body name="ball" pos="0 0 .5"><freejoint/><geom size=".05" mass="1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize("device", ["cpu", "warp:cpu"])
def test_a_fixture_collides_where_its_copy_has_it(device: str) -> None:
    model = mujoco.MjModel.from_xml_string(FALLING)
    world = make_world(model, 2, device)
    world.parameter("body_pos")[1, model.body("table").id, 0] = 1.0
    world.reset()
    world.forward()
    for _ in range(25):
        world.step(10)
    assert world.named("geom_xpos", "top")[:, 0].tolist() == [0.0, 1.0]
    height = world.field("qpos")[:, 2]
    assert height[0] == pytest.approx(0.15, abs=0.01)  # on the table
    assert height[1] < 0.0  # past where the table is in the other copy


def test_a_graph_of_one_size_does_not_disturb_another(arm: World) -> None:
    shake(arm, 2)
    state = arm.state()
    arm.step(4)
    once = arm.state()
    arm.load_state(state)
    for _ in range(4):
        arm.step(1)
    assert torch.equal(arm.state(), once)


def test_runs_repeat() -> None:
    from clrl.envs.warp_world import WarpWorld

    model = skill_of("arm-push").model
    states = []
    for _ in range(2):
        world = WarpWorld(model, N, "cpu", deterministic=True)
        shake(world, 10)
        states.append(world.state())
    assert torch.equal(*states)


def both(name: str) -> tuple[Episodes, Episodes]:
    engines = (Episodes(skill_of(name), N, d, threads=1) for d in ("cpu", "warp:cpu"))
    cpu, warp = engines
    for episodes in (cpu, warp):
        episodes.seed(3)
    return cpu, warp


@pytest.mark.parametrize("name", ["arm-reach", "arm-dial", "cw-faucet-close", "cw-window-close"])
def test_a_skill_runs_alike_on_both_engines(name: str) -> None:
    cpu, warp = both(name)
    seen = cpu.reset()
    torch.testing.assert_close(warp.reset(), seen, rtol=0, atol=1e-5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(cpu.skill.horizon):
        action = 2 * torch.rand(N, 4, generator=generator) - 1
        a, b = cpu.step(action), warp.step(action)
        assert a.observation.dtype == b.observation.dtype == torch.float32
        torch.testing.assert_close(b.observation, a.observation, rtol=0, atol=LOST)
        torch.testing.assert_close(b.reward.double(), a.reward, rtol=0, atol=20 * LOST)
        assert torch.equal(a.done, b.done)
    assert a.done.all()
    warp.world.check()
    torch.testing.assert_close(warp.returns, cpu.returns, rtol=5e-3, atol=0.05)


def test_masked_episodes_start_anew_alone() -> None:
    _, warp = both("arm-press")
    warp.reset()
    for _ in range(3):
        warp.step(torch.ones(N, 4))
    world = warp.world.state()
    seen = warp.reset(TWO)
    assert warp.elapsed.tolist() == [0, 3, 0, 3]
    assert torch.equal(warp.world.state()[~TWO], world[~TWO])
    saved = warp.state()
    once = warp.step(torch.ones(N, 4)).observation
    warp.load_state(saved)
    assert torch.equal(warp.step(torch.ones(N, 4)).observation, once)
    assert seen.shape == (N, 23)


@pytest.mark.parametrize("device", ["cpu", "warp:cpu"])
def test_steps_on_tensors_are_those_of_sb3(device: str) -> None:
    skill = make_skill("arm-reach", horizon=4)
    assert isinstance(skill, Skill)
    arrays, tensors = (
        skill.vec_env(N, seed=2, threads=1, stagger=True, device=device) for _ in range(2)
    )
    assert np.array_equal(arrays.reset(), tensors.reset_tensor().numpy())
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        action = 2 * torch.rand(N, 4, generator=generator) - 1
        seen, reward, done, infos = arrays.step(action.numpy())
        step, following = tensors.step_tensor(action)
        assert np.array_equal(np.asarray(seen), following.numpy())
        assert np.array_equal(reward, step.reward.float().numpy())
        assert np.array_equal(done, step.done.numpy())
        assert step.done.any()  # one of four worlds at every step
        for row, i in enumerate(tensors.ended.worlds.tolist()):
            ended: dict[str, Any] = infos[i]
            assert np.array_equal(ended["terminal_observation"], step.observation[i].numpy())
            assert ended["episode"]["r"] == float(tensors.ended.returns[row])
            assert ended["episode"]["l"] == int(tensors.ended.lengths[row])
            assert ended["is_success"] == bool(tensors.ended.succeeded[row])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_warps_cpu_device_gives() -> None:
    model = skill_of("arm-push").model
    gpu, cpu = (make_world(model, N, device) for device in ("cuda", "warp:cpu"))
    assert gpu.field("qpos").is_cuda
    for world in (gpu, cpu):
        for _ in range(25):
            world.step(4)
    torch.testing.assert_close(gpu.field("qpos").cpu(), cpu.field("qpos"), rtol=0, atol=1e-3)
