"""Tune a protection with Optuna: EWC's strength, by the average performance that it ends with.

pip install 'clrl[tune]'
python examples/tune.py arm3 --trials 20     the same command goes on where it was stopped
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import clrl


def tune(curriculum: Any, trials: int, out: Path, seeds: int = 2, **options: Any) -> optuna.Study:
    """Train until so many trials are finished, each a run for every seed in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(out / "study.log")))
    study = optuna.create_study(
        study_name="ewc", storage=storage, direction="maximize", load_if_exists=True
    )

    def objective(trial: optuna.Trial) -> float:
        protect = {"ewc": {"strength": trial.suggest_float("strength", 0.1, 1e3, log=True)}}
        runs = [
            clrl.train(
                curriculum,
                protect=protect,
                seed=seed,
                out=out / f"trial{trial.number}-seed{seed}",
                quiet=True,
                **options,
            )
            for seed in range(seeds)
        ]
        return fmean(run.retention().metrics["average_performance"] or 0.0 for run in runs)

    finished = len(study.get_trials(states=[TrialState.COMPLETE]))
    study.optimize(objective, n_trials=max(0, trials - finished))
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curriculum", nargs="?", default="arm3")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    chosen = parser.parse_args()
    best = tune(chosen.curriculum, chosen.trials, chosen.out).best_trial
    print(f"strength {best.params['strength']:.3g}: average performance {best.value:.3f}")
