"""A sweep: what it refuses, what it leaves alone, and that no kill loses anything."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import clrl
from clrl import pool
from clrl.agents import Protection
from clrl.cli import main
from clrl.run import Run
from clrl.sweep import Sweep
from tests.clrl.test_cli import refused

ROOT = Path(__file__).parents[2]
OPTIONS = "{ worlds = 4, episodes = 4, n_steps = 32, batch_size = 64, n_epochs = 1 }"
NONE = f"none = {{ protect = [], options = {OPTIONS} }}"
EWC = f"strong-ewc = {{ protect = {{ ewc = {{ strength = 5.0 }} }}, options = {OPTIONS} }}"
BREAKS = f"breaks = {{ protect = ['tests.clrl.test_sweep:Breaks'], options = {OPTIONS} }}"
HEAD = "curricula = ['arm-reach']\nseeds = [0, 1]\nsteps = 256\n"


class Breaks(Protection):
    """Fails as soon as it trains."""

    def before_skill(self, *_: Any) -> None:
        raise RuntimeError("nothing works")


def write(folder: Path, *methods: str, head: str = HEAD) -> Path:
    file = folder / "tiny.toml"
    out = f"out = '{folder / 'runs'}'\n"
    file.write_text(f"{out}{head}[methods]\n" + "\n".join(methods))
    return file


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep, dict[str, str]]:
    """A finished sweep of two methods, one of which breaks; its file, and what failed."""
    file = write(tmp_path_factory.mktemp("sweep"), EWC, BREAKS)
    work = Sweep.read(file)
    return file, work, work.train(at_once=2, tell=lambda _: None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [", "not valid TOML"),
        ("seeds = [0]\nmethods.none.protect = []", "needs curricula"),
        ("curricula = ['arm3']\nmethods.none.protect = []", "needs seeds"),
        ("curricula = ['arm3']\nseeds = [0]\n[methods]", "needs methods"),
        ("curricula = 'arm3'", "curricula must be a list, got 'arm3'"),
        (HEAD + "jobs = 3", "unknown keys: jobs; it takes out"),
        (HEAD + "methods.none = 3", "method 'none' must be a table"),
        (HEAD + "methods.'a/b'.protect = []", "method 'a/b' must be named by letters"),
        (HEAD + "methods.none.protects = []", "unknown keys: protects; did you mean 'protect'?"),
        (
            HEAD + "methods.none.protect = 'ewc'",
            "'none': protect must be a list or a table, got",
        ),
        (HEAD + "methods.x.protect = ['ewk']", "method 'x': unknown protection 'ewk'"),
        (HEAD + "methods.x.protect.ewc.speed = 2", "method 'x': protection 'ewc'"),
        (HEAD + "methods.x.agent = 'dqn'", "method 'x': unknown agent 'dqn'"),
        (HEAD + "methods.x.options.flux = 2", "method 'x': agent 'ppo'"),
        (HEAD + "methods.x.options.seed = 2", "method 'x'"),
        (HEAD.replace("arm-reach", "arm9") + "methods.x.protect = []", "unknown curriculum 'arm9'"),
        (HEAD.replace("[0, 1]", "[-1]") + "methods.x.protect = []", "seed must be"),
        (HEAD.replace("[0, 1]", "[1, 1]") + "methods.x.protect = []", "two runs would be called"),
        (HEAD + "methods.x.options.seed = 3", "options must not hold 'seed', a sweep's own"),
        (HEAD + "methods.x.protect = []\n[[more]]\nmethods = [['x']]", "names no method ['x']"),
        (HEAD + "more = 3\nmethods.x.protect = []", "more must be a list, got 3"),
        (HEAD + "more = [3]\nmethods.x.protect = []", "more must be tables"),
        (HEAD + "methods.x.protect = []\n[[more]]\nout = 'y'", "more has unknown keys: out"),
        (HEAD + "methods.x.protect = []\n[[more]]\nmethods = ['y']", "names no method 'y'"),
        (HEAD + "methods.x.protect = []\n[[more]]\nseeds = [1]", "two runs would be called"),
        (
            HEAD.replace("256", "0") + "methods.x.protect = []",
            "steps per skill must be a whole number in",
        ),
    ],
)
def test_bad_files_are_refused_and_leave_nothing(
    text: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text(text)
    assert message in refused(capsys, "sweep", "bad.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_more_jobs_than_cores_and_a_missing_file_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(write(tmp_path, NONE))
    assert "--jobs must be in [1, " in refused(capsys, "sweep", file, "--jobs", "10000")
    assert "--jobs must be in [1, " in refused(capsys, "sweep", file, "--jobs", "-1")
    assert "does not exist" in refused(capsys, "sweep", str(tmp_path / "none.toml"))


def test_the_sample_holds_what_a_sweep_takes() -> None:
    from clrl.sweep import _spec

    assert _spec(ROOT / "benchmarks" / "methods.toml")["methods"]["none"] == {"protect": []}


def test_some_methods_may_have_more_seeds_and_curricula(tmp_path: Path) -> None:
    more = "[[more]]\nmethods = ['none']\nseeds = [2]"
    again = "[[more]]\nmethods = ['strong-ewc']\ncurricula = ['arm-press']\nseeds = [0]"
    work = Sweep.read(write(tmp_path, NONE, EWC, more, again))
    asked = ["none-seed0", "strong-ewc-seed0", "none-seed1", "strong-ewc-seed1", "none-seed2"]
    names = [*(f"arm-reach-{name}" for name in asked), "arm-press-strong-ewc-seed0"]
    assert [entry.name for entry in work.entries] == names


def test_cores_are_shared_by_the_jobs(tmp_path: Path) -> None:
    entry = Sweep.read(write(tmp_path, NONE), threads=3).entries[0]
    assert entry.run.config.threads == 3


def test_a_run_is_what_train_makes_of_it(
    swept: tuple[Path, Sweep, dict[str, str]], tmp_path: Path
) -> None:
    _, work, _ = swept
    entry = next(e for e in work.entries if e.name == "arm-reach-strong-ewc-seed1")
    options: dict[str, Any] = {
        "worlds": 4,
        "episodes": 4,
        "n_steps": 32,
        "batch_size": 64,
        "n_epochs": 1,
    }
    run = clrl.train(
        "arm-reach",
        protect={"ewc": {"strength": 5.0}},
        seed=1,
        steps_per_skill=256,
        out=tmp_path / "run",
        quiet=True,
        threads=1,
        **options,
    )
    files = [{p.name for p in r.path.iterdir()} for r in (run, entry.run)]
    assert files[0] == files[1]
    ours, theirs = entry.run.retention(), run.retention()
    assert (ours.success, ours.returns) == (theirs.success, theirs.returns)
    assert json.loads((run.path / "run.json").read_text()) == json.loads(
        (entry.run.path / "run.json").read_text()
    )


def test_a_run_that_fails_does_not_stop_the_others(
    swept: tuple[Path, Sweep, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, work, failed = swept
    assert failed.keys() == {"arm-reach-breaks-seed0", "arm-reach-breaks-seed1"}
    log = failed["arm-reach-breaks-seed0"].rpartition("see ")[2]
    assert "nothing works" in failed["arm-reach-breaks-seed0"]
    assert "nothing works" in Path(log).read_text()
    assert [entry.method for entry in work.left()] == ["breaks", "breaks"]


def test_it_says_what_failed_in_one_line_after_the_table(
    swept: tuple[Path, Sweep, dict[str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "work", lambda *_: "it broke")
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(swept[0]), "--json"])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    last = err.splitlines()[-1]
    assert last.startswith("clrl: 2 of 4 runs failed: arm-reach-breaks-seed0: it broke; ")
    content = json.loads(out)
    assert {row["method"] for row in content["methods"]} == {"strong-ewc"}
    assert content["failed"].keys() == swept[2].keys()


def test_finished_runs_are_left_alone(
    swept: tuple[Path, Sweep, dict[str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, work, _ = swept
    kept = write(file.parent, EWC)
    before = {p: p.stat().st_mtime_ns for p in work.out.rglob("*")}
    monkeypatch.setattr(pool, "work", lambda *_: pytest.fail("trained again"))
    main(["sweep", str(kept)])
    assert "what it costs" in capsys.readouterr().out
    main(["sweep", str(kept), "--dry-run", "--json"])
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["finished"] for run in runs] == [True] * 2
    assert {p: p.stat().st_mtime_ns for p in work.out.rglob("*")} == before
    write(file.parent, EWC, BREAKS)


def test_the_time_left_is_told_from_finished_runs_or_unknown(
    swept: tuple[Path, Sweep, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    new = Sweep.read(write(swept[0].parent, EWC, BREAKS, head=HEAD.replace("[0, 1]", "[0, 1, 2]")))
    seconds = [new.entries[i].run.retention().cost["wall_seconds"] for i in (0, 2)]
    expected = new.expected()
    assert expected["arm-reach-strong-ewc-seed0"] == 0.0
    assert expected["arm-reach-strong-ewc-seed2"] == pytest.approx(sum(seconds) / 2)
    assert expected["arm-reach-breaks-seed2"] is None
    assert "3 of unknown length" in new.plan(1)
    assert "finished" in new.plan(1)
    write(swept[0].parent, EWC, BREAKS)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("steps = 256", "steps = 512", "curriculum.skills"),
        ("n_epochs = 1", "n_epochs = 2", "options.n_epochs 1, not 2"),
    ],
)
def test_a_run_that_was_made_otherwise_is_refused(
    swept: tuple[Path, Sweep, dict[str, str]],
    old: str,
    new: str,
    what: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    changed = tmp_path / "changed.toml"
    changed.write_text(swept[0].read_text().replace(old, new))
    assert f"was made with {what}" in refused(capsys, "sweep", str(changed))


def training(path: Path) -> list[int]:
    """Processes that train a run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[2:5] == [b"clrl", b"resume", bytes(path)]:
                found.append(int(folder.name))
    return found


