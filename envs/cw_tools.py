"""Continual World's skills with a tool: a hammer, a stick and a plug."""

import torch
from torch import Tensor

from clrl.envs.sawyer import SawyerSkill, View
from clrl.envs.shaping import NEAR, distance, hamacher, long_tail, lure, quaternion
from clrl.envs.skill import constant
from clrl.envs.world import World

_RADIUS = 0.05  # around a target, m
_STICK = 0.02  # height of the stick on the table, m


class Hammer(SawyerSkill):
    """Drive a nail in with a hammer; success at 9 cm of its travel."""

    name = "hammer"
    scene = "sawyer_hammer.xml"
    ranges = ((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0))
    hand_start = (0.0, 0.4, 0.2)
    goal_range = ((0.2399, 0.7399, 0.109), (0.2401, 0.7401, 0.111))

    def objects(self, world: World) -> list[Tensor]:
        """Hammer and nail, quaternions with the scalar first."""
        both = ("hammer", "nail_link")
        return [world.named(field, name) for name in both for field in ("xpos", "xquat")]

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Hammer at the draw; the nail stands still."""
        world.field("qpos")[mask, 9:12] = drawn
        world.field("qvel")[mask, 9:15] = 0.0
        goal = constant(tuple(self.settled.data.site("goal").xpos), drawn)
        return goal.expand(len(drawn), 3), drawn

    def reward_v2(self, view: View) -> Tensor:
        """Grip the handle anywhere along it, lift it level, and bring its head to the nail."""
        hammer = view.object
        offset = view.hand[:, 0] - hammer[:, 0]
        along = torch.where(offset.abs() < 0.07, view.hand[:, 0], hammer[:, 0])
        handle = torch.cat((along[:, None], hammer[:, 1:]), dim=1)
        head = hammer + constant((0.16, 0.06, 0.0), hammer)
        grip = self.caging(view, handle, 0.015, 0.01, pad=0.02)
        tilt = distance(view.frame[:, 7:11], constant((1.0, 0.0, 0.0, 0.0), hammer))
        level = (1.0 - tilt / 0.4).clamp(min=0.0)
        there = long_tail(distance(view.target, head), 0.02, 0.2)
        placed = 0.1 * (head[:, 2] > 0.02) + 0.9 * there
        reward = (2.0 * grip + 6.0 * placed) * level
        return torch.where(self.solved(view) & (reward > 5.0), 10.0, reward)

    def reward_v1(self, view: View) -> Tensor:
        """Reach, close, lift, hit."""
        nail = view.world.named("site_xpos", "nailHead")
        swing = distance(nail, view.world.named("geom_xpos", "HammerHead"))
        way = swing + (nail - view.target)[:, 1].abs()
        most = 0.09 + 0.09 + (view.start - view.target)[:, 1].abs()
        return self.carry_v1(view, swing, lure(way, most), ground=0.0, lift=0.09)

    def solved(self, view: View) -> Tensor:
        """Nail in by 9 cm."""
        return view.world.field("qpos")[:, 16] > 0.09


class StickPull(SawyerSkill):
    """Put a stick into a thermos' handle and pull it; success within 12 cm of the goal."""

    name = "stick-pull"
    scene = "sawyer_stick_obj.xml"
    landmark = "object"
    ranges = ((-0.1, 0.55, 0.0, 0.35, 0.45, 0.0199), (0.0, 0.65, 0.001, 0.45, 0.55, 0.0201))
    hand_range = ((-0.5, 0.35, 0.05), (0.5, 1.0, 0.5))
    goal_range = ((0.35, 0.45, 0.0199), (0.45, 0.55, 0.0201))

    def objects(self, world: World) -> list[Tensor]:
        """Stick, its quaternion with the scalar last, and the handle."""
        turned = quaternion(world.named("xmat", "stick"))
        return [world.named("xpos", "stick"), turned, world.named("site_xpos", "insertion")]

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Stick at the first draw, goal for the thermos at the second."""
        height = torch.full_like(drawn[:, :1], _STICK)
        start = torch.cat((drawn[:, :2], height), dim=1)
        qpos, qvel = world.field("qpos"), world.field("qvel")
        qpos[mask, 9:12] = start
        qpos[mask, 16:18] = constant((0.0, 0.09), drawn)
        qvel[mask, 9:15] = 0.0
        qvel[mask, 16] = 0.0
        return torch.cat((drawn[:, 3:5], height), dim=1), start

    def reward_v2(self, view: View) -> Tensor:
        """Lift the stick, bring it to the thermos, then both to the goal."""
        stick, handle, target = view.object, view.second, view.target
        thermos = self._thermos(stick)
        side, flat = constant((0.05, 0.0, 0.0), stick), constant((1.0, 1.0, 2.0), stick)
        margin = distance(view.start * flat, (thermos + side) * flat)
        near = long_tail(distance(stick * flat, (handle + side) * flat), _RADIUS, margin)
        home = long_tail(distance(stick, target), _RADIUS, distance(view.start, target))
        moved = long_tail(distance(handle + side, target), _RADIUS, distance(thermos, target))
        held = (self.approach(view) < 0.02) & (view.opened > 0)
        held &= stick[:, 2] - 0.01 > view.start[:, 2]
        # Meta-World measures the grip's margins from where the thermos started, not the stick.
        grip = torch.where(held, 1.0, self.caging(view, stick, 0.014, 0.01, start=thermos))
        base = hamacher(grip, near)
        inserted = 1.0 + base + 5.0 + 2.0 * home + moved
        inserted = torch.where(distance(handle, target) <= 0.12, 10.0, inserted)
        pulled = torch.where(self._inserted(view), inserted, 1.0 + base + 5.0 * near)
        return torch.where(held, pulled, base)

    def reward_v1(self, view: View) -> Tensor:
        """Reach, close, lift, bring to the handle, pull.

        Meta-World 3 reads the handle from where its second version has a quaternion; here it is
        read from where it is.
        """
        stick, handle = view.object, view.second
        insert = distance(stick, handle)
        pull = distance(handle[:, :2], view.target[:, :2])
        thermos, lift = self._thermos(stick), _STICK + 0.04
        raised = torch.cat((thermos[:, :2], constant(lift, stick).view(1, 1)), dim=1)
        pay = lure(insert, distance(raised, view.start) + lift)
        most = distance(thermos[:, :2], view.target[:, :2])
        pay = pay + torch.where(insert < 0.05, lure(pull, most, 2000.0), 0.0)
        return self.carry_v1(view, pull, pay, _STICK, lift)

    def solved(self, view: View) -> Tensor:
        """Stick in the handle, handle within 12 cm."""
        return (distance(view.second, view.target) <= 0.12) & self._inserted(view)

    def _inserted(self, view: View) -> Tensor:
        gap = view.world.named("site_xpos", "stick_end") - view.second
        return (gap[:, 0] >= 0) & (gap[:, 1].abs() <= 0.04) & (gap[:, 2].abs() <= 0.06)

    def _thermos(self, like: Tensor) -> Tensor:
        """Where the thermos' body is before it moves, (1, 3)."""
        return constant(tuple(self.settled.data.body(self.landmark).xpos), like)[None]


