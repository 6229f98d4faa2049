"""The arm's scene: what its skills share in model, action, observation and reset."""

from abc import abstractmethod
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import mujoco
import torch
from torch import Tensor

from clrl.envs.layout import XYZ, Layout, Part
from clrl.envs.skill import Skill, between, box, constant
from clrl.envs.world import World

_REACH = 0.04  # hand displacement that a full action asks for, m
OPEN = 0.04  # travel of each finger when open, m
_WORKSPACE = ((0.30, -0.32, 0.02), (0.60, 0.32, 0.38))  # corners that hold the hand's target, m

# Where things stand at a reset: (low, high) of the uniform draw, m.
_HAND_JITTER = (-0.08, 0.08)  # of the first three joints, rad
_PUCK = ((0.40, -0.08), (0.49, 0.08))
_CABINET_Y = (-0.06, 0.06)
_DIAL = ((0.40, -0.30), (0.48, -0.24))
_BUTTON = ((0.40, 0.22), (0.48, 0.30))
_SCENE = tuple(
    (*[_HAND_JITTER[i]] * 3, *_PUCK[i], _CABINET_Y[i], *_DIAL[i], *_BUTTON[i]) for i in (0, 1)
)
_MOST_PAYLOAD = 4.0  # that the hand's controller still holds up, kg
_FRICTION = (0.05, 20.0)  # of a factor on it
_BOUND = 10.0  # of every observation, in its unit; nothing in the scene comes near it
_SCENE_DRAWS = len(_SCENE[0])  # random numbers the scene takes; a skill's goal has the rest

_OBSERVATION: Layout = (
    Part("hand", XYZ, "m", "middle of the fingertips", kind="state/body/position"),
    Part("hand_velocity", XYZ, "m/s", kind="state/body/linear_velocity"),
    Part("fingers", ("travel",), "m", "mean travel of the fingers, 0 closed"),
    Part("object", XYZ, "m", "the skill's object", kind="state/body/position"),
    Part("object_from_hand", XYZ, "m", "object minus hand", kind="state/vector3d"),
    Part("object_velocity", XYZ, "m/s", kind="state/body/linear_velocity"),
    Part("mechanism", ("travel",), "1", "travel of the object's joint, 0 rest, 1 end stop"),
    Part("goal", XYZ, "m", "where the object belongs", kind="command/body/target_position"),
    Part("goal_from_object", XYZ, "m", "goal minus object", kind="state/vector3d"),
)
_ACTION: Layout = (
    Part("hand_displacement", XYZ, "m", "target of the hand, from where it is", scale=_REACH),
    Part("gripper", ("closing",), "1", "-1 open, 1 closed", stop=None),  # a stop drops nothing
)


