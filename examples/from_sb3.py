"""From plain Stable-Baselines3 to a second skill: train a PPO there, import it, adapt it."""

import sys

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import clrl

if __name__ == "__main__":
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    env = make_vec_env("clrl/arm-reach-v0", 8, seed=seed)
    model = PPO("MlpPolicy", env, n_steps=256, batch_size=256, gamma=0.97, seed=seed)
    model.learn(200_000)
    model.save(f"reach-{seed}.zip")

    run = clrl.from_sb3(f"reach-{seed}.zip", "arm-reach", trust_pickle=True, seed=seed)
    more = clrl.adapt(run.path, "arm-press")
    print(more.retention())
