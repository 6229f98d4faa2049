"""Continual World's skills with a puck: push it, past a wall, back, or put it on a shelf."""

from typing import ClassVar

import torch
from torch import Tensor

from clrl.envs.sawyer import XZ, SawyerSkill, View
from clrl.envs.shaping import distance, hamacher, long_tail, lure, quaternion, when_near
from clrl.envs.skill import constant
from clrl.envs.world import World

_RADIUS = 0.05  # around a target, m


class _Puck(SawyerSkill):
    """A free puck and a goal for it."""

    mesh: ClassVar[bool] = False  # observe the mesh's centre instead of the body's origin
    reached: ClassVar[float] = 0.07  # distance from puck to goal that is success, m

    def objects(self, world: World) -> list[Tensor]:
        """The puck; its quaternion has the scalar last."""
        where = ("geom_xpos", "objGeom") if self.mesh else ("xpos", "obj")
        return [world.named(*where), quaternion(world.named("geom_xmat", "objGeom"))]

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Puck at the first draw, goal at the second, both at the height where the puck rests."""
        rest = self.settled.rest[self.mesh]
        start = torch.cat((drawn[:, :2], torch.full_like(drawn[:, :1], rest)), dim=1)
        world.field("qpos")[mask, 9:12] = start
        world.field("qvel")[mask, 9:15] = 0.0
        return torch.cat((drawn[:, 3:5], start[:, 2:]), dim=1), start

    def way(self, view: View) -> Tensor:
        """Distance from puck to goal: in space for the second reward, in the plane for the first.

        Meta-World judges success by the distance that the reward of its version computes.
        """
        axes = 2 if self.version == "v1" else 3
        return distance(view.object[:, :axes], view.target[:, :axes])

    def reward_v1(self, view: View) -> Tensor:
        """Come near, then be paid for the way made."""
        near, most = self.approach(view), distance(view.start[:, :2], view.target[:, :2])
        return when_near(near, lure(self.way(view), most).clamp(min=0.0))

    def solved(self, view: View) -> Tensor:
        """Close enough to the goal."""
        return self.way(view) <= self.reached


class Push(_Puck):
    """Push the puck to a goal; success within 5 cm."""

    name = "push"
    reached = 0.05
    scene = "sawyer_push_v3.xml"
    ranges = ((-0.1, 0.6, 0.02, -0.1, 0.8, 0.01), (0.1, 0.7, 0.02, 0.1, 0.9, 0.02))
    goal_range = ((-0.1, 0.8, 0.01), (0.1, 0.9, 0.02))
    apart = 0.15

    def reward_v2(self, view: View) -> Tensor:
        """Surround the puck, then bring it to the goal."""
        way = self.way(view)
        caged = 2.0 * self.caging(view, view.object, 0.015, 0.005)
        placed = long_tail(way, _RADIUS, distance(view.start, view.target))
        held = (self.approach(view) < 0.02) & (view.opened > 0)
        reward = torch.where(held, 2.0 * caged + 1.0 + 5.0 * placed, caged)
        return torch.where(way < _RADIUS, 10.0, reward)


class PushWall(_Puck):
    """Push the puck past a wall to a goal; success within 7 cm."""

    name = "push-wall"
    scene = "sawyer_push_wall_v3.xml"
    mesh = True
    ranges = ((-0.05, 0.6, 0.015, -0.05, 0.85, 0.01), (0.05, 0.65, 0.015, 0.05, 0.9, 0.02))
    goal_range = ((-0.05, 0.85, 0.01), (0.05, 0.9, 0.02))
    apart = 0.15

    def reward_v2(self, view: View) -> Tensor:
        """Surround the puck, bring it beside the wall, then to the goal."""
        puck, way = view.object, self.way(view)
        beside = torch.cat((constant((-0.05, 0.77), puck).expand(len(puck), 2), puck[:, 2:]), dim=1)
        wide = constant((3.0, 1.0, 1.0), puck)
        detour = long_tail(
            distance(puck * wide, beside * wide),
            _RADIUS,
            distance(view.start * wide, beside * wide),
        )
        placed = long_tail(way, _RADIUS, distance(view.start, view.target))
        caged = 2.0 * self.caging(view, puck, 0.015, 0.005)
        held = (self.approach(view) < 0.02) & (view.opened > 0)
        pay = torch.where(puck[:, 1] > 0.75, 4.0 + 3.0 * placed, 4.0 * detour)
        reward = torch.where(held, caged + 1.0 + pay, caged)
        return torch.where(way < _RADIUS, 10.0, reward)


class PushBack(_Puck):
    """Pull the puck back towards the robot; success within 7 cm."""

    name = "push-back"
    scene = "sawyer_push_back_v3.xml"
    mesh = True
    ranges = ((-0.1, 0.8, 0.02, -0.1, 0.6, 0.0199), (0.1, 0.85, 0.02, 0.1, 0.7, 0.0201))
    goal_range = ((-0.1, 0.6, 0.0199), (0.1, 0.7, 0.0201))
    apart = 0.15

    def reward_v2(self, view: View) -> Tensor:
        """Grip the puck, then bring it to the goal."""
        way, before = self.way(view), distance(view.start, view.target)
        placed = long_tail(way, _RADIUS, before)
        reward = hamacher(self._gripped(view), placed)
        held = (self.approach(view) < 0.01) & (view.opened > 0) & (view.opened < 0.55)
        reward = torch.where(held & (before - way > 0.01), reward + 1.0 + 5.0 * placed, reward)
        return torch.where(way < _RADIUS, 10.0, reward)

    def _gripped(self, view: View) -> Tensor:
        """This skill's own measure of a grip; its margins follow the pads as they move."""
        puck, pads = view.object, view.pads()
        gaps = torch.stack((pads[:, 0] - puck[:, 1], puck[:, 1] - pads[:, 1]), dim=1)
        margin = ((puck[:, 1:2] - pads).abs() - 0.05).abs()
        caged = long_tail(gaps, 0.05, margin, 0.007)
        gripped = long_tail(gaps, 0.007 + 0.003, margin, 0.007)
        wide = distance(view.start[:, XZ], self.tcp(puck)[XZ]) - 0.01
        along = long_tail(distance(view.tcp[:, XZ], puck[:, XZ]), 0.01, wide)
        around = hamacher(hamacher(caged[:, 1], caged[:, 0]), along)
        grip = hamacher(gripped[:, 1], gripped[:, 0])
        return (around + torch.where(around > 0.95, grip, 0.0)) / 2


