"""Weights and settings out of a file of Stable-Baselines3, without running what it pickled.

Of the zip that `save` writes two members are read: `data`, which is JSON whose pickled values are
left alone, and `policy.pth`, by torch's reader of weights, which builds tensors and nothing else.
"""

import io
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from clrl.agents.options import ACTIVATIONS
from clrl.agents.saved import finite
from clrl.envs.untrusted import line, parse_json, shown

LARGEST = 2**28  # bytes of such a file, packed or not

# By its first key in the weights: the agent, its actor's layers, its critic's, and the activation
# that they have by default.
_AGENTS = {
    "mlp_extractor.policy_net.0.weight": (
        "ppo",
        ("mlp_extractor.policy_net", "mlp_extractor.value_net"),
        "Tanh",
    ),
    "actor.latent_pi.0.weight": ("sac", ("actor.latent_pi", "critic.qf0"), "ReLU"),
}
_POLICIES = ("stable_baselines3.common.policies", "stable_baselines3.sac.policies")
# Arguments of a policy that change nothing about how it acts, or that the weights show.
_HARMLESS = {"net_arch", "ortho_init", "log_std_init", "optimizer_class", "optimizer_kwargs"}
_HARMLESS |= {"n_critics", "share_features_extractor", "normalize_images", "use_sde"}
_HARMLESS |= {"activation_fn", "full_std", "use_expln", "clip_mean", ":type:", ":serialized:"}

_BROKEN = (
    *(AttributeError, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, TypeError),
    *(ValueError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Foreign:
    """An agent of Stable-Baselines3, PPO's `MlpPolicy` (as A2C has it too) or SAC's.

    Attributes:
        agent: "ppo" or "sac".
        net_arch: Widths of the layers, as SB3 takes them: "pi", and "vf" or "qf".
        activation: Name of the class of what follows them; None for what SB3 takes by default.
        gamma: Discount it was trained with.
        weights: By SB3's names, finite.
    """

    agent: str
    net_arch: dict[str, list[int]]
    activation: str | None
    gamma: float
    weights: dict[str, Tensor]

    @staticmethod
    def read(data: bytes) -> "Foreign":
        """What a file holds.

        Raises:
            ValueError: it is no such agent; the message goes on from the file's name.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                settings = parse_json(_member(archive, "data"))
                weights = _tensors(_member(archive, "policy.pth"))
        except _BROKEN as error:
            raise ValueError(f"is no agent of Stable-Baselines3: {line(error)[:200]}") from None
        found = [kind for key, kind in _AGENTS.items() if key in weights]
        if not found or not isinstance(settings, dict):
            raise ValueError("is neither PPO nor SAC with an MlpPolicy of one layer or more")
        agent, networks, default = found[0]
        _check_policy(settings.get("policy_class"))
        activation = _activation(settings, default)
        pi, critic = (_widths(weights, network) for network in networks)
        gamma = settings.get("gamma")
        if not isinstance(gamma, float | int) or not 0 <= gamma <= 1:
            raise ValueError(f"has a discount gamma of {shown(gamma)}, not one in [0, 1]")
        other = {"vf": critic} if agent == "ppo" else {"qf": critic[:-1]}
        try:
            weights = dict(finite(weights))
        except ValueError as error:
            raise ValueError(f"has weights that are no numbers: {error}") from None
        return Foreign(agent, {"pi": pi, **other}, activation, float(gamma), weights)


@dataclass(frozen=True)
class Statistics:
    """What `VecNormalize` knows of observations.

    Attributes:
        mean: (obs,).
        var: Variance, (obs,).
        count: Observations it has seen.
    """

    mean: Tensor
    var: Tensor
    count: float

    @staticmethod
    def read(path: Path) -> "Statistics":
        """What a file of `VecNormalize` holds; it is unpickled, which runs whatever it says.

        Raises:
            ValueError: it is no such file, or normalises in another way than clrl; one line.
        """
        data = path.read_bytes()
        try:
            saved = pickle.loads(data)
        except Exception as error:  # it may raise anything
            raise ValueError(f"{path} cannot be unpickled: {line(error)[:200]}") from None
        rms = vars(saved).get("obs_rms") if isinstance(saved, VecNormalize) else None
        if isinstance(saved, VecNormalize) and not saved.norm_obs:
            raise ValueError(f"{path} does not normalise observations; leave it out")
        if not isinstance(rms, RunningMeanStd):
            raise ValueError(f"{path} is no VecNormalize of vectors")
        if (saved.clip_obs, saved.epsilon) != (10.0, 1e-8):
            raise ValueError(
                f"{path} must normalise with clip_obs 10 and epsilon 1e-8, as clrl does, not "
                f"{saved.clip_obs} and {saved.epsilon}"
            )
        mean, var = (torch.as_tensor(x, dtype=torch.float32) for x in (rms.mean, rms.var))
        return Statistics(mean, var, float(rms.count))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One file of the zip; what it unpacks to is bounded, whatever its header says."""
    with archive.open(name) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    return data


def _tensors(data: bytes) -> dict[str, Tensor]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # torch's own format is one as well
        if sum(info.file_size for info in archive.infolist()) > LARGEST:
            raise ValueError(f"policy.pth unpacks to more than {LARGEST:,} bytes")
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor) and _is_plain(tensor)):
            raise ValueError(f"{shown(name)} is no weight")
    return dict(tensors)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds floats, and not so many, as a small storage can show over and over."""
    large = tensor.numel() * tensor.element_size() > LARGEST
    return (
        tensor.layout is torch.strided
        and tensor.is_floating_point()
        and tensor.ndim > 0
        and not large
    )


def _check_policy(described: Any) -> None:
    """Raise ValueError where the policy is none of SB3's, and may do otherwise with its weights."""
    module = str(described.get("__module__")) if isinstance(described, dict) else "nowhere"
    if module.startswith("clrl."):
        raise ValueError("is an agent of clrl's own: what its run learned stands in the run")
    if module not in _POLICIES:
        raise ValueError(f"has a policy of {shown(module)}, not MlpPolicy of Stable-Baselines3")


def _activation(settings: dict[str, Any], default: str) -> str | None:
    """What follows the layers; ValueError where the weights would act otherwise in our networks."""
    policy = settings.get("policy_kwargs") or {}
    if not isinstance(policy, dict):
        raise ValueError("has policy_kwargs that are no table")
    if settings.get("use_sde"):
        raise ValueError("explores with gSDE, which clrl's agents do not")
    if unknown := sorted(policy.keys() - _HARMLESS):
        raise ValueError(f"was built with {shown(unknown[0])}, which clrl's policies do not take")
    chosen = str(policy.get("activation_fn", f"'{default}'"))
    named = re.search(r"(\w+)'", chosen)  # as in "<class 'torch.nn.modules.activation.ReLU'>"
    if not named or named[1] not in ACTIVATIONS:
        raise ValueError(f"has layers of {shown(chosen)}, not of {', '.join(ACTIVATIONS)}")
    return named[1] if named[1] != default else None


def _widths(weights: dict[str, Tensor], network: str) -> list[int]:
    """Outputs of the linear layers of a network, first to last."""
    layers = re.compile(rf"{re.escape(network)}\.(\d+)\.weight")
    found: Iterable[Any] = ((layers.fullmatch(key), tensor) for key, tensor in weights.items())
    return [len(tensor) for _, tensor in sorted((int(m[1]), t) for m, t in found if m)]
