"""What each command does; `clrl.cli` reads the command line."""

import argparse
import ast
import json
import os
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# options that have no default here
_PASSED = ("threads", "keep_checkpoints", "checkpoint_seconds", "importance")


def train(options: argparse.Namespace) -> None:
    """Learn a curriculum and show what is retained."""
    from clrl.envs.catalog import CURRICULA, SKILLS
    from clrl.trainer import train

    for name in options.protect or []:
        if name in CURRICULA or name in SKILLS:
            raise ValueError(
                f"--protect takes all names after it, {name} too; say `clrl train {name} "
                "--protect ...`"
            )
    run = train(
        options.curriculum,
        options.agent,
        options.protect,
        joint=options.joint,
        seed=options.seed,
        steps_per_skill=options.steps_per_skill,
        horizon=options.horizon,
        success_rule=options.success,
        out=options.out,
        device=options.device,
        memory=options.memory,
        quiet=options.json,
        **{k: v for k, v in vars(options).items() if k in _PASSED and v is not None},
    )
    _conclude(run, options.json)


def resume(options: argparse.Namespace) -> None:
    """Go on with a run."""
    from clrl.trainer import resume

    run = resume(options.run, quiet=options.json, allow_versions=options.allow_versions)
    _conclude(run, options.json)


def adapt(options: argparse.Namespace) -> None:
    """Teach a trained agent one more skill and show what the others kept."""
    from clrl.adaptation import Adaptation, adapt

    run = adapt(
        options.run,
        options.skill,
        variant=dict(map(_setting, options.set)),
        name=options.name,
        like=options.like,
        steps=options.steps,
        out=options.out,
        device=options.device,
        threads=options.threads,
        quiet=options.json,
    )
    result = Adaptation.of(run)
    if options.json:
        print(json.dumps(result.to_json() | {"run": str(run.path)}))
        return
    print(f"{run.retention()}\n\n{result}\n\n{run.path}")


def import_agent(options: argparse.Namespace) -> None:
    """Make a run of an agent of plain Stable-Baselines3."""
    from clrl.sb3_import import from_sb3

    run = from_sb3(
        options.file,
        options.skill,
        variant=dict(map(_setting, options.set)),
        protect=options.protect,
        vec_normalize=options.vec_normalize,
        trust_pickle=options.trust_pickle,
        seed=options.seed,
        out=options.out,
        threads=options.threads,
        quiet=options.json,
    )
    _conclude(run, options.json)


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as JSON reads it, or else as text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _conclude(run: Any, as_json: bool) -> None:
    _show(run.retention(), as_json)
    if not as_json:
        print(f"\n{run.path}/retention.json   {run.path}/retention.png")


def _show(retention: Any, as_json: bool) -> None:
    print(retention.to_json() if as_json else retention)


def evaluate(options: argparse.Namespace) -> None:
    """Measure a run's retention anew."""
    from clrl.api import evaluate

    result = evaluate(
        options.run,
        episodes=options.episodes,
        seed=options.seed,
        horizon=options.horizon,
        success_rule=options.success,
        device=options.device,
        threads=options.threads,
        quiet=options.json,
    )
    _show(result, options.json)
    if not options.json:
        kept = Path(options.run) / "retention.json"
        print(f"measured anew, but for what training took; {kept} stays as it was")


def sweep(options: argparse.Namespace) -> None:
    """Train every run of a sweep, and set them side by side."""
    from clrl.agents.lanes import cores
    from clrl.sweep import Sweep

    at_once = cores() if options.jobs is None else options.jobs
    if not 1 <= at_once <= cores() and (options.engine == "local" or at_once < 1):
        raise ValueError(f"--jobs must be in [1, {cores()}], the cores here, got {options.jobs}")
    threads = cores() // at_once if options.engine == "local" else 1
    work = Sweep.read(options.spec, threads)
    if options.dry_run:
        runs = {"runs": work.to_json()}
        print(json.dumps(runs, indent=2) if options.json else work.plan(at_once))
        return
    out = sys.stderr if options.json else sys.stdout

    def tell(line: str) -> None:
        print(line, file=out, flush=True)

    tell(f"{len(work.left())} of {len(work.entries)} runs to train, logs in {work.out}/logs")
    try:
        failed = work.train(options.engine, options.jobs, tell)
    except KeyboardInterrupt:
        tell("stopped; the same command goes on")
        raise
    comparison = work.comparison()
    if options.json:
        methods = comparison.to_json() if comparison else []
        print(json.dumps({"runs": work.to_json(), "methods": methods, "failed": failed}, indent=2))
    elif comparison:
        print(f"\n{comparison}")
    if failed:
        told = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        raise ValueError(f"{len(failed)} of {len(work.entries)} runs failed: {told}")


