"""A trained agent in a plain Gymnasium loop."""

import sys

import gymnasium as gym

import clrl


def main(path: str = "runs/arm3-ppo-seed0", skill: str = "push") -> float:
    """Run one episode and return its return."""
    agent = clrl.load(path)
    env = gym.make(f"clrl/arm-{skill}-v0")
    observation, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation, skill))
        total += float(reward)
        over = terminated or truncated
    print(f"{skill}: return {total:.1f}, success {info['is_success']}")
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
