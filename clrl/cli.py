"""The `clrl` command."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn

from clrl import __version__, commands
from clrl.interrupt import terminable

_AGENTS = ("ppo", "sac")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(_fail(f"{message} (see `{self.prog} --help`)"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command named on the command line; exits with 0, or with 2 and one line of error."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        with terminable():
            command(options)
    except KeyboardInterrupt as stop:
        if said := str(stop):
            _fail(said)
        raise SystemExit(128 + getattr(stop, "signum", 2)) from None
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
    where = "" if isinstance(error, OSError) else _in_own_code(error)
    if meant and type(error) is not RuntimeError and str(error):
        return f"{error} (in {where})" if where else str(error)
    said = str(error) if meant and str(error) else f"{type(error).__name__}: {error}"
    return f"{said} ({f'in {where}; ' if where else ''}CLRL_DEBUG=1 shows where)"


def _in_own_code(error: Exception) -> str:
    """File and line where a user's own code was when it failed, "" if none of it was."""
    found = ""
    for frame, number in walk_tb(error.__traceback__):
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        file = frame.f_code.co_filename
        library = top in ("clrl", "__main__") or top in sys.stdlib_module_names
        if not (library or "site-packages" in file or file.startswith("<")):
            found = f"{Path(file).name}, line {number}"
    return found


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a package that a command lacks."""
    extra = {"onnxruntime": "deploy", "onnx": "export", "ray": "sweep"}.get(
        str(error.name), "train"
    )
    return f"{error.name} is not installed; pip install 'clrl[{extra}]'"


def _fail(message: str) -> int:
    print(f"clrl: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="clrl",
        description="Train one agent through a curriculum of robot skills, protect what it has "
        "learned, and measure what it retains.",
        epilog="example: clrl train arm3 --seed 0 --out runs/first",
    )
    parser.add_argument("--version", action="version", version=f"clrl {__version__}")
    menu = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    train = _add(
        menu,
        "train",
        commands.train,
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
    _protections(train)
    train.add_argument(
        "--joint", action="store_true", help="all skills at once, the usual upper bound"
    )
    train.add_argument(
        "--importance",
        metavar="HOW",
        help="of earlier skills to protections: equal, or measured by what each retains meanwhile",
    )
    train.add_argument("--seed", type=int, default=0, help="decides every draw")
    train.add_argument(
        "--steps-per-skill",
        type=int,
        metavar="N",
        help="budget of each skill, rounded up to whole rollouts",
    )
    train.add_argument(
        "--memory",
        type=int,
        metavar="ROWS",
        help="an external memory, of this many observations of an episode and earlier skills' own",
    )
    _protocol(train)
    train.add_argument("--out", metavar="DIR", help="the run's directory, which must not exist")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--threads", type=int, metavar="N", help="CPU cores to use; 0 for all")
    train.add_argument(
        "--keep-checkpoints",
        type=int,
        metavar="N",
        help="within a skill, 2 by default; those at its end are always kept",
    )
    train.add_argument(
        "--checkpoint-seconds",
        type=float,
        metavar="S",
        help="least time between two, 30 by default",
    )

    resume = _add(
        menu,
        "resume",
        commands.resume,
        "go on exactly where a run stopped",
        "clrl resume runs/arm3-1",
    )
    resume.add_argument("run", help="the run's directory")
    resume.add_argument(
        "--allow-versions",
        action="store_true",
        help="go on with other versions of MuJoCo, torch and so on than it began with",
    )

    adapt = _add(
        menu,
        "adapt",
        commands.adapt,
        "teach a trained agent one more skill, or a variant of one, in a new run",
        "clrl adapt runs/arm3-1 --skill dial --set payload=4 --steps 100000",
    )
    adapt.add_argument("run", help="the run's directory, which stays as it is")
    adapt.add_argument(
        "--skill", required=True, help="an id of `clrl list`, module:Class, or a skill of the run"
    )
    _variant(adapt)
    adapt.add_argument("--name", help="of the new skill; its own and what varies by default")
    adapt.add_argument(
        "--like", metavar="SKILL", help="whose head it starts from; its kind's if any"
    )
    adapt.add_argument(
        "--steps", type=int, metavar="N", help="of training; the skill's own if none"
    )
    adapt.add_argument("--out", metavar="DIR", help="the new run; RUN-NAME by default")
    adapt.add_argument("--device", help="auto, cpu or cuda; as RUN if none")
    adapt.add_argument("--threads", type=int, metavar="N", help="CPU cores to use; as RUN if none")

    imported = _add(
        menu,
        "import",
        commands.import_agent,
        "make a run of an agent that Stable-Baselines3's PPO or SAC trained, to adapt or export it",
        "clrl import ppo_push.zip --skill arm-push --trust-pickle --out runs/push",
    )
    imported.add_argument("file", help="what SB3's `save` wrote")
    imported.add_argument("--skill", required=True, help="what it was trained on, as for adapt")
    _variant(imported)
    imported.add_argument(
        "--trust-pickle",
        action="store_true",
        help="say that you trust whoever made the files; nothing is read otherwise",
    )
    imported.add_argument(
        "--vec-normalize", metavar="FILE", help="what SB3's VecNormalize saved; it is unpickled"
    )
    _protections(imported)
    imported.add_argument("--seed", type=int, default=0, help="decides every draw")
    imported.add_argument("--out", metavar="DIR", help="the run; runs/ and the file's name if none")
    imported.add_argument("--threads", type=int, default=0, metavar="N", help="of the physics")

    evaluate = _add(
        menu,
        "evaluate",
        commands.evaluate,
        "measure retention anew from a run's checkpoints",
        "clrl evaluate runs/arm3-1 --episodes 200",
    )
    evaluate.add_argument("run", help="the run's directory")
    evaluate.add_argument("--episodes", type=int, default=100, help="per skill and checkpoint")
    evaluate.add_argument("--seed", type=int, default=1000, help="of the episodes' starts")
    _protocol(evaluate)
    evaluate.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate.add_argument("--threads", type=int, metavar="N", help="of the physics; as RUN if none")

    sweep = _add(
        menu,
        "sweep",
        commands.sweep,
        "train methods x curricula x seeds; what is finished stays, what stopped goes on",
        "clrl sweep benchmarks/methods.toml --dry-run",
    )
    sweep.add_argument("spec", help="a TOML file, see docs/compare.md")
    sweep.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="local by default"
    )
    sweep.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time; one a core by default"
    )
    sweep.add_argument("--dry-run", action="store_true", help="only tell what is left to train")

    compare = _add(
        menu,
        "compare",
        commands.compare,
        "set methods side by side: what each kept, what it cost, how sure that is",
        "clrl compare runs/* --out report.html",
    )
    compare.add_argument("runs", nargs="+", metavar="run", help="directories of finished runs")
    compare.add_argument("--out", metavar="FILE", help="also write a page with plots, report.html")

    play = _add(
        menu,
        "play",
        commands.play,
        "make a video of each skill",
        "clrl play runs/arm3-1 --skill push",
        as_json=False,
    )
    play.add_argument("run", help="the run's directory")
    play.add_argument("--skill", help="only this one")
    play.add_argument("--episodes", type=int, default=3, help="per skill")

    export = _add(
        menu,
        "export",
        commands.export,
        "write a bundle for a robot, unless an earlier skill was forgotten",
        "clrl export runs/arm3-1 --out bundles/arm3-1",
    )
    export.add_argument("run", help="the run's directory")
    export.add_argument(
        "--variants",
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs that `clrl adapt` made from it, whose new skills go along",
    )
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
        menu,
        "verify",
        commands.verify,
        "check every file of a bundle, its golden pairs, limits and latency",
        "clrl verify bundles/arm3-1",
    )
    verify.add_argument("bundle", help="its folder")

    _add(
        menu,
        "list",
        commands.list_names,
        "what there is to train and protect with",
        "clrl list --json",
    )
    _add(menu, "doctor", commands.doctor, "versions, devices, and what is missing", "clrl doctor")
    return parser


def _variant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="options of the skill, such as payload=2 friction=0.5 mirrored=true",
    )


def _protections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--protect",
        nargs="+",
        default=None,
        metavar="NAME",
        help="of `clrl list`, or module:Class; none alone for none; ewc by default",
    )


def _protocol(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--horizon", type=int, metavar="N", help="steps of an episode")
    parser.add_argument("--success", metavar="RULE", help="at any-step, or at the last-step")


def _add(
    menu: Any,
    name: str,
    command: Callable[[argparse.Namespace], None],
    text: str,
    example: str,
    as_json: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = menu.add_parser(
        name, help=text, description=text, epilog=f"example: {example}"
    )
    parser.set_defaults(command=command, parser=parser)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON for a script")
    return parser
