"""All that needs a GPU, in one command and into one JSON: `make bench-gpu`.

Each part runs in a process of its own; one that fails is recorded and the others go on. The file is
written after each, so that what was measured stays. `--device cpu --worlds 4 --quick` runs the same
code on Warp's CPU device, to see that it runs; its figures mean nothing.

    tests       those marked `gpu`
    agreement   every skill on both engines with the same actions: how far they come apart
    throughput  control steps/s with observation and reward, and of the physics alone
    evaluation  every skill of cw10 and arm6, all episodes in one batch, against all CPU cores
    updates     captured SAC updates/s, of `update_speed.py`
    resumption  how far two runs with one seed come apart, and one that was stopped and resumed
    learning    environment steps/s of PPO and SAC, rollouts and updates, all on the GPU
    training    arm6 from beginning to end, and its evaluation on both devices
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure as configure_logger
from table import machine

import clrl
from clrl import checkpoint
from clrl.agents import make_agent
from clrl.envs import CURRICULA, SKILLS, make_curriculum, make_skill
from clrl.envs.episodes import Episodes
from clrl.envs.skill import Skill
from clrl.envs.warp_world import WarpWorld
from clrl.eval.evaluator import Evaluator
from clrl.run import Run

HERE = Path(__file__).parent
SIZES = (64, 256, 1024, 2048, 4096, 8192, 16384, 32768)
LEARNERS = (1024, 2048, 4096, 8192)  # worlds
MANY_SIZES = {"arm-push": SIZES, "cw-faucet-close": SIZES[2:], "cw-hammer": SIZES[2:]}
LEAST = 0.5  # seconds of one measurement of throughput
LIMIT = 3600  # seconds of one part
TESTS = (
    "tests/agents/test_sac_capture.py",
    "tests/envs/test_warp_world.py",
    "tests/clrl/test_device_learning.py",
)
Result = dict[str, Any]


def tests(options: Any) -> Result:
    """What pytest says of the tests that need a GPU; RuntimeError where one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-6000:])
    return {"summary": done.stdout.strip().splitlines()[-1]}


def agreement(options: Any) -> Result:
    """Largest differences of observations after 1 and 30 steps, and of an episode's return."""
    result: Result = {}
    for name in chosen(options, tuple(SKILLS)):
        skill = world_skill(name, options)
        cpu, gpu = (Episodes(skill, 16, device) for device in ("cpu", where(options)))
        for episodes in (cpu, gpu):
            episodes.seed(0)
            episodes.reset()
        generator = torch.Generator().manual_seed(0)
        apart = []
        for _ in range(skill.horizon):
            action = 2 * torch.rand(16, *skill.action_space.shape, generator=generator) - 1
            here, there = cpu.step(action).observation, gpu.step(action).observation.cpu()
            apart.append(float((here - there).abs().max()))
        gpu.world.check()
        result[name] = {
            "observation": [apart[0], apart[min(29, len(apart) - 1)]],
            "return": [float(e.returns.mean()) for e in (cpu, gpu)],
        }
    return result


def throughput(options: Any) -> Result:
    """Rates by skill and number of worlds; of the CPU engine on all cores; of ordered sums."""
    result: Result = {}
    for name in chosen(options, ("arm-push", *CURRICULA["cw10"])):
        sizes = options.worlds or MANY_SIZES.get(name, (4096,))
        skill = world_skill(name, options)
        result[name] = {"gpu": [rates(skill, n, where(options), options) for n in sizes]}
        if name in MANY_SIZES:
            result[name]["cpu"] = rates(skill, 4 if options.quick else 256, "cpu", options)
            result[name]["deterministic"] = ordered(skill, 4 if options.quick else 4096)
        print(f"  {name} {result[name]}", file=sys.stderr, flush=True)
    return result


def rates(skill: Skill, n: int, device: str, options: Any) -> Result:
    """Control steps/s of n worlds, looked at and not, and the GPU memory they take."""
    start = time.perf_counter()
    episodes = Episodes(skill, n, device)
    episodes.seed(0)
    episodes.reset()
    action = 2 * torch.rand(n, *skill.action_space.shape, device=episodes.world.device) - 1
    episodes.step(action)
    wait()
    built = time.perf_counter() - start
    once = timed(lambda: episodes.step(action), 3)
    count = 3 if options.quick else max(5, min(skill.horizon, int(LEAST / once)))
    whole = timed(lambda: episodes.step(action), count)
    bare = timed(lambda: episodes.world.step(skill.substeps), count)
    episodes.world.check()
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    return {
        "worlds": n,
        "steps_per_second": n / whole,
        "physics_per_second": n / bare,
        "first_step_seconds": built,
        "memory_bytes": total - free,
    }


