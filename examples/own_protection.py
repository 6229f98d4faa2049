"""A protection of your own: L2 towards the weights after the last skill."""

from typing import Any

from torch import Tensor

from clrl.agents import ContinualPPO, Protection
from clrl.envs import make_curriculum
from clrl.eval import evaluate


class L2(Protection):
    """Pulls every weight of the actor's trunk back equally; EWC weighs them instead."""

    anchor: list[Tensor] | None = None

    def update(self, learner: Any) -> None:
        """Add strength * (theta - anchor) to the gradient."""
        weights = [p for layer in learner.trunk() for p in layer.parameters()]
        for weight, anchor in zip(weights, self.anchor or [], strict=False):
            weight.grad.add_(weight.detach() - anchor, alpha=self.strength)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return super().state_dict() | {"anchor": self.anchor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        super().load_state_dict(state)
        self.anchor = state["anchor"]

    def after_skill(self, learner: Any) -> None:
        """Remember the weights."""
        self.anchor = [p.detach().clone() for layer in learner.trunk() for p in layer.parameters()]


def main(steps: int = 200_000) -> None:
    """Learn two skills by hand, without a run directory."""
    curriculum = make_curriculum(["arm-reach", "arm-press"])
    envs = [curriculum.vec_env(name, 64, stagger=True) for name in curriculum.names]
    agent = ContinualPPO("MlpPolicy", envs[0], protect=[L2(10.0)], n_steps=32, batch_size=512)
    for name, env in zip(curriculum.names, envs, strict=True):
        agent.begin_skill(name, env, steps)
        agent.learn(steps, reset_num_timesteps=False)
        agent.end_skill()
    for name, score in evaluate(agent, curriculum).items():
        print(f"{name}: {score.rate:.0%} of 100 episodes")


if __name__ == "__main__":
    main()