class ShelfPlace(_Puck):
    """Put the block on a shelf; success within 7 cm of its place."""

    name = "shelf-place"
    scene = "sawyer_shelf_placing.xml"
    fixture = "shelf"
    ranges = ((-0.1, 0.5, 0.019, -0.1, 0.8, 0.299), (0.1, 0.6, 0.021, 0.1, 0.9, 0.301))
    goal_range = ((-0.1, 0.8, 0.299), (0.1, 0.9, 0.301))

    def fixture_place(self, drawn: Tensor) -> Tensor:
        """The shelf's board is 30 cm above its origin."""
        return drawn[:, 3:6] - constant((0.0, 0.0, 0.3), drawn)

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Block on the table, goal on the shelf."""
        _, start = super().place(world, mask, drawn)
        site = constant(tuple(self.model.site("goal").pos), drawn)
        return site + self.fixture_place(drawn), start

    def way(self, view: View) -> Tensor:
        """Distance from block to goal."""
        return distance(view.object, view.target)

    def reward_v2(self, view: View) -> Tensor:
        """Grip and lift the block, then bring it over the shelf and not under it."""
        block, target, way = view.object, view.target, self.way(view)
        placed = long_tail(way, _RADIUS, distance(view.start, target))
        reward = hamacher(self.caging(view, block, 0.02, 0.01, dense=False), placed)
        low = (block[:, 2] > 0) & (block[:, 2] < 0.24)
        low &= (block[:, 0] - target[:, 0]).abs() < 0.15
        edge = target[:, 1] - 3 * _RADIUS
        before = low & (edge < block[:, 1]) & (block[:, 1] < target[:, 1])
        height = ((0.24 - block[:, 2]) / 0.24).clamp(0.0, 1.0)
        depth = ((block[:, 1] - edge) / (3 * _RADIUS)).clamp(0.0, 1.0)
        placed = torch.where(before, (placed - hamacher(depth, height)).clamp(0.0, 1.0), placed)
        placed = torch.where(low & (block[:, 1] > target[:, 1]), 0.0, placed)
        held = (self.approach(view) < 0.025) & (view.opened > 0)
        lifted = block[:, 2] - 0.01 > view.start[:, 2]
        reward = torch.where(held & lifted, reward + 1.0 + 5.0 * placed, reward)
        return torch.where(way < _RADIUS, 10.0, reward)

    def reward_v1(self, view: View) -> Tensor:
        """Reach, close, lift, carry."""
        way, ground = self.way(view), self.settled.rest[1]
        lift = ground + 0.04
        start = torch.cat((view.start[:, :2], constant(lift, way).expand(len(way), 1)), dim=1)
        most = distance(start, view.target) + lift
        above = (view.tcp - self.tcp(view.tcp))[:, 2].abs()
        return self.carry_v1(view, way, lure(way, most), ground, lift, above)
