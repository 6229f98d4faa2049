"""A run with an external memory: trained, stopped and resumed, evaluated, and not exported."""

from pathlib import Path

import pytest
import torch

import clrl
from clrl import checkpoint
from clrl.cli import main
from clrl.export import export
from clrl.measure import evaluate_run
from clrl.run import Run
from tests.clrl.conftest import PAIR, PPO, Stopped


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return clrl.train(
        PAIR,
        memory=3,
        policy_kwargs={"memory": {"examples": 5}},
        out=tmp_path_factory.mktemp("runs") / "memory",
        **PPO,
    )


def final_policy(run: Run) -> dict[str, torch.Tensor]:
    path = checkpoint.newest_valid(run.checkpoints)
    assert path is not None
    policy: dict[str, torch.Tensor] = checkpoint.read(path)[0]["agent"]["policy"]
    return policy


def test_a_run_with_a_memory_resumes_bit_for_bit(
    run: Run, tmp_path: Path, stopped: Stopped
) -> None:
    with stopped(4):
        clrl.train(
            PAIR,
            memory=3,
            policy_kwargs={"memory": {"examples": 5}},
            out=tmp_path / "cut",
            checkpoint_seconds=0.0,
            **PPO,
        )
    whole, resumed = final_policy(run), final_policy(clrl.resume(tmp_path / "cut", quiet=True))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    written = whole["features.written"]
    assert written.shape[1:] == (5, 23)
    assert (written != 0).any(dim=2).any(dim=1).tolist()[:3] == [True, True, False]


def test_its_checkpoints_evaluate_to_the_same_matrix(run: Run) -> None:
    assert evaluate_run(run, episodes=4, quiet=True).success == run.retention().success


def test_it_is_not_exported(run: Run) -> None:
    with pytest.raises(ValueError, match="an agent with an external memory cannot be exported"):
        export(run, allow_forgetting=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["arm3", "--memory", "-1"], "memory must be >= 0, got -1"),
        (["arm3", "--memory", "2", "--agent", "sac"], "SAC has no external memory; use PPO"),
        (["Pendulum-v1", "--memory", "2"], "or leave out Pendulum-v1"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *words, "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