class ArmSkill(Skill):
    """A skill of the six-joint arm: 40 control steps a second, 100 steps (2.5 s) an episode.

    **Action** `Box(-1, 1, (4,))`: displacement of the hand along x, y, z (1 is a target 4 cm away)
    and the gripper (-1 open, 1 closed). A Cartesian impedance controller, the interface of
    torque-controlled arms, turns the target into joint torques by the transposed Jacobian, within
    the joints' torque limits; it also holds the hand upright.

    **Observation** `Box(-10, 10, (23,))`, clipped to it; x points away from the robot, z up:

    | index | meaning                                              | name in the XML      | unit |
    |-------|------------------------------------------------------|----------------------|------|
    | 0-2   | hand position, between the fingertips                | site `hand`          | m    |
    | 3-5   | hand velocity                                        | site `hand`          | m/s  |
    | 6     | mean travel of the fingers, 0 closed                 | joint `left_finger`  | m    |
    | 7-9   | position of the skill's object                       | site `object`        | m    |
    | 10-12 | object minus hand                                    |                      | m    |
    | 13-15 | object velocity                                      | site `object`        | m/s  |
    | 16    | travel of the object's mechanism, 0 rest, 1 end stop | joint `mechanism`    | 1    |
    | 17-19 | goal position                                        | body `goal`          | m    |
    | 20-22 | goal minus object                                    |                      | m    |

    Every skill fills the slots of object and goal with its own; in `reach` the object is the hand.

    **Reset**: joints, puck, drawer, dial and button are drawn anew; the goal is the skill's.

    **Variants** of one robot or workplace, for `clrl adapt`: a payload at the hand that its gravity
    compensation does not know, other friction, the mirrored scene.

    Attributes:
        object: Prefix of the object's sensors in the XML.
        mechanism: Joint whose travel is observed, or "" for a free object.
    """

    object: ClassVar[str]
    mechanism: ClassVar[str] = ""
    substeps = 4  # of 6.25 ms
    draws = _SCENE_DRAWS + 4
    contacts = 32
    observation_space = box(-_BOUND, _BOUND, 23)
    action_space = box(-1.0, 1.0, 4)
    observation_layout = _OBSERVATION
    action_layout = _ACTION
    axes = "robot base: x away from the robot, z up, right-handed"

    def __init__(
        self, *, payload: float = 0.0, friction: float = 1.0, mirrored: bool = False, **options: Any
    ) -> None:
        """Choose a variant.

        Args:
            payload: Mass that hangs at the hand, in [0, 4] kg.
            friction: Factor on the friction of puck, table, drawer and dial, in [0.05, 20].
            mirrored: The scene reflected in the robot's x-z plane: dial and button change sides,
                the dial turns the other way.
            options: As every `Skill`.

        Raises:
            ValueError: something out of range.
        """
        super().__init__(**options)
        _check("payload", payload, 0.0, _MOST_PAYLOAD)
        _check("friction", friction, *_FRICTION)
        if not isinstance(mirrored, bool):
            raise ValueError(f"mirrored must be true or false, got {mirrored!r}")
        self._variant = (float(payload), float(friction), mirrored)
        self.side = -1.0 if mirrored else 1.0  # of everything along y

    @property
    def spec(self) -> dict[str, Any]:
        """Id and options, those of the variant where it differs."""
        names = ("payload", "friction", "mirrored")
        pairs = zip(names, self._variant, _PLAIN, strict=True)
        return super().spec | {name: own for name, own, plain in pairs if own != plain}

    @property
    def model(self) -> mujoco.MjModel:
        """The scene of this variant, compiled once."""
        return _model(*self._variant)

    def reset(self, world: World, mask: Tensor, random: Tensor) -> None:
        """Scatter hand, puck and fixtures, then place the skill's goal."""
        qpos, fixtures = world.field("qpos"), world.field("mocap_pos")
        joints, place = qpos[mask], fixtures[mask]
        scene = between(random[:, :_SCENE_DRAWS], *_SCENE)
        joints[:, :3] += scene[:, 0:3]
        puck = world.joint("puck")
        joints[:, puck : puck + 2] = scene[:, 3:5]
        place[:, world.mocap("cabinet"), 1] = scene[:, 5]
        place[:, world.mocap("dial_stand"), :2] = scene[:, 6:8]
        place[:, world.mocap("button_stand"), :2] = scene[:, 8:10]
        if self.side < 0.0:
            joints[:, [0, puck + 1]] *= -1.0  # the yaw of the base, and where the puck lies
            place[:, :, 1] *= -1.0
        qpos[mask], fixtures[mask] = joints, place
        world.forward(mask)
        goal = self.goal(world, mask, random[:, _SCENE_DRAWS:])
        found = tuple(goal.shape) if isinstance(goal, Tensor) else type(goal).__name__
        if found != (expected := (len(random), 3)):
            raise ValueError(
                f"skill {self.name!r}: goal must be a tensor of shape {expected}, got {found}"
            )
        fixtures[mask, world.mocap("goal")] = goal.to(fixtures.dtype)

    @abstractmethod
    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """Goals of masked worlds, (mask.sum(), 3), from 4 random numbers in [0, 1) each."""

    def act(self, world: World, action: Tensor) -> None:
        """Aim the hand controller and the fingers."""
        ctrl = world.field("ctrl")
        target = world.sensor("hand_position") + _REACH * action[:, :3]
        ctrl[:, 0:3] = torch.clamp(target, *(constant(c, target) for c in _WORKSPACE))
        ctrl[:, 6:8] = (0.5 * OPEN * (1.0 - action[:, 3]))[:, None]

    def observe(self, world: World) -> Tensor:
        """The table of the class docstring."""
        hand, position = self.hand(world), self.position(world)
        goal = self.goal_position(world)
        return torch.cat(
            (
                hand,
                world.sensor("hand_velocity"),
                self.fingers(world)[:, None],
                position,
                position - hand,
                world.sensor(f"{self.object}_velocity"),
                self.travel(world)[:, None],
                goal,
                goal - position,
            ),
            dim=1,
        ).clamp(-_BOUND, _BOUND)

    def hand(self, world: World) -> Tensor:
        """Point between the fingertips, (n, 3), m."""
        return world.sensor("hand_position")

    def fingers(self, world: World) -> Tensor:
        """Mean travel of the two fingers, (n,), m."""
        travel = world.field("qpos")
        return 0.5 * (travel[:, 6] + travel[:, 7])

    def position(self, world: World) -> Tensor:
        """Position of the skill's object, (n, 3), m."""
        return world.sensor(f"{self.object}_position")

    def goal_position(self, world: World) -> Tensor:
        """Goal, (n, 3), m."""
        return world.field("mocap_pos")[:, world.mocap("goal")]

    def travel(self, world: World) -> Tensor:
        """Travel of the mechanism as a fraction of its range, (n,)."""
        if not self.mechanism:
            return constant(0.0, world.field("qpos")).expand(world.n)
        stop = max(map(float, world.model.joint(self.mechanism).range), key=abs)
        return world.field("qpos")[:, world.joint(self.mechanism)] / stop


def near(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """1 where two points of shape (n, 3) meet, 0.24 at a distance of `scale` m, 0 far away."""
    return 1.0 - torch.tanh((a - b).square().sum(dim=1).sqrt() / scale)


def within(a: Tensor, b: Tensor, distance: float) -> Tensor:
    """Whether two points of shape (n, 3) are closer than `distance` m, (n,)."""
    return (a - b).square().sum(dim=1) < distance**2


def _check(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and low <= value <= high):  # type: ignore[operator]
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")


_PLAIN = (0.0, 1.0, False)  # no variant


@cache
def _model(payload: float, friction: float, mirrored: bool) -> mujoco.MjModel:
    text = files("clrl.envs").joinpath("assets/arm.xml").read_text()
    if (payload, friction, mirrored) == _PLAIN:
        return mujoco.MjModel.from_xml_string(text)
    spec = mujoco.MjSpec.from_string(text)
    if payload:  # on a body of its own, whose gravity nothing compensates
        body = spec.body("hand").add_body(name="payload")
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.03, 0.0, 0.0], mass=payload)
    for name in ("puck", "table"):
        geom = spec.geom(name)
        geom.friction = geom.friction * [friction, 1.0, 1.0]
    for name in ("drawer", "dial"):
        joint = spec.joint(name)
        joint.frictionloss *= friction
        joint.damping = joint.damping * friction
    if mirrored:
        dial = spec.joint("dial")
        dial.range = -dial.range[::-1]
    return spec.compile()
