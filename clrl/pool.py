"""Trains many runs at once, each in a process of its own: on this machine, or on a Ray cluster."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_LIVES = 4  # times that a run is begun or gone on with before it counts as one that kills
_PATIENCE = 0.2  # seconds between two looks at a process
_GRACE = 60.0  # seconds for a process that was told to stop


@dataclass(frozen=True)
class Job:
    """A run on the disk that is to be trained to its end.

    Attributes:
        path: The run's directory, absolute.
        log: The file for what its process prints, absolute. Whoever trains the run holds a lock on
            it, so that two never train one run.
        threads: Cores it may use.
    """

    path: Path
    log: Path
    threads: int = 1

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end."""
        return (self.path / "retention.json").is_file()


def work(job: Job, stop: threading.Event | None = None) -> str | None:
    """Train a run to its end with `clrl resume`, beginning again where a kill left it.

    A process that outlived whoever started it still holds the log; it is waited for.

    Args:
        job: What to train.
        stop: Set to end it early.

    Returns:
        None, or what went wrong in one line.
    """
    stop = stop or threading.Event()
    with job.log.open("ab") as log:
        if not _lock(log, stop):
            return "stopped"
        for _ in range(_LIVES):
            if job.is_done:
                return None
            code = _train(job, log, stop)
            if code != -signal.SIGKILL or stop.is_set():
                break
    if code == 0:
        return None
    return "stopped" if stop.is_set() else _reason(job.log, code)


def on_this_machine(jobs: Iterable[Job], at_once: int) -> Iterator[tuple[Job, str | None]]:
    """Train runs in a pool of processes; yields each with what went wrong, as it ends.

    On Ctrl-C and SIGTERM the processes are stopped first.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(at_once)
    with _terminable():
        pending: dict[Future[str | None], Job] = {pool.submit(work, j, stop): j for j in jobs}
        try:
            while pending:
                # a timeout, because a signal does not end a wait for a lock on every platform
                for future in wait(pending, 1.0, FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def on_ray(jobs: Iterable[Job], at_once: int | None = None) -> Iterator[tuple[Job, str | None]]:
    """Train runs as tasks of Ray; yields each with what went wrong, as it ends.

    The cluster is the one of `RAY_ADDRESS`, else the one that runs on this machine, else one that
    is started here. Every node must see the runs at the same path and have the same clrl installed.
    A task whose worker or node is lost is tried again elsewhere and goes on from its checkpoints.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no cluster at `RAY_ADDRESS`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
    queue, pending = list(jobs), dict[Any, Job]()
    try:
        with _terminable():
            task = ray.remote(_interruptible)
            while queue or pending:
                while queue and (at_once is None or len(pending) < at_once):
                    job = queue.pop(0)
                    options = {"num_cpus": job.threads, "max_retries": _LIVES}
                    pending[task.options(name=job.path.name, **options).remote(job)] = job
                for done in ray.wait(list(pending), num_returns=1, timeout=1.0)[0]:
                    yield pending.pop(done), _result(ray, done)
    finally:
        for running in pending:
            ray.cancel(running)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=_GRACE)
        ray.shutdown()


def _interruptible(job: Job) -> str | None:
    """A task of Ray; Ray cancels it by SIGINT, which a cluster begun in the background ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return work(job)


def _result(ray: Any, task: Any) -> str | None:
    try:
        result: str | None = ray.get(task)
    except ray.exceptions.RayError as error:
        return " ".join(str(error).split())
    return result


def _train(job: Job, log: BinaryIO, stop: threading.Event) -> int:
    """Exit status of one process that trains; it is ended if this is left early."""
    command = [sys.executable, "-m", "clrl", "resume", str(job.path)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,  # whose lock lives as long as the process
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": str(job.threads)},
        start_new_session=True,  # Ctrl-C is ours to pass on
    )
    try:
        while (code := process.poll()) is None and not stop.wait(_PATIENCE):
            pass
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
    return process.wait() if code is None else code


def _lock(log: BinaryIO, stop: threading.Event) -> bool:
    """Wait for the lock on a log; False if told to stop before."""
    while not stop.is_set():
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            stop.wait(_PATIENCE)
    return False


def _reason(log: Path, code: int) -> str:
    """What went wrong with a process: the last line of its log, or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}, see {log}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{last.removeprefix('clrl: ')}, see {log}"


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end things in order, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
