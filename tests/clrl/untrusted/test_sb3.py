"""Files of Stable-Baselines3 are pickles: for those who trust them, and say so."""

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import clrl
from clrl.agents import ContinualPPO, ContinualSAC
from tests.agents.conftest import make_agent
from tests.clrl import forgery
from tests.clrl.untrusted.conftest import refused


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_sb3s_files_are_loaded_for_those_who_trust_them_only(
    kind: str, tmp_path: Path, marker: Path
) -> None:
    agent = make_agent(kind)
    agent.save(tmp_path / "agent.zip")
    agent.policy.save(tmp_path / "policy.pt")
    for loader, file in ((type(agent), "agent.zip"), (type(agent.policy), "policy.pt")):
        for trust in ({}, {"trust_pickle": False}, {"trust_pickle": "yes"}):
            with pytest.raises(ValueError, match=r"can run any code .* trust_pickle=True"):
                loader.load(tmp_path / file, **trust)
    assert type(agent).load(tmp_path / "agent.zip", trust_pickle=True)


@pytest.mark.parametrize("kind", [ContinualPPO, ContinualSAC])
@pytest.mark.parametrize("make", [forgery.pickled, forgery.zipped])
def test_a_payload_in_an_sb3_file_does_not_run(
    kind: Any, make: Callable[[Path], bytes], tmp_path: Path, marker: Path
) -> None:
    (tmp_path / "agent.zip").write_bytes(make(marker))
    with pytest.raises(ValueError, match="trust_pickle=True"):
        kind.load(tmp_path / "agent.zip")
    assert not marker.exists()


