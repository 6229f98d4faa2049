"""Worlds: n copies behave like n single simulations, and continue bit for bit."""

from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from clrl.envs import make_skill, make_world
from clrl.envs.skill import Skill

PENDULUM = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="bob" pos="0 0 1">
      <joint name="hinge" axis="0 1 0" damping="0.1"/>
      <geom name="bob" size="0.1" pos="0.5 0 0" mass="1"/>
      <site name="tip" pos="1 0 0"/>
    </body>
  </worldbody>
  <actuator><motor name="motor" joint="hinge"/></actuator>
  <sensor><framepos name="tip" objtype="site" objname="tip"/></sensor>
</mujoco>
"""


def pendulum() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(PENDULUM)


def test_each_copy_is_a_single_simulation_to_the_bit() -> None:
    model = pendulum()
    world = make_world(model, 3, threads=2)
    world.field("qpos")[:, 0] = torch.tensor([0.1, 0.2, 0.3])
    world.field("ctrl")[:, 0] = torch.tensor([0.0, 0.5, -0.5])
    world.step(7)
    for i in range(3):
        data = mujoco.MjData(model)
        data.qpos[0], data.ctrl[0] = 0.1 * (i + 1) if i != 2 else 0.3, (0.0, 0.5, -0.5)[i]
        data.qpos[0] = np.float64(np.float32([0.1, 0.2, 0.3][i]))
        mujoco.mj_step(model, data, 7)
        assert float(world.field("qpos")[i, 0]) == data.qpos[0]


def test_threads_do_not_change_the_result() -> None:
    states = []
    for threads in (1, 2):
        env: Any = make_skill("arm-push").vec_env(6, seed=3, threads=threads)
        env.reset()
        rng = np.random.default_rng(0)
        for _ in range(10):
            env.step(rng.uniform(-1, 1, (6, 4)).astype(np.float32))
        states.append(env.get_state()["world"])
    assert torch.equal(*states)


def test_derived_fields_are_at_the_new_state() -> None:
    world = make_world(pendulum(), 2)
    world.field("qpos")[:, 0] = 0.4
    world.step(3)
    _, data = world.snapshot(1)
    assert world.sensor("tip")[1].tolist() == pytest.approx(data.sensor("tip").data.tolist())


def test_masked_step_and_reset_leave_the_others() -> None:
    world = make_world(pendulum(), 4)
    mask = torch.tensor([True, False, True, False])
    world.field("qpos")[:, 0] = 1.0
    world.step(5, mask)
    moved = world.field("qpos")[:, 0] != 1.0
    assert torch.equal(moved, mask)
    world.reset(mask)
    assert world.field("qpos")[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["arm-push", "arm-dial"])
def test_a_copy_that_is_reset_goes_on_as_a_new_one(name: str) -> None:
    skill: Any = make_skill(name)
    model = skill.model
    used, new = make_world(model, 3), make_world(model, 3)
    used.field("ctrl").copy_(torch.rand(3, model.nu, generator=torch.Generator().manual_seed(0)))
    used.field("mocap_pos")[:, 0] += 0.1
    used.field("qvel")[:] = 2.0
    used.step(50)
    mask = torch.tensor([False, True, True])
    used.reset(mask)
    used.forward(mask)
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    assert torch.equal(used.field("qpos")[1], torch.from_numpy(data.qpos))
    for _ in range(5):
        assert torch.equal(used.state()[mask], new.state()[mask])
        assert torch.equal(used.field("sensordata")[mask], new.field("sensordata")[mask])
        for world in (used, new):
            world.step(4)


def test_forward_refreshes_masked_copies() -> None:
    world = make_world(pendulum(), 2)
    world.field("qpos")[:, 0] = np.pi / 2
    world.forward(torch.tensor([True, False]))
    assert world.sensor("tip")[0, 2] == pytest.approx(0.0, abs=1e-9)
    assert world.sensor("tip")[1, 2] == pytest.approx(1.0, abs=1e-9)


def test_a_parameter_per_copy_changes_its_dynamics_only() -> None:
    model = pendulum()
    world = make_world(model, 2)
    world.parameter("body_mass")[1, model.body("bob").id] = 10.0
    world.parameter("dof_damping")[1] = 0.0
    world.refresh_constants()
    world.field("ctrl")[:] = 1.0
    world.step(1)
    heavy = mujoco.MjModel.from_xml_string(PENDULUM.replace('damping="0.1"', 'damping="0"'))
    heavy.body("bob").mass = 10.0
    mujoco.mj_setConst(heavy, mujoco.MjData(heavy))
    for i, reference in enumerate((model, heavy)):
        data = mujoco.MjData(reference)
        data.ctrl[0] = 1.0
        mujoco.mj_step(reference, data)
        assert float(world.field("qvel")[i, 0]) == pytest.approx(float(data.qvel[0]), rel=1e-12)


def test_state_continues_bit_for_bit_in_another_world() -> None:
    skill = make_skill("arm-lift")
    assert isinstance(skill, Skill)
    first: Any = skill.vec_env(5, seed=1, threads=1)
    first.reset()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (40, 5, 4)).astype(np.float32)
    for action in actions[:20]:
        first.step(action)
    second: Any = skill.vec_env(5, seed=99, threads=1)
    second.reset()
    second.set_state(first.get_state())
    for action in actions[20:]:
        a, b = first.step(action), second.step(action)
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])
    assert torch.equal(first.get_state()["world"], second.get_state()["world"])


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (0, {}, "n >= 1"),
        (2, {"threads": -1}, "threads must be >= 0"),
        (2, {"device": "tpu"}, "no physics engine for device 'tpu'"),
    ],
)
def test_impossible_worlds_are_refused(n: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_world(pendulum(), n, **options)  # type: ignore[arg-type]


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        make_world(pendulum(), 2).load_state(torch.zeros(2, 3))
