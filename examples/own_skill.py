"""A skill of your own: hold the hand still in the air, then learn it after `reach`."""

import torch
from torch import Tensor

import clrl
from clrl.envs import ArmSkill, Curriculum, World
from clrl.envs.arm import within
from clrl.envs.skill import constant


class Hold(ArmSkill):
    """Stop the hand within 5 cm of a fixed point; success when it is slower than 5 cm/s."""

    name = "hold"
    object = "hand"
    steps = 100_000

    def goal(self, world: World, mask: Tensor, random: Tensor) -> Tensor:
        """The same point in every episode, (mask.sum(), 3), m."""
        return constant((0.45, 0.15, 0.20), random).expand(len(random), 3)

    def reward(self, world: World) -> dict[str, Tensor]:
        """Close and slow; the terms sum to at most 1."""
        distance = (self.hand(world) - self.goal_position(world)).norm(dim=1)
        speed = world.sensor("hand_velocity").norm(dim=1)
        return {"near": 0.7 * torch.exp(-5 * distance), "still": 0.3 * torch.exp(-5 * speed)}

    def success(self, world: World) -> Tensor:
        """At the point, and at rest."""
        near = within(self.hand(world), self.goal_position(world), 0.05)
        speed = world.sensor("hand_velocity").square().sum(dim=1).sqrt()
        return near & (speed < 0.05)


def main(steps: int | None = None, out: str = "runs/own-skill") -> None:
    """Train and print what is retained."""
    run = clrl.train(Curriculum("mine", ["arm-reach", Hold()], steps), out=out)
    print(run.retention())


if __name__ == "__main__":
    main()
