"""Each side of a comparison in a process of its own, as whoever trains has one.

In one process each would find its memory among the other's and wait for the other's threads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

Measure = Callable[[], Any]


@contextmanager
def apart(prepare: Callable[..., Measure], *args: Any) -> Iterator[Measure]:
    """What `prepare(*args)` gives, made and called in a process of its own."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, prepare, args))
    process.start()
    there.close()  # so that `recv` ends where the process does
    try:
        here.recv()

        def measure() -> Any:
            here.send(True)
            return here.recv()

        yield measure
    finally:
        process.terminate()
        process.join()


def _serve(connection: Connection, prepare: Callable[..., Measure], args: tuple[Any, ...]) -> None:
    measure = prepare(*args)
    connection.send("ready")
    while connection.recv():
        connection.send(measure())
