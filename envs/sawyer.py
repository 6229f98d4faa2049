"""Meta-World's Sawyer scene on batches: what the Continual World skills share."""

from dataclasses import dataclass
from typing import Any, ClassVar

import mujoco
import torch
from torch import Tensor

from clrl.envs.layout import XYZ, Layout, Part
from clrl.envs.sawyer_model import BEFORE, START, TARGET, Settled, assets, settle
from clrl.envs.shaping import NEAR, distance, hamacher, long_tail
from clrl.envs.skill import Skill, Terms, between, box, constant
from clrl.envs.world import World

_STEP = 0.01  # hand displacement of a full action, m
_FRAME = 18  # hand, gripper, two objects
_BOUND = 10.0
_HAND_LOW, _HAND_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)  # of the observation
XZ = slice(0, 3, 2)  # two of three axes; a list would be copied to the device at every use
_TRIES = 12  # draws of a start and goal that must lie apart; all fail once in 10^8 resets
Box3 = tuple[tuple[float, ...], tuple[float, ...]]
_POSE = (*XYZ, "q0", "q1", "q2", "q3")
_TURN = "position, and quaternion in the skill's own order"


def _seen(when: str) -> Layout:
    """The layout of one frame."""
    return (
        Part(f"hand{when}", XYZ, "m", kind="state/body/position"),
        Part(f"gripper{when}", ("opening",), "1", "0 closed, 1 open"),
        Part(f"object{when}", _POSE, "m, 1", _TURN),
        Part(f"second{when}", _POSE, "m, 1", "second object, zeros for none"),
    )


_OBSERVATION: Layout = (
    *_seen(""),
    *_seen("_before"),  # one control step earlier
    Part("goal", XYZ, "m", "where the object belongs", kind="command/body/target_position"),
)
_ACTION: Layout = (
    Part("hand_displacement", XYZ, "m", "step of the hand's target", scale=_STEP),
    Part("gripper", ("closing",), "1", "closing effort, -1 to 1", stop=None),  # drop nothing
)


@dataclass(frozen=True)
class View:
    """What rewards look at; tensors of n worlds, lengths in m.

    Attributes:
        world: Where it was seen.
        frame: Hand (3), gripper opening (1), object (3), quaternion (4), second object (7).
        tcp: Middle of the two fingertips, (n, 3).
        target: Where the object belongs, (n, 3).
        start: Where it was at the reset, (n, 3).
    """

    world: World
    frame: Tensor
    tcp: Tensor
    target: Tensor
    start: Tensor

    @property
    def hand(self) -> Tensor:
        """Position of the hand within its observed bounds, (n, 3)."""
        hand = self.frame[:, :3]
        return hand.clamp(constant(_HAND_LOW, hand), constant(_HAND_HIGH, hand))

    @property
    def opened(self) -> Tensor:
        """Opening of the gripper, 0 to 1, (n,)."""
        return self.frame[:, 3]

    @property
    def object(self) -> Tensor:
        """Position of the object, (n, 3)."""
        return self.frame[:, 4:7]

    @property
    def second(self) -> Tensor:
        """Position of the second object, (n, 3)."""
        return self.frame[:, 11:14]

    @property
    def effort(self) -> Tensor:
        """Closing effort that the action asked for, -1 to 1, (n,)."""
        return self.world.field("ctrl")[:, 0]

    def pads(self) -> Tensor:
        """Y of the left and the right finger's pad, (n, 2)."""
        left, right = (self.world.named("xpos", f"{side}pad")[:, 1] for side in ("left", "right"))
        return torch.stack((left, right), dim=1)


