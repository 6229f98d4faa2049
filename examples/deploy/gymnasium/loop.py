"""A bundle in a plain Gymnasium loop, with neither torch nor Stable-Baselines3 in the acting."""

import sys

import gymnasium as gym

import clrl.deploy


def main(bundle: str, skill: str, episodes: int = 1) -> float:
    """Run episodes and return the share that succeeded."""
    policy = clrl.deploy.load(bundle)
    entry = next(s for s in policy.contract["skills"] if s["name"] == skill)
    known = f"clrl/{entry['id']}-v0"
    env = gym.make(known if known in gym.registry else entry["id"])
    successes = 0
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        over = False
        while not over:
            observation, _, terminated, truncated, info = env.step(policy(observation, skill))
            over = terminated or truncated
        successes += bool(info.get("is_success", False))
    env.close()
    print(f"{skill}: {successes} of {episodes} episodes succeeded")
    return successes / episodes


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["1"])[0]))
