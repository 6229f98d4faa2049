"""What a training was asked for, resolved: every option that decides its result."""

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import clrl
from clrl.envs.untrusted import shown

# Settings of the learners on batched worlds; the rest is Stable-Baselines3's default.
PRESETS: dict[str, dict[str, Any]] = {
    "ppo": {
        "worlds": 128,
        "options": {
            "n_steps": 32,
            "batch_size": 1024,
            "n_epochs": 10,
            "learning_rate": 1e-3,
            "gamma": 0.97,
            "policy_kwargs": {"net_arch": [128, 128], "log_std_init": -0.5, "normalize": True},
        },
    },
    "sac": {
        "worlds": 64,
        "options": {
            "train_freq": 1,
            "gradient_steps": 8,
            "batch_size": 256,
            "learning_rate": 1e-3,
            "learning_starts": 6400,
            "buffer_size": 500_000,
            "gamma": 0.97,
            "ent_coef": "auto_0.1",  # from 1 it takes thousands of updates to come down
            "policy_kwargs": {"net_arch": [128, 128], "normalize": True},
        },
    },
}

# Worlds from which "auto" takes a GPU that is there. A guess still: `make bench-gpu` tells.
BREAK_EVEN = 2048

_LARGEST, _WIDEST = 10**9, 2**14  # of whole numbers among options, and of a network's
_TAKEN = frozenset(
    ("name", "policy", "env", "observation_space", "action_space", "protect", "seed", "device")
) | {"_init_setup_model", "worlds"}

# What joint training has otherwise: so many times of some as it has worlds, and other numbers.
_SCALED = {
    "ppo": {"batch_size": 1.0},
    "sac": {"batch_size": 0.5, "gradient_steps": 1.0, "buffer_size": 1.0, "learning_starts": 1.0},
}
_JOINT: dict[str, dict[str, Any]] = {
    "ppo": {"max_grad_norm": 2.0},  # SB3's 0.5 left arm3 at AP 0.897, this at 0.950
    "sac": {},
}
DEFAULT_PROTECT = ("ewc",)  # the best mean that was measured, see docs/methods.md