class SawyerSkill(Skill):
    """A skill of Meta-World's Sawyer: 80 control steps a second, 200 an episode.

    **Action** `Box(-1, 1, (4,))`: displacement of the hand along x, y, z (1 is 1 cm), and the
    closing effort of the gripper. A mocap body welded to the hand carries it there.

    **Observation** `Box(-10, 10, (39,))`, as Meta-World 3 lays it out:

    | index | meaning                                        | unit |
    |-------|------------------------------------------------|------|
    | 0-2   | hand position                                  | m    |
    | 3     | opening of the gripper, 0 closed, 1 open       | 1    |
    | 4-6   | position of the object                         | m    |
    | 7-10  | its quaternion, zeros for a hinge or slide     | 1    |
    | 11-17 | second object, zeros where there is none       | m, 1 |
    | 18-35 | 0-17 one control step earlier                  |      |
    | 36-38 | goal position                                  | m    |

    **Reward**: Meta-World's second version, in [0, 10]; `reward="v1"` for its first, which is
    unbounded.

    **Reset**: the arm settles once, when the model is built; an episode starts from there with
    object and goal drawn anew from continuous ranges.

    Sources: Yu et al., "Meta-World" (CoRL 2019); Wolczyk et al., "Continual World" (NeurIPS 2021).

    Attributes:
        scene: XML of Meta-World's assets.
        ranges: Corners of the uniform draw at a reset, one number each.
        apart: Least distance in the plane between object and goal.
        fixture: Body that stands where the reset puts it, or "".
        landmark: Body that stands still and whose place rewards read, or "".
        hand_start: Where the hand settles.
        hand_range: Corners that hold the mocap body.
        goal_range: Corners to which the observed goal is clipped.
    """

    poses_only = True
    scene: ClassVar[str]
    ranges: ClassVar[Box3]
    apart: ClassVar[float] = 0.0
    fixture: ClassVar[str] = ""
    landmark: ClassVar[str] = ""
    hand_start: ClassVar[tuple[float, ...]] = (0.0, 0.6, 0.2)
    hand_range: ClassVar[Box3] = ((-0.5, 0.4, 0.05), (0.5, 1.0, 0.5))
    goal_range: ClassVar[Box3] = hand_range
    horizon = 200
    steps = 500_000
    parameters = ("body_pos", "site_pos")
    observation_space = box(-_BOUND, _BOUND, 39)
    action_space = box(-1.0, 1.0, 4)
    observation_layout = _OBSERVATION
    action_layout = _ACTION
    axes = "Meta-World's world: y away from the robot, z up, right-handed"

    def __init__(self, reward: str = "v2", **protocol: Any) -> None:
        """Choose the reward.

        Args:
            reward: "v2" or "v1".
            protocol: `name`, `horizon` and `success_rule`, see `Skill`.

        Raises:
            ValueError: another reward, or Meta-World is not installed as these skills need it.
        """
        if reward not in ("v1", "v2"):
            raise ValueError(f"reward must be 'v1' or 'v2', got {reward!r}")
        super().__init__(**protocol)
        assets()
        self.version = reward
        self.draws = len(self.ranges[0]) * (_TRIES if self.apart else 1)

    @property
    def spec(self) -> dict[str, Any]:
        """Its id and options."""
        return super().spec | ({"reward": "v1"} if self.version == "v1" else {})

    @property
    def model(self) -> mujoco.MjModel:
        """The scene with the arm settled, compiled once per class."""
        return self.settled.model

    @property
    def settled(self) -> Settled:
        """Where its episodes start."""
        return settle(type(self))

    def tcp(self, like: Tensor) -> Tensor:
        """`Settled.tcp` with the type and device of another tensor, (3,)."""
        return constant(self.settled.tcp, like)

    def reset(self, world: World, mask: Tensor, random: Tensor) -> None:
        """Place object, fixture and goal."""
        drawn = self.drawn(random)
        if self.fixture:
            index = world.model.body(self.fixture).id
            world.parameter("body_pos")[mask, index] = self.fixture_place(drawn)
        target, start = self.place(world, mask, drawn)
        memory = torch.cat((_zeros(len(drawn), TARGET.start, drawn), target, start), dim=1)
        world.field("userdata")[mask] = memory
        if site := self.goal_site():
            world.parameter("site_pos")[mask, site] = target

    def drawn(self, random: Tensor) -> Tensor:
        """Uniform draws within `ranges`, (k, d), from random numbers (k, draws)."""
        tries = between(random.unflatten(1, (-1, len(self.ranges[0]))), *self.ranges)
        if not self.apart:
            return tries[:, 0]
        gap = (tries[..., :2] - tries[..., 3:5]).square().sum(dim=2).sqrt()
        first = (gap >= self.apart).to(torch.int8).argmax(dim=1)
        return tries[torch.arange(len(tries), device=tries.device), first]

    @classmethod
    def arrange(cls, data: mujoco.MjData) -> None:
        """Put into the settled state what is the same in every episode."""

    def fixture_place(self, drawn: Tensor) -> Tensor:
        """Where the fixture stands, (k, 3)."""
        return drawn

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Write masked worlds' objects; returns target and start of the object, (k, 3) each."""
        raise NotImplementedError

    def goal_site(self) -> int:
        """Index of a site that shows the target, 0 for none."""
        site = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, "goal")
        return site if site >= 0 and int(self.model.site_bodyid[site]) == 0 else 0

    def act(self, world: World, action: Tensor) -> None:
        """Move the mocap body, close the gripper, remember the frame before."""
        memory, mocap = world.field("userdata"), world.field("mocap_pos")
        memory[:, BEFORE] = self.frame(world)
        memory[:, 0] = 1.0
        hand = mocap[:, 0] + _STEP * action[:, :3]
        mocap[:, 0] = torch.clamp(hand, *(constant(c, hand) for c in self.hand_range))
        ctrl = world.field("ctrl")
        ctrl[:, 0] = action[:, 3]
        ctrl[:, 1] = -action[:, 3]

    def frame(self, world: World) -> Tensor:
        """What is seen at one instant, (n, 18)."""
        return world.once("frame", lambda: self._frame(world))

    def _frame(self, world: World) -> Tensor:
        claws = world.named("xpos", "rightclaw") - world.named("xpos", "leftclaw")
        opening = (claws.square().sum(dim=1, keepdim=True).sqrt() / 0.1).clamp(0.0, 1.0)
        seen = [world.named("xpos", "hand"), opening, *self.objects(world)]
        missing = _FRAME - sum(part.shape[1] for part in seen)
        return torch.cat((*seen, _zeros(world.n, missing, claws)), dim=1)

    def objects(self, world: World) -> list[Tensor]:
        """Position (n, 3) and quaternion (n, 4) of the object, and of a second one."""
        raise NotImplementedError

    def observe(self, world: World) -> Tensor:
        """The table of the class docstring."""
        memory, now = world.field("userdata"), self.frame(world)
        before = torch.where(memory[:, :1] > 0, memory[:, BEFORE], now)
        frames = torch.stack((now, before), dim=1)
        frames[..., :3].clamp_(constant(_HAND_LOW, now), constant(_HAND_HIGH, now))
        goal = memory[:, TARGET].clamp(*(constant(c, now) for c in self.goal_range))
        return torch.cat((frames.flatten(1), goal), dim=1).clamp(-_BOUND, _BOUND)

    def look(self, world: World) -> View:
        """Gather what rewards look at."""
        return world.once("view", lambda: self._look(world))

    def _look(self, world: World) -> View:
        memory = world.field("userdata")
        left, right = (world.named("site_xpos", f"{s}EndEffector") for s in ("left", "right"))
        return View(
            world, self.frame(world), (right + left) / 2, memory[:, TARGET], memory[:, START]
        )

    def reward(self, world: World) -> Terms:
        """Meta-World's reward of the version chosen, as one term."""
        view = self.look(world)
        return {"reward": self.reward_v1(view) if self.version == "v1" else self.reward_v2(view)}

    def reward_v2(self, view: View) -> Tensor:
        """Meta-World's second reward, (n,), in [0, 10]."""
        raise NotImplementedError

    def reward_v1(self, view: View) -> Tensor:
        """Meta-World's first reward, (n,)."""
        raise NotImplementedError

    def success(self, world: World) -> Tensor:
        """Meta-World's success at this step."""
        return self.solved(self.look(world))

    def solved(self, view: View) -> Tensor:
        """Whether the object is where it belongs, (n,), bool."""
        raise NotImplementedError

    def caging(
        self,
        view: View,
        position: Tensor,
        radius: float,
        reach: float,
        *,
        pad: float = 0.05,
        effort: float = 1.0,
        dense: bool = True,
        start: Tensor | None = None,
    ) -> Tensor:
        """Meta-World's reward for closing the gripper around an object, (n,), in [0, 1].

        Args:
            view: What is seen.
            position: Centre of the object, (n, 3).
            radius: Of the object, m.
            reach: Distance in x and z within which the fingers surround it, m.
            pad: Distance of the pads within which they surround it, m.
            effort: Closing effort that is enough.
            dense: Pay half for surrounding it without closing.
            start: Where the object counts as having started, (n or 1, 3).
        """
        pads, start = view.pads(), view.start if start is None else start
        margin = ((pads - start[:, 1:2]).abs() - pad).abs()
        sides = long_tail((pads - position[:, 1:2]).abs(), pad, margin, radius)
        across = hamacher(sides[:, 0], sides[:, 1])
        wide = distance(start[:, XZ], self.tcp(start)[XZ]) - reach
        along = long_tail(distance(view.tcp[:, XZ], position[:, XZ]), reach, wide)
        around = hamacher(across, along)
        closing = view.effort.clamp(0.0, effort) / effort
        both = hamacher(around, torch.where(around > 0.97, closing, 0.0))
        return (both + around) / 2 if dense else both

    def approach(self, view: View) -> Tensor:
        """Distance from fingertips to object, (n,)."""
        return distance(view.object, view.tcp)

    def approach_margin(self, view: View, radius: float) -> Tensor:
        """How far beyond `radius` the object was from the fingertips at the reset, (n,)."""
        return (distance(view.start, self.tcp(view.start)) - radius).abs()

    def reach_v1(self, view: View, above: Tensor | None = None) -> Tensor:
        """The first reward for reaching an object, and for closing the gripper there, (n,).

        Args:
            view: What is seen.
            above: What keeps the hand from coming down beside the object, (n,), m; None to let it.
        """
        near = self.approach(view)
        far = -near
        if above is not None:
            flat = distance(view.object[:, :2], view.tcp[:, :2])
            far = torch.where(flat < NEAR, far, -flat - 2.0 * above)
        return torch.where(near < NEAR, view.effort.clamp(min=0.0) / 50 - near, far)

    def carry_v1(
        self,
        view: View,
        way: Tensor,
        pay: Tensor,
        ground: float,
        lift: float,
        above: Tensor | None = None,
    ) -> Tensor:
        """The first reward of all carrying skills: reach, close, lift, then be paid.

        Args:
            view: What is seen.
            way: Distance to where the object belongs, (n,).
            pay: For carrying it there, (n,).
            ground: Height of the object at rest, m.
            lift: Height to lift it to, m.
            above: As in `reach_v1`.
        """
        near, height = self.approach(view), view.object[:, 2]
        dropped = (height < ground + 0.005) & (way > 0.02) & (near > 0.02)
        lifted = (height >= lift - 0.01) & ~dropped
        lifting = (near < 0.1) & (height > ground + 0.005)
        pick = torch.where(lifting, 100.0 * height.clamp(max=lift), 0.0)
        pick = torch.where(lifted, 100.0 * lift, pick)
        carried = torch.where(lifted & (near < 0.1), pay.clamp(min=0.0), 0.0)
        return self.reach_v1(view, above) + pick + carried


def _zeros(n: int, size: int, like: Tensor) -> Tensor:
    return constant(0.0, like).expand(n, size)
