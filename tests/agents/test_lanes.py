"""Work side by side: the same results on any number of threads."""

import ctypes
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from clrl.agents import make_protection
from clrl.agents.lanes import Aside, cores, set_lanes, side_by_side
from tests.agents.conftest import make_agent, same, trained_on

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_lane_afterwards() -> Iterator[None]:
    yield
    set_lanes(1)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_results_come_in_order(lanes: int) -> None:
    set_lanes(lanes)
    assert side_by_side(CPU, *(partial(pow, base, 2) for base in range(6))) == [0, 1, 4, 9, 16, 25]


def test_the_first_is_the_callers_and_others_run_meanwhile() -> None:
    set_lanes(2)
    begun = threading.Event()

    def other() -> int:
        begun.set()
        return threading.get_ident()

    def first() -> int:
        assert begun.wait(timeout=10.0)
        return threading.get_ident()

    own, another = side_by_side(CPU, first, other)
    assert own == threading.get_ident() != another


def test_a_lane_multiplies_on_one_core() -> None:
    """MKL's own number of threads, which new threads have from the machine, not from torch."""
    [path] = Path(torch.__file__).parent.glob("lib/libtorch_cpu.so")
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "mkl_get_max_threads"):
        pytest.skip("this torch has no MKL")
    set_lanes(2)
    begun = threading.Event()

    def threads() -> int:
        begun.set()
        return int(library.mkl_get_max_threads())

    assert side_by_side(CPU, partial(begun.wait, 10.0), threads) == [True, 1]


def test_a_lane_computes_with_gradients_where_the_caller_does() -> None:
    set_lanes(2)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert side_by_side(CPU, *[torch.is_grad_enabled] * 3) == [enabled] * 3


def test_work_may_hold_more_of_it() -> None:
    def nested(depth: int) -> int:
        if depth == 0:
            return 1
        return sum(side_by_side(CPU, *[partial(nested, depth - 1)] * 3))

    set_lanes(2)
    assert nested(4) == 81


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_an_error_is_raised_once_nothing_runs_any_more(culprit: int) -> None:
    set_lanes(2)
    running: list[int] = []

    def work(index: int) -> None:
        running.append(index)
        if index == culprit:
            running.remove(index)
            raise ValueError(f"no {index}")
        threading.Event().wait(0.05)
        running.remove(index)

    with pytest.raises(ValueError, match=f"no {culprit}"):
        side_by_side(CPU, *(partial(work, index) for index in range(3)))
    assert running == []
    assert side_by_side(CPU, int, int) == [0, 0]


def test_work_set_aside_is_done_by_the_end() -> None:
    set_lanes(2)
    begun = threading.Event()
    done: list[int] = []
    with Aside() as aside:
        aside.add(begun.set)
        assert begun.wait(timeout=10.0)  # by another, meanwhile
        for i in range(5):
            aside.add(partial(done.append, i))
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_where_all_threads_are_busy_it_is_done_at_once() -> None:
    def nested() -> list[int]:
        done: list[int] = []
        with Aside() as aside:
            aside.add(partial(done.append, threading.get_ident()))
            assert done == [threading.get_ident()]
        return done

    set_lanes(1)
    nested()
    set_lanes(2)
    released = threading.Event()

    def first() -> None:
        nested()
        released.set()

    side_by_side(CPU, first, partial(released.wait, 10.0))


@pytest.mark.parametrize("culprit", ["owner", "aside"])
def test_an_error_ends_what_was_set_aside(culprit: str) -> None:
    set_lanes(2)
    running: list[int] = []

    def work() -> None:
        running.append(0)
        threading.Event().wait(0.05)
        running.pop()

    def fail() -> None:
        raise ValueError(culprit)

    def owner() -> None:
        with Aside() as aside:
            aside.add(work)
            if culprit == "owner":
                fail()
            aside.add(fail)
            aside.add(work)

    with pytest.raises(ValueError, match=culprit):
        owner()
    assert running == []
    assert side_by_side(CPU, int, int) == [0, 0]
    with Aside() as aside:  # nothing is counted as begun still
        aside.add(work)
        assert aside._begun


def test_as_many_lanes_as_cores() -> None:
    set_lanes(0)
    assert side_by_side(CPU, *[threading.active_count] * 2)
    assert 1 <= cores() <= 4096


@pytest.mark.parametrize("names", [(), ("ewc", "distill", "replay"), ("agem", "si")])
def test_learning_is_the_same_to_the_bit(kind: str, names: tuple[str, ...]) -> None:
    def learned(lanes: int) -> Any:
        set_lanes(lanes)
        agent = make_agent(kind, [make_protection(name) for name in names], net_arch=[256, 256])
        agent.batch_size = 128  # whose products are worth another thread
        return trained_on(trained_on(agent, "near", steps=40), "mirror", -1.0, steps=40)

    assert same(learned(1), learned(2))
