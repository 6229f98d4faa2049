"""Continual World's skills with a mechanism: a faucet, a handle and a window."""

import mujoco
import torch
from torch import Tensor

from clrl.envs.sawyer import SawyerSkill, View
from clrl.envs.shaping import bell, distance, hamacher, long_tail, lure, when_near
from clrl.envs.skill import constant
from clrl.envs.world import World

_NO_QUATERNION = (0.0, 0.0, 0.0, 0.0)


class _Mechanism(SawyerSkill):
    """A handle on a site, moved to a target."""

    site: str

    def objects(self, world: World) -> list[Tensor]:
        """The handle; it has no quaternion."""
        handle = world.named("site_xpos", self.site)
        return [handle, constant(_NO_QUATERNION, handle).expand(world.n, 4)]

    def offset(self, site: str, like: Tensor) -> Tensor:
        """From the fixture to one of its sites when an episode starts, (3,)."""
        data = self.settled.data
        return constant(tuple(data.site(site).xpos - data.body(self.fixture).xpos), like)


class FaucetClose(SawyerSkill):
    """Turn a faucet's knob clockwise; success within 7 cm of closed."""

    name = "faucet-close"
    scene = "sawyer_faucet.xml"
    fixture = "faucetBase"
    ranges = ((-0.1, 0.8, 0.0), (0.1, 0.85, 0.0))
    hand_start = (0.0, 0.4, 0.2)
    hand_range = ((-0.5, 0.4, -0.15), (0.5, 1.0, 0.5))
    goal_range = hand_range

    def goal_site(self) -> int:
        """Shows where the knob belongs."""
        return int(self.model.site("goal_close").id)

    def objects(self, world: World) -> list[Tensor]:
        """The knob's tip, and the quaternion of the base."""
        knob = world.named("site_xpos", "handleStartClose")
        tip = knob - constant((0.0, 0.0, 0.01), knob)
        return [tip, world.named("xquat", "faucetBase")]

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The reset has moved the base; its origin counts as the knob's start."""
        return drawn + constant((-0.175, 0.0, 0.125), drawn), drawn

    def reward_v2(self, view: View) -> Tensor:
        """Reach the knob, bring it to the target."""
        to_target = distance(view.object, view.target)
        margin = (distance(view.start, view.target) - 0.07).abs()
        reach = bell(self.approach(view), 0.01, self.approach_margin(view, 0.01))
        reward = 4.0 * reach + 6.0 * long_tail(to_target, 0.07, margin)
        return torch.where(to_target <= 0.07, 10.0, reward)

    def reward_v1(self, view: View) -> Tensor:
        """Reach the knob, then be paid for the way made."""
        way, most = (distance(at, view.target) for at in (view.object, view.start))
        return when_near(self.approach(view), lure(way, most).clamp(min=0.0))

    def solved(self, view: View) -> Tensor:
        """Within 7 cm."""
        return distance(view.object, view.target) <= 0.07


class HandlePressSide(_Mechanism):
    """Press a handle down from the side; success within 2 cm of its end."""

    name = "handle-press-side"
    scene = "sawyer_handle_press_sideways.xml"
    fixture = "box"
    site = "handleStart"
    ranges = ((-0.35, 0.65, -0.001), (-0.25, 0.75, 0.001))

    @classmethod
    def arrange(cls, data: mujoco.MjData) -> None:
        """Handle up."""
        data.qpos[9], data.qvel[9] = -0.001, 0.0

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The reset has moved the box; handle and target go with it."""
        return drawn + self.offset("goalPress", drawn), drawn + self.offset(self.site, drawn)

    def reward_v2(self, view: View) -> Tensor:
        """Be at the handle and have it down."""
        left = self.left(view)
        margin = ((view.start - view.target)[:, 2].abs() - 0.02).abs()
        reach = long_tail(self.approach(view), 0.02, self.approach_margin(view, 0.02))
        reward = 10.0 * hamacher(reach, long_tail(left, 0.02, margin))
        return torch.where(left <= 0.02, 10.0, reward)

    def reward_v1(self, view: View) -> Tensor:
        """Reach the handle with the left finger, then be paid for the way down."""
        near = distance(view.object, view.world.named("site_xpos", "leftEndEffector"))
        most = (view.start - view.target)[:, 2].abs()
        return when_near(near, lure(self.left(view), most).clamp(min=0.0))

    def solved(self, view: View) -> Tensor:
        """Within 2 cm of its end."""
        return self.left(view) <= 0.02

    def left(self, view: View) -> Tensor:
        """Height that is left to press, (n,)."""
        return (view.object - view.target)[:, 2].abs()


class WindowClose(_Mechanism):
    """Slide a window shut; success within 5 cm."""

    name = "window-close"
    scene = "sawyer_window_horizontal.xml"
    fixture = "window"
    site = "handleCloseStart"
    ranges = ((0.0, 0.75, 0.2), (0.0, 0.9, 0.2))
    hand_start = (0.0, 0.4, 0.2)

    def place(self, world: World, mask: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Window open by 20 cm; the target is the frame's origin."""
        world.field("qpos")[mask, 9] = 0.2
        return drawn, drawn + self.offset(self.site, drawn) + constant((0.2, 0.0, 0.0), drawn)

    def reward_v2(self, view: View) -> Tensor:
        """Be at the handle and have it shut."""
        margin = ((view.start - view.target)[:, 0].abs() - 0.05).abs()
        reach = bell(self.approach(view), 0.02, self.approach_margin(view, 0.02))
        return 10.0 * hamacher(reach, long_tail(self.left(view), 0.05, margin))

    def reward_v1(self, view: View) -> Tensor:
        """Reach the handle, then be paid for the way made, even below nothing."""
        return when_near(self.approach(view), lure(self.left(view), 0.2))

    def solved(self, view: View) -> Tensor:
        """Within 5 cm."""
        return self.left(view) <= 0.05

    def left(self, view: View) -> Tensor:
        """Way that is left to slide, (n,)."""
        return (view.object - view.target)[:, 0].abs()