class PegUnplugSide(SawyerSkill):
    """Pull a plug out sideways; success within 7 cm of 15 cm away."""

    name = "peg-unplug-side"
    scene = "sawyer_peg_unplug_side.xml"
    fixture = "box"
    ranges = ((-0.25, 0.6, -0.001), (-0.15, 0.8, 0.001))
    goal_range = ((-0.25 + 0.194, 0.6, 0.130), (-0.15 + 0.194, 0.8, 0.132))

    def objects(self, world: World) -> list[Tensor]:
        """End of the plug, and the plug's quaternion with the scalar first."""
        return [world.named("site_xpos", "pegEnd"), world.named("xquat", "plug1")]

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Plug in the socket."""
        plug = drawn + constant((0.044, 0.0, 0.131), drawn)
        upright = constant((1.0, 0.0, 0.0, 0.0), plug).expand(len(plug), 4)
        world.field("qpos")[mask, 9:16] = torch.cat((plug, upright), dim=1)
        world.field("qvel")[mask, 9:12] = 0.0
        end = constant(tuple(self.model.site("pegEnd").pos), plug)
        return plug + constant((0.15, 0.0, 0.0), plug), plug + end

    def reward_v2(self, view: View) -> Tensor:
        """Grip the plug's end, then pull."""
        way = distance(view.object, view.target)
        grip = self.caging(view, view.object, 0.025, 0.005, effort=0.8)
        placed = long_tail(way, _RADIUS, distance(view.start, view.target))
        pulled = (view.opened > 0.5) & ((view.object - view.start)[:, 0] > 0.015)
        pulled &= self.approach(view) < 0.035
        reward = torch.where(pulled, 1.0 + 2.0 * grip + 5.0 * placed, 2.0 * grip)
        return torch.where(way <= _RADIUS, 10.0, reward)

    def reward_v1(self, view: View) -> Tensor:
        """Reach from above, close, then be paid for the way made in the plane."""
        reach = self.reach_v1(view, (view.tcp[:, 2] - self.hand_start[2]).abs())
        pay = lure(self._flat(view), distance(view.start, view.target)).clamp(min=0.0)
        return reach + torch.where(self.approach(view) < NEAR, pay, 0.0)

    def solved(self, view: View) -> Tensor:
        """Within 7 cm, in the plane under the first reward."""
        way = self._flat(view) if self.version == "v1" else distance(view.object, view.target)
        return way <= 0.07

    def _flat(self, view: View) -> Tensor:
        return distance(view.object[:, :2], view.target[:, :2])
