"""The `clrl` command."""

import argparse
import ast
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from clrl import __version__

_AGENTS = ("ppo", "sac")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(_fail(f"{message} (see `{self.prog} --help`)"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command named on the command line; exits with 0, or with 2 and one line of error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    except ModuleNotFoundError as error:
        raise SystemExit(_fail(_missing(error))) from None
    except Exception as error:  # of a user's own skill or protection it may be anything
        if os.environ.get("CLRL_DEBUG"):
            raise
        raise SystemExit(_fail(_told(error))) from None


def _told(error: Exception) -> str:
    """An error as one line; what was not raised for users says how to find where it was."""
    meant = isinstance(error, ValueError | OSError | RuntimeError)
    if meant and type(error) is not RuntimeError and str(error):
        return str(error)
    said = str(error) if meant and str(error) else f"{type(error).__name__}: {error}"
    return f"{said} (CLRL_DEBUG=1 shows where)"


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a package that a command lacks."""
    extra = {"onnxruntime": "deploy", "onnx": "export"}.get(str(error.name), "train")
    return f"{error.name} is not installed; pip install 'clrl[{extra}]'"


def _fail(message: str) -> int:
    print(f"clrl: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _train(options: argparse.Namespace) -> None:
    from clrl.trainer import train

    protect = [] if options.protect == ["none"] else options.protect
    if protect and "none" in protect:
        raise ValueError("--protect none stands alone")
    curriculum = options.curriculum
    run = train(
        curriculum,
        options.agent,
        protect,
        seed=options.seed,
        steps_per_skill=options.steps_per_skill,
        horizon=options.horizon,
        success_rule=options.success,
        out=options.out,
        device=options.device,
        quiet=options.json,
        **({} if options.threads is None else {"threads": options.threads}),
    )
    _conclude(run, options.json)


def _resume(options: argparse.Namespace) -> None:
    from clrl.trainer import resume

    run = resume(options.run, quiet=options.json, allow_versions=options.allow_versions)
    _conclude(run, options.json)


def _conclude(run: Any, as_json: bool) -> None:
    _show(run.retention(), as_json)
    if not as_json:
        print(f"\n{run.path}/retention.json   {run.path}/retention.png")


def _show(retention: Any, as_json: bool) -> None:
    print(retention.to_json() if as_json else retention)


def _evaluate(options: argparse.Namespace) -> None:
    from clrl.config import resolve_device
    from clrl.measure import evaluate_run
    from clrl.run import Run

    device = resolve_device(options.device, options.episodes)
    if options.seed < 0:
        raise ValueError(f"seed must be >= 0, got {options.seed}")
    result = evaluate_run(
        Run.open(options.run),
        episodes=options.episodes,
        seed=options.seed,
        horizon=options.horizon,
        success_rule=options.success,
        device=device,
        quiet=options.json,
    )
    _show(result, options.json)


def _play(options: argparse.Namespace) -> None:
    from clrl.envs.opengl import choose_backend

    choose_backend()
    from clrl.play import play

    for path in play(Path(options.run), options.skill, options.episodes):
        print(path)


def _export(options: argparse.Namespace) -> None:
    from clrl.envs.opengl import choose_backend

    choose_backend()
    from clrl.export import LEARNED, export, finished, write
    from clrl.run import Run

    if not options.out and not options.hub_dir:
        raise ValueError("give --out, --hub-dir or both")
    run = Run.open(options.run)
    result = finished(run)
    print(result, file=sys.stderr if options.json else sys.stdout)
    rates = zip(result.skills, result.success[-1], strict=True)
    if poor := [f"{name} {rate:.0%}" for name, rate in rates if rate < LEARNED]:
        print(f"clrl: under {LEARNED:.0%} success: {', '.join(poor)}", file=sys.stderr)
    files = export(
        run, min_retention=options.min_retention, allow_forgetting=options.allow_forgetting
    )
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
    for path in filter(None, (options.out, options.hub_dir)):
        print(path)
    if missing:
        print(missing)


def _verify(options: argparse.Namespace) -> None:
    from clrl.verify import show, verify

    report = verify(options.bundle)
    print(json.dumps(report) if options.json else show(report))


def _list(options: argparse.Namespace) -> None:
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


def _doctor(options: argparse.Namespace) -> None:
    from clrl.doctor import examine, show

    findings = examine()
    print(json.dumps(findings, indent=2) if options.json else show(findings))
    if not all(f["ok"] or f["optional"] for f in findings):
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="clrl",
        description="Train one agent through a curriculum of robot skills, protect what it has "
        "learned, and measure what it retains.",
        epilog="example: clrl train arm3 --seed 0 --out runs/first",
    )
    parser.add_argument("--version", action="version", version=f"clrl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    train = _add(
        commands,
        "train",
        _train,
        "learn a curriculum and show what is retained",
        "clrl train arm3 --protect ewc distill --seed 1 --out runs/arm3-1",
    )
    train.add_argument(
        "curriculum",
        nargs="?",
        default="arm3",
        help="a name of `clrl list` (arm3 if none), skills separated by commas, or a file",
    )
    train.add_argument("--agent", default="ppo", help=f"one of {', '.join(_AGENTS)}")
    train.add_argument(
        "--protect",
        nargs="+",
        default=None,
        metavar="NAME",
        help="of `clrl list`, or module:Class; none alone for none; all of `clrl list` by default",
    )
    train.add_argument("--seed", type=int, default=0, help="decides every draw")
    train.add_argument(
        "--steps-per-skill",
        type=int,
        metavar="N",
        help="budget of each skill, rounded up to whole rollouts",
    )
    _protocol(train)
    train.add_argument("--out", metavar="DIR", help="the run's directory, which must not exist")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--threads", type=int, metavar="N", help="of the physics; 0 for all cores")

    resume = _add(
        commands, "resume", _resume, "go on exactly where a run stopped", "clrl resume runs/arm3-1"
    )
    resume.add_argument("run", help="the run's directory")
    resume.add_argument(
        "--allow-versions",
        action="store_true",
        help="go on with other versions of MuJoCo, torch and so on than it began with",
    )

    evaluate = _add(
        commands,
        "evaluate",
        _evaluate,
        "measure retention anew from a run's checkpoints",
        "clrl evaluate runs/arm3-1 --episodes 200",
    )
    evaluate.add_argument("run", help="the run's directory")
    evaluate.add_argument("--episodes", type=int, default=100, help="per skill and checkpoint")
    evaluate.add_argument("--seed", type=int, default=1000, help="of the episodes' starts")
    _protocol(evaluate)
    evaluate.add_argument("--device", default="auto", help="auto, cpu or cuda")

    play = _add(
        commands,
        "play",
        _play,
        "make a video of each skill",
        "clrl play runs/arm3-1 --skill push",
        as_json=False,
    )
    play.add_argument("run", help="the run's directory")
    play.add_argument("--skill", help="only this one")
    play.add_argument("--episodes", type=int, default=3, help="per skill")

    export = _add(
        commands,
        "export",
        _export,
        "write a bundle for a robot, unless an earlier skill was forgotten",
        "clrl export runs/arm3-1 --out bundles/arm3-1",
    )
    export.add_argument("run", help="the run's directory")
    export.add_argument("--out", metavar="BUNDLE", help="the bundle, which must not exist")
    export.add_argument("--hub-dir", metavar="DIR", help="a folder for Hugging Face, likewise")
    export.add_argument(
        "--min-retention",
        type=float,
        default=0.8,
        metavar="X",
        help="least share of its success that each earlier skill kept; 0.8 by default",
    )
    export.add_argument(
        "--allow-forgetting", action="store_true", help="export all the same, and say so within"
    )

    verify = _add(
        commands,
        "verify",
        _verify,
        "check every file of a bundle, its golden pairs, limits and latency",
        "clrl verify bundles/arm3-1",
    )
    verify.add_argument("bundle", help="its folder")

    _add(commands, "list", _list, "what there is to train and protect with", "clrl list --json")
    _add(commands, "doctor", _doctor, "versions, devices, and what is missing", "clrl doctor")
    return parser


def _protocol(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--horizon", type=int, metavar="N", help="steps of an episode")
    parser.add_argument("--success", metavar="RULE", help="at any-step, or at the last-step")


def _add(
    commands: Any,
    name: str,
    command: Callable[[argparse.Namespace], None],
    text: str,
    example: str,
    as_json: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}"
    )
    parser.set_defaults(command=command)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON for a script")
    return parser
