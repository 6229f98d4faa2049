"""Files of Stable-Baselines3 are pickles: for those who trust them, and say so."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def test_the_payload_works(marker: Path) -> None:
    """Where it is unpickled; or the tests above would show nothing."""
    pickle.loads(forgery.pickled(marker))
    assert marker.is_dir()
