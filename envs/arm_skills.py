"""Six skills of the arm, each a goal, a reward and a rule of success."""

import torch
from torch import Tensor

from clrl.envs.arm import OPEN, ArmSkill, near, within
from clrl.envs.skill import Terms, between, constant
from clrl.envs.world import World

_HELD = 0.022  # travel of a finger that touches the puck, m


class Reach(ArmSkill):
    """Bring the hand to a point in the air; success within 2 cm."""

    name = "reach"
    object = "hand"
    steps = 200_000

    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """Anywhere in a box above the table."""
        goal = between(random[:, :3], (0.36, -0.20, 0.10), (0.56, 0.20, 0.32))
        return goal * constant((1.0, self.side, 1.0), goal)

    def reward(self, world: World) -> Terms:
        """Closeness at two scales: the wide one guides, the narrow one pays for precision."""
        hand, goal = self.hand(world), self.goal_position(world)
        return {"near": 0.5 * near(hand, goal, 0.2), "at_goal": 0.5 * near(hand, goal, 0.04)}

    def success(self, world: World) -> Tensor:
        """Within 2 cm."""
        return within(self.hand(world), self.goal_position(world), 0.02)


class Press(ArmSkill):
    """Press the button down; success at 80 % of its travel."""

    name = "press"
    object = "button"
    mechanism = "button"
    steps = 250_000

    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """Where the cap is when fully pressed."""
        end = float(world.model.joint("button").range[1])
        button = self.position(world)[mask]
        return button - constant((0.0, 0.0, end), button)

    def reward(self, world: World) -> Terms:
        """Be at the button, then press it."""
        touch = near(self.hand(world), self.position(world), 0.15)
        return {"near": 0.4 * touch, "pressed": 0.6 * self.travel(world).clamp(0.0, 1.0)}

    def success(self, world: World) -> Tensor:
        """At 80 % of the travel."""
        return self.travel(world) >= 0.8


class Push(ArmSkill):
    """Push the puck along the table to a goal; success within 4 cm."""

    name = "push"
    object = "puck"
    steps = 800_000

    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """On the table, 8 to 16 cm from the puck."""
        puck = self.position(world)[mask]
        goal = between(random[:, :2], (0.36, -0.14), (0.53, 0.14))
        goal = goal * constant((1.0, self.side), goal)
        offset = goal - puck[:, :2]
        distance = offset.norm(dim=1, keepdim=True).clamp_min(1e-6)
        goal = puck[:, :2] + offset * (distance.clamp(0.08, 0.16) / distance)
        return torch.cat((goal, puck[:, 2:]), dim=1)

    def reward(self, world: World) -> Terms:
        """Be behind the puck as seen from the goal; have the puck at the goal."""
        puck, goal = self.position(world), self.goal_position(world)
        offset = goal - puck
        ahead = offset / offset.norm(dim=1, keepdim=True).clamp_min(0.02)
        return {
            "near": 0.3 * near(self.hand(world), puck - 0.04 * ahead, 0.1),
            "at_goal": 0.7 * near(puck, goal, 0.1),
        }

    def success(self, world: World) -> Tensor:
        """Within 4 cm."""
        return within(self.position(world), self.goal_position(world), 0.04)


class Drawer(ArmSkill):
    """Hook the handle and pull the drawer open; success at 12 cm."""

    name = "drawer"
    object = "handle"
    mechanism = "drawer"
    steps = 400_000

    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """Where the handle is when the drawer is open."""
        handle = self.position(world)[mask]
        return handle - constant((0.13, 0.0, 0.0), handle)

    def reward(self, world: World) -> Terms:
        """Have the fingers behind the handle, then have the drawer open."""
        handle = self.position(world)
        behind = handle + constant((0.02, 0.0, 0.0), handle)
        opened = (self.travel(world) * 0.16 / 0.13).clamp(0.0, 1.0)
        return {"near": 0.4 * near(self.hand(world), behind, 0.15), "opened": 0.6 * opened}

    def success(self, world: World) -> Tensor:
        """Open by 12 cm."""
        return self.travel(world) * 0.16 >= 0.12


class Dial(ArmSkill):
    """Turn the dial by its peg; success when the peg is within 2 cm of its goal."""

    name = "dial"
    object = "peg"
    mechanism = "dial"
    steps = 400_000

    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """Where the peg is after a turn of 1.0 to 1.8 rad."""
        angle = self.side * between(random[:, 0], 1.0, 1.8)
        centre = world.field("mocap_pos")[mask, world.mocap("dial_stand")]
        goal = self.position(world)[mask]
        radius = (goal - centre)[:, :2].norm(dim=1)
        turn = torch.stack((angle.cos(), angle.sin()), dim=1)
        return torch.cat((centre[:, :2] + radius[:, None] * turn, goal[:, 2:]), dim=1)

    def reward(self, world: World) -> Terms:
        """Be at the peg; have the peg near its goal."""
        peg, goal = self.position(world), self.goal_position(world)
        return {
            "near": 0.3 * near(self.hand(world), peg, 0.15),
            "turned": 0.7 * near(peg, goal, 0.08),
        }

    def success(self, world: World) -> Tensor:
        """Within 2 cm."""
        return within(self.position(world), self.goal_position(world), 0.02)


class Lift(ArmSkill):
    """Grasp the puck and lift it; success 10 cm above the table."""

    name = "lift"
    object = "puck"
    steps = 700_000

    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """Above the puck."""
        puck = self.position(world)[mask]
        return puck + constant((0.0, 0.0, 0.14), puck)

    def reward(self, world: World) -> Terms:
        """Be around the puck, close the fingers on it, have it high."""
        hand, puck = self.hand(world), self.position(world)
        closed = ((OPEN - self.fingers(world)) / (OPEN - _HELD)).clamp(0.0, 1.0)
        return {
            "near": 0.2 * near(hand, puck, 0.1),
            "held": 0.2 * closed * near(hand, puck, 0.05),
            "lifted": 0.6 * ((puck[:, 2] - 0.02) / 0.12).clamp(0.0, 1.0),
        }

    def success(self, world: World) -> Tensor:
        """Its centre 10 cm higher than on the table."""
        return self.position(world)[:, 2] > 0.12
