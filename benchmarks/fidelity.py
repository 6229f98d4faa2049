"""Continual World's skills beside Meta-World's own classes: agreement, and its experts' success.

Every row compares observation, reward and success in states that Meta-World's environment reached
by its scripted expert, the expert with noise, and random actions, and where one more control step
leads; then runs the expert from the same starts in our batched worlds and in Meta-World.
"""

import argparse
import json
import warnings

from metaworld_oracle import compare, expert_pairs
from table import arguments, machine, suite


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--episodes", type=int, default=12, help="of 200 steps, compared")
    parser.add_argument("--expert-episodes", type=int, default=100)


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    warnings.filterwarnings("ignore", message="Constant")  # experts ask for long steps
    print("| skill | reward | states | observation | reward differs | success differs |", end="")
    print(" a step on | apart | shaken | expert here | in Meta-World |\n|" + "---|" * 11)
    rows, notes = [], []
    for name in (skill.removeprefix("cw-") for skill in suite("cw10")):
        ours, theirs = expert_pairs(name, options.expert_episodes)
        for version in ("v2", "v1"):
            found = compare(name, version, options.episodes)
            success = {"expert_ours": ours.mean(), "expert_theirs": theirs.mean()}
            rows.append({"name": name, "version": version, **found, **success})
            print(
                f"| {name} | {version} | {found['states']:,.0f} | {found['observation']:.1e} "
                f"| {found['reward']:.1e} | {found['success']:.0f} "
                f"| {found['motion']:.1e} | {found['parted']:.1%} | {found['shaken']:.1%} "
                f"| {ours.mean():.2f} | {theirs.mean():.2f} |",
                flush=True,
            )
            if found["elsewhere"]:
                share = f"{found['elsewhere']} of {options.episodes} episodes"
                where = f"start up to {found['first']:.1e} elsewhere"
                reward = f"rewards differ by {found['reward_elsewhere']:.1e}"
                notes.append(f"{name}, {version}: {share} {where}; there {reward}")
    print(*notes, sep="\n")
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}))