_LEAST = {"seed": 0, "worlds": 1, "threads": 0, "episodes": 1, "keep_checkpoints": 1}
_MEANT = {"steps": "steps_per_skill", "total_timesteps": "steps_per_skill", "n_envs": "worlds"}
_OWN = ("worlds", "threads", "episodes", "keep_checkpoints", "checkpoint_seconds", "importance")
_IMPORTANCE = ("equal", "measured")
_PACKAGES = ("mujoco", "torch", "stable_baselines3", "gymnasium")  # that a result depends on


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training; `run.json` holds it.

    Attributes:
        curriculum: Name and, in order, each skill's `id`, `steps` and options.
        agent: "ppo" or "sac".
        protect: Names of the protections, with their options.
        joint: Whether all skills are trained at once.
        importance: What earlier skills weigh in protections: "equal", or "measured" by what each
            retains while a later one is trained.
        seed: Decides the networks, the worlds and every draw.
        device: Where networks and worlds live, "cpu" or "cuda", or "warp:cpu" to try the latter.
        worlds: Worlds stepped at once in training.
        threads: CPU threads of physics and networks, 0 for one a core; the result is the same.
        episodes: Episodes per skill in each row of the retention matrix.
        keep_checkpoints: Checkpoints within a skill that stay; those at its end always do.
        checkpoint_seconds: Least time between two of them; 0 for one after every rollout.
        options: Arguments of the agent's class.
        adapted: Of a run that `clrl adapt` made: the `base` it started from, and `like`, the skills
            that added ones start from by name.
        imported: Of a run that `clrl import` made: the name and the sha256 of the file.
    """

    curriculum: dict[str, Any]
    agent: str = "ppo"
    protect: dict[str, dict[str, Any]] = field(default_factory=dict)
    joint: bool = False
    importance: str = "equal"
    seed: int = 0
    device: str = "cpu"
    worlds: int = 128
    threads: int = 0
    episodes: int = 100
    keep_checkpoints: int = 2
    checkpoint_seconds: float = 30.0
    options: dict[str, Any] = field(default_factory=dict)
    adapted: dict[str, Any] | None = None
    imported: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
            if value > 2**31:
                raise ValueError(f"{name} must be <= 2^31, got {value}")
        seconds = self.checkpoint_seconds
        if not isinstance(seconds, int | float) or not 0.0 <= seconds < math.inf:
            raise ValueError(f"checkpoint_seconds must be a number >= 0, got {shown(seconds)}")
        if self.agent not in PRESETS:
            raise ValueError(f"unknown agent {shown(self.agent)}; choose from {', '.join(PRESETS)}")
        if self.importance not in _IMPORTANCE:
            raise ValueError(
                f"importance must be one of {', '.join(_IMPORTANCE)}, got {shown(self.importance)}"
            )
        if not isinstance(self.curriculum, dict):
            raise ValueError("curriculum must be a table")
        if not isinstance(self.device, str):
            raise ValueError(f"device must be a name, got {shown(self.device)}")
        tables = {"protect": self.protect, "options": self.options}
        if isinstance(self.protect, dict):
            tables |= {f"protect {name!r}": chosen for name, chosen in self.protect.items()}
        for name, table in tables.items():
            if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
                raise ValueError(f"{name} must be a table of options, got {shown(table)}")
        if taken := _TAKEN & set(self.options):
            raise ValueError(f"options must not hold {min(taken)!r}, which a run decides")
        policy = self.options.get("policy_kwargs") or {}
        if not isinstance(policy, dict):
            raise ValueError(f"policy_kwargs must be a table of options, got {shown(policy)}")
        if "n_heads" in policy:
            raise ValueError("policy_kwargs must not hold 'n_heads', which the skills decide")
        _check_sizes("options", self.options, _LARGEST)
        _check_sizes("policy_kwargs", policy, _WIDEST)
        _check_sizes("protect", self.protect, _LARGEST)

    @property
    def methods(self) -> list[str]:
        """What keeps the skills, for results: names of protections, or "joint"."""
        return ["joint"] if self.joint else list(self.protect)

    def to_json(self) -> dict[str, Any]:
        """As `run.json` stores it."""
        return {"schema": 1, **asdict(self), "versions": versions()}

    @staticmethod
    def from_json(content: Any, where: str) -> "Config":
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not that, in one line that begins with `where`.
        """
        if not isinstance(content, dict) or content.get("schema") != 1:
            raise ValueError(f"{where} is not a run of schema 1")
        fields = {k: v for k, v in content.items() if k not in ("schema", "versions")}
        if unknown := fields.keys() - Config.__dataclass_fields__.keys():
            raise ValueError(f"{where}: {shown(min(unknown))} is no setting of a run")
        try:
            return Config(**fields)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{where}: {error}") from None


def resolve(
    curriculum: dict[str, Any],
    agent: str,
    protect: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
    *,
    joint: bool = False,
    seed: int,
    device: str,
    options: Mapping[str, Any],
) -> Config:
    """Fill in the presets of an agent.

    Args:
        curriculum: `Curriculum.to_json()`.
        agent: A name of `PRESETS`.
        protect: Names of protections, or names with options, none for [] or ["none"]; None for the
            default, or for none where training is joint.
        joint: See `Config`.
        seed: See `Config`.
        device: "auto", "cpu" or "cuda".
        options: Overrides: fields of `Config`, anything else for the agent's class.
    """
    from clrl.agents.catalog import check_protections

    if agent not in PRESETS:
        raise ValueError(f"unknown agent {agent!r}; choose from {', '.join(PRESETS)}")
    names = (() if joint else DEFAULT_PROTECT) if protect is None else protect
    listed = isinstance(names, Iterable) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise ValueError("protect takes a list of names, such as ['ewc'] or ['module:Class']")
    if "none" in names:
        if len(list(names)) > 1:
            raise ValueError("protect 'none' stands alone")
        names = ()
    given: Mapping[str, Any] = names if isinstance(names, Mapping) else {name: {} for name in names}
    for name, table in given.items():
        if not isinstance(table, Mapping):
            raise ValueError(f"protect {name!r} must be a table of options, got {shown(table)}")
    chosen = {name: dict(table) for name, table in given.items()}
    check_protections(list(names))
    if joint and chosen:
        raise ValueError("joint training has no earlier skill to protect; leave protect out")
    preset = preset_of(agent, budgets(curriculum) if joint else None)
    own = {k: v for k, v in options.items() if k in _OWN}
    rest = {k: v for k, v in options.items() if k not in own}
    for name in rest.keys() & _MEANT.keys():
        raise ValueError(f"unknown option {name!r}; did you mean {_MEANT[name]!r}?")
    own_policy = rest.pop("policy_kwargs", {})
    if not isinstance(own_policy, Mapping):
        raise ValueError(f"policy_kwargs must be a table of options, got {shown(own_policy)}")
    policy = {**preset["options"]["policy_kwargs"], **own_policy}
    if isinstance(activation := policy.get("activation_fn"), type):
        policy["activation_fn"] = activation.__name__
    config = Config(
        curriculum=curriculum,
        agent=agent,
        protect=chosen,
        joint=joint,
        seed=seed,
        device=resolve_device(device, own.get("worlds", preset["worlds"])),
        worlds=preset["worlds"],
        options={**preset["options"], **rest, "policy_kwargs": policy},
    )
    for name, value in (config.options | config.protect).items():
        _check_kept(name, value)
    return replace(config, **own) if own else config