def ordered(skill: Skill, n: int) -> Result:
    """Seconds of a control step's physics with sums in any order, and in one order."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {}
    for deterministic in (False, True):
        world = WarpWorld(
            skill.model, n, device, contacts=skill.contacts, deterministic=deterministic
        )
        world.step(skill.substeps)
        seconds[deterministic] = timed(partial(world.step, skill.substeps), 20)
    return {"worlds": n, "any_order": seconds[False], "one_order": seconds[True]}


def evaluation(options: Any) -> Result:
    """Seconds of the first and second time on the GPU, and on all CPU cores; mean returns."""
    episodes = 4 if options.quick else 1000
    result: Result = {}
    for curriculum, layers in (("cw10", [256] * 4), ("arm6", [128] * 2)):
        spec = make_curriculum(list(chosen(options, CURRICULA[curriculum])))
        spec = spec.under(horizon=5) if options.quick else spec
        env = spec.vec_env(spec.names[0], 1)
        policy = PPO("MlpPolicy", env, policy_kwargs={"net_arch": layers}, device="cpu", seed=0)
        row: Result = {"skills": len(spec), "episodes": episodes}
        for engine, device, turns in (
            ("gpu", where(options), ("first", "second")),
            ("cpu", "cpu", ("first",)),
        ):
            evaluator = Evaluator(spec, episodes=episodes, device=device)
            for turn in turns:
                start = time.perf_counter()
                scores = [evaluator.score(policy, name) for name in spec.names]
                row[f"{engine}_{turn}_seconds"] = time.perf_counter() - start
            row[f"{engine}_returns"] = [float(score.returns.mean()) for score in scores]
            evaluator.close()
        result[curriculum] = row
        print(f"  {curriculum} {row}", file=sys.stderr, flush=True)
    return result


def updates(options: Any) -> Result:
    """What the benchmark of updates says, stock Stable-Baselines3 on the same GPU beside ours."""
    if options.device == "cpu":
        return {"skipped": "needs a GPU"}
    script = str(HERE / "update_speed.py")
    return last_json([script, "--device", "cuda", "--steps", "100", "--rounds", "5", "--json"])


def learning(options: Any) -> Result:
    """Environment steps/s of learners on arm-push by number of worlds, after a first rollout."""
    skill = world_skill("arm-push", options)
    result: Result = {}
    for n in options.worlds or LEARNERS:
        ppo = {"n_steps": 32, "batch_size": 8 * n, "n_epochs": 5}
        sac = {"train_freq": 8, "gradient_steps": 8, "batch_size": 4096, "learning_starts": n}
        settings: dict[str, dict[str, Any]] = {"ppo": ppo, "sac": sac}
        for kind, own in settings.items():
            result.setdefault(kind, []).append(learner(kind, skill, n, options, own))
    return result


def learner(kind: str, skill: Skill, n: int, options: Any, own: dict[str, Any]) -> Result:
    """Rate of one learner, the GPU memory that is taken then, and its settings."""
    env = skill.vec_env(n, device=where(options), stagger=8)
    agent: Any = make_agent(
        kind,
        skill.observation_space,
        skill.action_space,
        worlds=n,
        device=options.device,
        policy_kwargs={"net_arch": [256, 256], "normalize": True},
        **own,
    )
    agent.set_logger(configure_logger(None, []))
    agent.begin_skill(skill.name, env)
    rollout = n * (own["n_steps"] if kind == "ppo" else own["train_freq"])
    agent.learn(rollout if kind == "ppo" else 2 * rollout, reset_num_timesteps=False)
    rollouts = 1 if options.quick else 20
    seconds = timed(lambda: agent.learn(rollouts * rollout, reset_num_timesteps=False), 1)
    env.episodes.world.check()
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    rate = rollouts * rollout / seconds
    return {"worlds": n, "steps_per_second": rate, "memory_bytes": total - free, "settings": own}


def resumption(options: Any) -> Result:
    """Largest difference of a weight between runs, and their successes, for PPO and SAC."""
    result: Result = {}
    small: Any = {"steps_per_skill": 32_768, "worlds": 256, "episodes": 100}
    if options.quick:
        small = {"steps_per_skill": 640, "worlds": 8, "episodes": 2, "horizon": 5}
    for kind in ("ppo", "sac"):
        runs = {}
        sac = {"learning_starts": small["steps_per_skill"] // 8, "train_freq": 16}
        own = sac if kind == "sac" else {}
        with tempfile.TemporaryDirectory() as folder:
            for name in ("one", "again", "resumed"):
                out = Path(folder) / name
                stop = name == "resumed"
                runs[name] = trained(kind, out, where(options), small | own, stop)
            weights = {name: final_weights(run) for name, run in runs.items()}
            result[kind] = {
                name: {
                    "largest_difference": float((weights[name] - weights["one"]).abs().max()),
                    "success": runs[name].retention().success,
                }
                for name in runs
            }
    return result


def trained(kind: str, out: Path, device: str, settings: Any, stop: bool) -> Any:
    """A run of two skills of the arm; if asked, stopped within the second one and resumed."""
    save, halfway = Run.save_checkpoint, settings["steps_per_skill"] * 5 // 4

    def stopping(run: Run, step: int, *rest: Any) -> None:
        save(run, step, *rest)
        if step >= halfway:
            raise KeyboardInterrupt

    options: Any = {"out": out, "device": device, "quiet": True, "checkpoint_seconds": 0.0}
    if not stop:
        return clrl.train(["arm-reach", "arm-press"], kind, **options, **settings)
    with mock.patch.object(Run, "save_checkpoint", stopping), suppress(KeyboardInterrupt):
        clrl.train(["arm-reach", "arm-press"], kind, **options, **settings)
    return clrl.resume(out, quiet=True)


def final_weights(run: Any) -> torch.Tensor:
    """All weights of a run's last checkpoint, in one row."""
    path = checkpoint.newest_valid(run.checkpoints)
    assert path is not None
    policy: Any = checkpoint.read(path)[0]["agent"]["policy"]
    return torch.cat([torch.as_tensor(value).double().flatten() for value in policy.values()])


