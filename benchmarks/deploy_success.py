"""Success of a bundle that a bare Python serves, beside the agent in torch, episode by episode.

The server is a process of another Python, in which only numpy and onnxruntime are installed; the
physics runs here. Make one with: python -m venv bare && bare/bin/pip install 'clrl[deploy]'
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from table import arguments, machine

from clrl import export
from clrl.eval.evaluator import Evaluator
from clrl.eval.intervals import wilson
from clrl.run import Run

_SERVER = """
import sys, time
start = time.perf_counter()
import clrl.deploy
import numpy as np
seconds = time.perf_counter() - start
for name in ("torch", "mujoco", "gymnasium", "stable_baselines3"):
    assert name not in sys.modules, name
policy = clrl.deploy.load(sys.argv[1], clrl.deploy.Safety(on_fault="raise"))
print(seconds, flush=True)
for line in sys.stdin.buffer:
    skill, count, size = line.decode().split()
    data = sys.stdin.buffer.read(4 * int(count) * int(size))
    rows = np.frombuffer(data, np.float32).reshape(int(count), int(size))
    actions = np.stack([policy(row, skill) for row in rows])
    sys.stdout.buffer.write(b"%d\\n" % actions.shape[1] + actions.tobytes())
    sys.stdout.buffer.flush()
"""
Array = NDArray[Any]


class Server:
    """Actions from a bundle in another process."""

    def __init__(self, python: str, bundle: Path) -> None:
        command = [python, "-c", _SERVER, str(bundle)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=bundle.parent, env={}
        )
        assert self.process.stdin
        assert self.process.stdout
        self.to, self.back = self.process.stdin, self.process.stdout
        self.import_seconds = float(self.back.readline() or "nan")

    def act(self, skill: str, observations: Array) -> Array:
        """Actions (n, act) for observations (n, obs)."""
        count, size = observations.shape
        self.to.write(f"{skill} {count} {size}\n".encode())
        self.to.write(observations.astype(np.float32).tobytes())
        self.to.flush()
        width = int(self.back.readline())
        data = self.back.read(4 * count * width)
        return np.frombuffer(data, np.float32).reshape(count, -1)


def main(run: str, python: str, episodes: int, as_json: bool) -> None:
    """Run the same episodes twice."""
    opened = Run.open(run)
    agent = opened.agent()
    evaluator = Evaluator(opened.curriculum, episodes=episodes)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        export.write(Path(folder) / "bundle", export.export(opened, allow_forgetting=True))
        server = Server(python, Path(folder) / "bundle")
        print(f"{'skill':16}{'bundle':>8}{'95 %':>14}{'torch':>8}{'95 %':>14}  same episodes")
        for name in agent.skills:
            scores = [
                evaluator.score(partial(server.act, name), name),
                evaluator.score(agent, name),
            ]
            wins = [int(score.success.sum()) for score in scores]
            low, high = wilson(wins, episodes)
            same = int((scores[0].success == scores[1].success).sum())
            cells = [
                f"{w / episodes:8.2f}{a:9.2f}-{b:.2f}"
                for w, a, b in zip(wins, low, high, strict=True)
            ]
            print(f"{name:16}{cells[0]}{cells[1]}{same:8} of {episodes}")
            rows.append(
                {
                    "name": name,
                    "unit": "success",
                    "ours": wins[0] / episodes,
                    "theirs": wins[1] / episodes,
                    "ratio": wins[0] / max(1, wins[1]),
                    "spread": [float(low[0]), float(high[0])],
                }
            )
        print(f"import clrl.deploy: {server.import_seconds:.2f} s")
        server.to.close()
        server.process.wait()
    if as_json:
        print(json.dumps({"machine": machine(), "rows": rows}))


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a finished run's directory")
    parser.add_argument("--python", default=sys.executable, help="of the bare installation")
    parser.add_argument("--episodes", type=int, default=100)


if __name__ == "__main__":
    options = arguments(__doc__ or "", _configure)
    main(options.run, options.python, options.episodes, options.json)