def test_a_replay_buffer_is_loaded_for_those_who_trust_it_only(
    tmp_path: Path, marker: Path
) -> None:
    (tmp_path / "buffer.pkl").write_bytes(forgery.pickled(marker))
    agent = make_agent("sac")
    with pytest.raises(ValueError, match="trust_pickle=True"):
        agent.load_replay_buffer(tmp_path / "buffer.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("command", ["play", "evaluate", "resume"])
def test_the_command_line_says_why_it_takes_no_sb3_file(
    command: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.zip").write_bytes(forgery.zipped(marker))
    line = refused(capsys, marker, command, str(tmp_path / "model.zip"))
    assert "it holds pickles" in line
    assert "trust_pickle=True" in line


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def squeezed(value: Any) -> bytes:
    """As torch saves it, and packed, which torch's reader takes as well."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(value))) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return packed.getvalue()


def replaced(file: bytes, **members: bytes) -> bytes:
    """A zip with some members replaced; `policy` stands for policy.pth."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name.removesuffix(".pth"), old.read(name)))
    return changed.getvalue()


@pytest.fixture(scope="session")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sb3") / "agent.zip"
    PPO("MlpPolicy", make_vec_env("clrl/arm-reach-v0", 2)).save(path)
    return path.read_bytes()


def weights_of(file: bytes) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        found: dict[str, torch.Tensor] = torch.load(io.BytesIO(archive.read("policy.pth")))
    return found


def settings_of(file: bytes, **changes: Any) -> bytes:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return json.dumps(json.loads(archive.read("data")) | changes).encode()


FORGED: dict[str, Callable[[bytes, Path], bytes]] = {
    "a pickle": lambda file, marker: forgery.pickled(marker),
    "a zip with a pickle": lambda file, marker: forgery.zipped(marker),
    "a bomb": lambda file, marker: forgery.bomb(),
    "half": lambda file, marker: file[: len(file) // 2],
    "no weights": lambda file, marker: replaced(file, policy=saved({})),
    "a list": lambda file, marker: replaced(file, policy=saved([1, 2])),
    "weights that are a pickle": lambda file, marker: replaced(
        file, policy=forgery.pickled(marker)
    ),
    "a payload among weights": lambda file, marker: replaced(
        file, policy=saved(weights_of(file) | {"log_std": forgery.Payload(marker)})
    ),
    "weights that are a bomb": lambda file, marker: replaced(
        file, policy=squeezed(weights_of(file) | {"log_std": torch.zeros(2**27)})
    ),
    "a tensor that shows one number over and over": lambda file, marker: replaced(
        file, policy=saved(weights_of(file) | {"log_std": torch.zeros(1).expand(2**40)})
    ),
    "a scalar": lambda file, marker: replaced(
        file, policy=saved(weights_of(file) | {"action_net.bias": torch.tensor(1.0)})
    ),
    "integers": lambda file, marker: replaced(
        file, policy=saved(weights_of(file) | {"action_net.bias": torch.ones(4, dtype=torch.int8)})
    ),
    "no number": lambda file, marker: replaced(
        file, policy=saved(weights_of(file) | {"action_net.bias": torch.full((4,), torch.nan)})
    ),
    "another shape": lambda file, marker: replaced(
        file, policy=saved(weights_of(file) | {"action_net.bias": torch.ones(5)})
    ),
    "flat": lambda file, marker: replaced(
        file, policy=saved({k: w.flatten() for k, w in weights_of(file).items()})
    ),
    "settings that are a pickle": lambda file, marker: replaced(file, data=forgery.pickled(marker)),
    "settings that are a list": lambda file, marker: replaced(file, data=b"[1]"),
    "no discount": lambda file, marker: replaced(file, data=settings_of(file, gamma="x")),
    "a policy of another make": lambda file, marker: replaced(
        file, data=settings_of(file, policy_kwargs=["x"])
    ),
    "a policy's class of another make": lambda file, marker: replaced(
        file, data=settings_of(file, policy_class={"__module__": "os"})
    ),
    "layers of another make": lambda file, marker: replaced(
        file, data=settings_of(file, policy_kwargs={"activation_fn": {"x": 1}})
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_import_runs_nothing_even_for_those_who_trust(
    kind: str, genuine: bytes, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.zip").write_bytes(FORGED[kind](genuine, marker))
    out = ["--skill", "arm-reach", "--out", str(tmp_path / "run")]
    for trust in ([], ["--trust-pickle"]):
        arguments = ("import", str(tmp_path / "model.zip"), *out, *trust)
        line = refused(capsys, marker, *arguments)
        assert ("--trust-pickle" in line) == (not trust)
    assert not (tmp_path / "run").exists()


def test_payloads_beside_what_import_reads_stay_asleep(
    genuine: bytes, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = {":serialized:": base64.b64encode(forgery.pickled(marker)).decode()}
    known = payload | {"__module__": "stable_baselines3.common.policies"}
    settings = settings_of(genuine, policy_class=known, policy_kwargs=payload)
    forged = replaced(genuine, data=settings, pytorch_variables=forgery.pickled(marker))
    (tmp_path / "model.zip").write_bytes(forged)
    monkeypatch.setattr("clrl.sb3_import._SEEN", 4096)
    options: Any = {"trust_pickle": True, "quiet": True, "threads": 1, "out": tmp_path / "run"}
    assert clrl.from_sb3(tmp_path / "model.zip", "arm-reach", **options).retention()
    assert not marker.exists()


def test_statistics_are_unpickled_for_those_who_trust_them_only(
    genuine: bytes, tmp_path: Path, marker: Path
) -> None:
    (tmp_path / "model.zip").write_bytes(genuine)
    (tmp_path / "normal.pkl").write_bytes(forgery.pickled(marker))
    for trust in (False, True):
        with pytest.raises(ValueError, match=r"can run any code|no VecNormalize"):
            clrl.from_sb3(
                tmp_path / "model.zip",
                "arm-reach",
                vec_normalize=tmp_path / "normal.pkl",
                trust_pickle=trust,
                out=tmp_path / "run",
            )
        assert marker.exists() == trust
    assert not (tmp_path / "run").exists()


def test_the_payload_works(marker: Path) -> None:
    """Where it is unpickled; or the tests above would show nothing."""
    pickle.loads(forgery.pickled(marker))
    assert marker.is_dir()