def preset_of(agent: str, at_once: Sequence[int] | None = None) -> dict[str, Any]:
    """Settings of an agent, or of one that learns skills of some budgets at once.

    Then the skill with the largest has the worlds that it has alone, others in proportion. With PPO
    it has the rows of a minibatch and so the updates too, and gradients of several skills are
    clipped less; with SAC there are as many gradient steps as all have alone, on half the rows.
    """
    preset = PRESETS[agent]
    if at_once is None:
        return preset
    share = sum(at_once) / max(at_once)
    options = preset["options"]
    scaled = {name: round(share * by * options[name]) for name, by in _SCALED[agent].items()}
    return {"worlds": round(share * preset["worlds"]), "options": options | scaled | _JOINT[agent]}


def _check_kept(name: str, value: Any) -> None:
    """Raise ValueError where run.json cannot hold an option, such as a schedule in Python."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_kept(f"{name} {key!r}", part)
        return
    try:
        json.dumps(value)
    except TypeError:
        raise ValueError(
            f"{name} must be of numbers, text, lists and tables, as run.json holds it, "
            f"got {shown(value)}"
        ) from None


def budgets(curriculum: Mapping[str, Any]) -> list[int]:
    """Steps of each skill of `Curriculum.to_json()`."""
    return [table.get("steps", 1) for table in curriculum["skills"]]


def _check_sizes(where: str, value: Any, most: int) -> None:
    """Bound every whole number among options, so that a file cannot ask for endless memory."""
    if isinstance(value, int) and abs(value) > most:
        raise ValueError(f"{where}: whole numbers must be <= {most:,}, got {shown(value)}")
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            _check_sizes(where, part, most)


def resolve_device(device: str, batch: int) -> str:
    """The device for "auto", "cpu", "cuda" or "warp:cpu".

    Args:
        device: "auto" is "cuda" where worlds can run on a GPU and there are `BREAK_EVEN` of them;
            "warp:cpu" is the GPU's engine on the CPU, slowly, to try what runs on a GPU.
        batch: Worlds that run at once.

    Raises:
        ValueError: an unknown device, or "cuda" where there is none or its engine is missing.
    """
    if device == "warp:cpu":
        return device
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {device!r}; choose from auto, cpu, cuda")
    if device == "cpu" or (device == "auto" and not _many(batch)):
        return "cpu"
    from clrl.envs.world import gpu_trouble

    trouble = gpu_trouble()
    if trouble and device == "cuda":
        raise ValueError(f"device 'cuda' cannot be used: {trouble}; or use --device cpu")
    return "cpu" if trouble else "cuda"


def _many(batch: object) -> bool:
    return isinstance(batch, int) and batch >= BREAK_EVEN


def versions() -> dict[str, str]:
    """Versions of everything a result depends on."""
    packages = {name: _version(name) for name in _PACKAGES}
    return {"clrl": clrl.__version__, **packages, "python": platform.python_version()}


@cache
def _version(package: str) -> str:
    """Of an installed package, whose description takes milliseconds to read."""
    return version(package)


def dumps(content: Any) -> str:
    """JSON as our files hold it: indented, no NaN, one newline at the end."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