def compare(options: argparse.Namespace) -> None:
    """Set finished runs side by side."""
    from clrl.envs.opengl import choose_backend

    choose_backend()
    from clrl.compare import compare, write_report

    if options.out and (not Path(options.out).parent.is_dir() or Path(options.out).is_dir()):
        raise ValueError(f"--out {options.out} must be a file in a folder that exists")
    runs = [path for path in options.runs if (Path(path) / "run.json").exists()]
    for path in set(options.runs) - set(runs) if runs else ():  # such as the logs of a sweep
        print(f"clrl: {path} is not a run; left out", file=sys.stderr)
    comparison = compare(runs or options.runs)
    if options.out:
        write_report(Path(options.out), comparison)
    print(json.dumps(comparison.to_json(), indent=2) if options.json else comparison)
    if options.out and not options.json:
        print(f"\n{options.out}")


def play(options: argparse.Namespace) -> None:
    """Film skills."""
    from clrl.envs.opengl import choose_backend

    choose_backend()
    from clrl.play import play

    for path in play(Path(options.run), options.skill, options.episodes):
        print(path)


def export(options: argparse.Namespace) -> None:
    """Write a bundle, a folder for Hugging Face, or both."""
    from clrl.envs.opengl import choose_backend

    choose_backend()
    from clrl.bundle import CONTRACT
    from clrl.export import LEARNED, ForgottenError, export, write
    from clrl.run import Run

    if not options.out and not options.hub_dir:
        raise ValueError("give --out, --hub-dir or both")
    for path in filter(None, (options.out, options.hub_dir)):
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists; choose another place or remove it")
    run = Run.open(options.run)
    table = sys.stderr if options.json else sys.stdout
    try:
        files = export(
            run,
            [Run.open(path) for path in options.variants],
            min_retention=options.min_retention,
            allow_forgetting=options.allow_forgetting,
        )
    except ForgottenError:
        print(run.retention(), file=table)
        raise
    result = run.retention()
    print(result, file=table)
    rates = zip(result.skills, result.success[-1], strict=True)
    if poor := [f"{name} {rate:.0%}" for name, rate in rates if rate < LEARNED]:
        print(f"clrl: under {LEARNED:.0%} success: {', '.join(poor)}", file=sys.stderr)
    if options.out:
        write(Path(options.out), files)
    missing = None
    if options.hub_dir:
        from clrl.hub import write_hub_folder

        missing = write_hub_folder(Path(options.hub_dir), run, files)
    if options.json:
        written = {"out": options.out, "hub_dir": options.hub_dir, "files": sorted(files)}
        print(json.dumps(written | {"no_replay": missing}))
        return
    print()
    for skill in json.loads(files[CONTRACT])["skills"]:
        if size := skill["bytes_of_variant"]:
            rate = skill["measured"]["success"]
            print(f"variant {skill['name']}: {rate:.0%}, {size / 1000:.1f} kB")
    for path in filter(None, (options.out, options.hub_dir)):
        print(path)
    if missing:
        print(missing)


def verify(options: argparse.Namespace) -> None:
    """Check a bundle."""
    from clrl.verify import show, verify

    report = verify(options.bundle)
    print(json.dumps(report) if options.json else show(report))


def list_names(options: argparse.Namespace) -> None:
    """Show what there is to train and protect with."""
    from clrl.agents.catalog import AGENTS, PROTECTIONS
    from clrl.envs.catalog import CURRICULA, SKILLS

    content: dict[str, dict[str, Any]] = {
        "curricula": {name: list(skills) for name, skills in CURRICULA.items()},
        "skills": {name: _summary(path) for name, path in SKILLS.items()},
        "agents": {name: _summary(path) for name, path in AGENTS.items()},
        "protections": {name: _summary(path) for name, path in PROTECTIONS.items()},
        "engines": {
            "cpu": "mujoco.batch, a thread pool over the worlds",
            "cuda": "mujoco_warp, one graph over the worlds",
        },
    }
    if options.json:
        print(json.dumps(content, indent=2))
        return
    for title, entries in content.items():
        print(title)
        width = max(map(len, entries))
        for name, more in entries.items():
            text = more if isinstance(more, str) else " -> ".join(more)
            lines = textwrap.wrap(text, 96 - width, break_on_hyphens=False)
            print(f"  {name:{width}}  {f'{chr(10)}{(width + 4) * chr(32)}'.join(lines)}")
    print("any Gymnasium id with vectors in and out is a skill too, such as Reacher-v5")


def _summary(path: str) -> str:
    """First line of the docstring of a "module:Class", read without importing torch."""
    module, _, name = path.partition(":")
    spec = find_spec(module)
    assert spec is not None
    tree = ast.parse(Path(str(spec.origin)).read_text())
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return (ast.get_docstring(found) or "").partition("\n")[0]


def doctor(options: argparse.Namespace) -> None:
    """Show what is installed."""
    from clrl.doctor import examine, show

    findings = examine()
    print(json.dumps(findings, indent=2) if options.json else show(findings))
    if not all(f["ok"] or f["optional"] for f in findings):
        raise SystemExit(2)