def halted(path: Path, process: subprocess.Popen[str]) -> int:
    """The process that trains a run, stopped as soon as it has written a checkpoint.

    Stopped, because it may otherwise end before the test comes to what it does to it.
    """
    while process.poll() is None:
        if (path / "checkpoints" / "000000000").exists() and (found := training(path)):
            os.kill(found[0], signal.SIGSTOP)
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"the sweep ended: {process.communicate()}")


def figures(rows: list[dict[str, Any]]) -> list[Any]:
    """What does not depend on the clock."""
    names = ("average_performance", "iqm", "forgetting", "protection_bytes")
    return [(row["method"], [row["figures"][name] for name in names]) for row in rows]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_no_kill_loses_anything(
    swept: tuple[Path, Sweep, dict[str, str]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A trainer is killed, then the sweep; the same command, given again, ends with equal runs."""
    file = write(tmp_path, EWC)
    command = [sys.executable, "-m", "clrl", "sweep", str(file), "--jobs", "1"]
    runs = [tmp_path / "runs" / f"arm-reach-strong-ewc-seed{seed}" for seed in (0, 1)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.kill(halted(runs[0], process), signal.SIGKILL)
    orphan = halted(runs[1], process)
    process.kill()
    process.communicate()
    assert Run.open(runs[0]).retention()
    threading.Timer(1.0, os.kill, (orphan, signal.SIGCONT)).start()
    main(["sweep", str(file), "--json"])  # waits for the orphan, and trains nothing beside it
    assert figures(json.loads(capsys.readouterr().out)["methods"]) == undisturbed(swept)


def undisturbed(swept: tuple[Path, Sweep, dict[str, str]]) -> list[Any]:
    comparison = swept[1].comparison()
    assert comparison is not None
    return figures(comparison.to_json())


def test_a_ray_cluster_may_lose_a_worker_and_die(
    swept: tuple[Path, Sweep, dict[str, str]], tmp_path: Path
) -> None:
    """One worker and its trainer are killed, then the cluster; another one ends with equal runs."""
    utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    file = write(tmp_path, EWC)
    command = [sys.executable, "-m", "clrl", "sweep", str(file), "--engine", "ray", "--json"]
    runs = [tmp_path / "runs" / f"arm-reach-strong-ewc-seed{seed}" for seed in (0, 1)]
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first, second = (halted(run, process) for run in runs)
        os.kill(parent(first), signal.SIGKILL)
        os.kill(first, signal.SIGKILL)
        while not (runs[0] / "retention.json").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
    finally:
        cluster.shutdown()
        process.kill()
        process.communicate()
    os.kill(second, signal.SIGKILL)
    assert not (runs[1] / "retention.json").exists()
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    again = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert figures(json.loads(again.stdout)["methods"]) == undisturbed(swept)


def parent(process: int) -> int:
    """The process that started another."""
    return int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