def training(options: Any) -> Result:
    """Seconds and metrics of `clrl train arm6 --device cuda`, and its skills on both devices."""
    quick: Any = {"steps_per_skill": 256, "horizon": 5, "episodes": 2, "worlds": 4}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = clrl.train(
            ["arm-reach", "arm-press"] if options.quick else "arm6",
            out=Path(folder) / "run",
            device=where(options),
            quiet=True,
            **(quick if options.quick else {}),
        )
        seconds = time.perf_counter() - start
        retention = run.retention()
        both = {
            device: scored(run, 4 if options.quick else 1000, device)
            for device in (where(options), "cpu")
        }
    return {
        "seconds": seconds,
        "cost": retention.cost,
        "metrics": retention.metrics,
        "success": retention.success,
        "final": both,
    }


def scored(run: Any, episodes: int, device: str) -> Result:
    """Success of each skill by the final agent, and the seconds that takes in warm worlds."""
    curriculum, agent = run.curriculum, run.agent()
    evaluator = Evaluator(curriculum, episodes=episodes, device=device)
    each = dict.fromkeys(curriculum.names, agent)
    evaluator.scores(each, seed=1)
    start = time.perf_counter()
    scores = evaluator.scores(each)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "success": [score.rate for score in scores]}


PARTS: dict[str, Callable[[Any], Result]] = {
    part.__name__: part
    for part in (tests, updates, agreement, resumption, throughput, evaluation, learning, training)
}


def where(options: Any) -> str:
    """The device of the worlds: a GPU, or Warp's CPU device in its place."""
    return "warp:cpu" if options.device == "cpu" else "cuda"


def chosen(options: Any, skills: tuple[str, ...]) -> tuple[str, ...]:
    """All the skills, or the first one where only a quick look is wanted."""
    return skills[:1] if options.quick else skills


def world_skill(name: str, options: Any) -> Skill:
    """A skill, with short episodes where only a quick look is wanted."""
    skill = make_skill(name, **({"horizon": 5} if options.quick else {}))
    assert isinstance(skill, Skill)
    return skill


def timed(step: Callable[[], object], count: int) -> float:
    """Seconds of one of `count` calls, the device's own time included."""
    wait()
    start = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return (time.perf_counter() - start) / count


def wait() -> None:
    """Until the GPU, if there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def last_json(arguments: list[str]) -> Result:
    """The object on the last line that a script prints; RuntimeError with its error where none."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:] or f"exit status {done.returncode}")
    result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measured(part: str, options: Any) -> Result:
    """One part in its own process: its result or its error, and its seconds."""
    arguments = [__file__, "--device", options.device, "--only", part]
    arguments += ["--quick"] if options.quick else []
    arguments += ["--worlds", *map(str, options.worlds)] if options.worlds else []
    start = time.perf_counter()
    try:
        outcome: Result = {"result": last_json(arguments)}
    except (RuntimeError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        outcome = {"error": str(error)}
    return outcome | {"seconds": time.perf_counter() - start}


def main() -> None:
    """Run the parts, or only one of them, whose result goes to the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--worlds", type=int, nargs="+", help="of throughput and learning")
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    parser.add_argument("--out", type=Path, default=HERE / "gpu.json")
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the cores belong to the physics
    if options.only:
        print(json.dumps(PARTS[options.only](options)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; `--device cpu --worlds 4 --quick` tries the command itself")
    gpu = torch.cuda.get_device_name(0) if options.device == "cuda" else None
    report: Result = {"machine": machine() | {"gpu": gpu}, "parts": {}}
    report |= {"device": options.device, "quick": options.quick}
    for part in options.parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        report["parts"][part] = outcome = measured(part, options)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
        said = outcome["error"].splitlines()[-1] if "error" in outcome else "done"
        print(f"{part}: {said} ({outcome['seconds']:.0f} s)", file=sys.stderr, flush=True)
    print(options.out)
    raise SystemExit(any("error" in outcome for outcome in report["parts"].values()))


if __name__ == "__main__":
    main()
