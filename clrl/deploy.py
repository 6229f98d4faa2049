"""Acts on a robot with an exported policy; needs numpy and onnxruntime, nothing else.

    policy = clrl.deploy.load("bundle", Safety(on_fault="stop", max_age=0.05))
    action = policy({"hand": ..., "hand_velocity": ..., ...}, skill="push", stamp=taken_at)

What the caller does wrong (an unknown skill, a wrong shape, names in another order) raises. What
goes wrong while a robot moves (a stale, non-finite or impossible observation) is a *fault*: what
happens then is declared beforehand, and such an observation never reaches an action.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from clrl.bundle import CONTRACT, GRAPH, Bundle, BundleError, read
from clrl.envs.untrusted import line

Array = NDArray[np.float32]
Observation = ArrayLike | Mapping[str, ArrayLike]

_LOG = logging.getLogger(__name__)
_LARGEST = float(np.finfo(np.float32).max)
_WIDEST = 2**16  # elements of an observation or an action
_LONG_AGO = 3600.0  # s, after which a stamp is rather of another clock than late
_CLOCKS = "stamps are of the policy's clock, time.monotonic unless `load` was given another"


class ObservationError(RuntimeError):
    """An observation that must not be acted upon."""


@dataclass(frozen=True, kw_only=True)
class Safety:
    """What a policy does with faults, and how fast its actions may change.

    Attributes:
        on_fault: "stop" gives the skill's stop action, "hold" the last action for `hold_seconds`
            and then the stop action, "raise" raises `ObservationError`.
        hold_seconds: Longest time to hold, s.
        max_age: Oldest observation to act upon, s; each call must then give its `stamp`.
        max_rate: Most actions computed per second; a call that comes sooner gets the last one.
        slew: Most that an action may change per second, in the action's own numbers, for all
            elements or for each. The first action counts as coming from the stop action.
        blend: Time over which a new skill's action takes over from the last one, s.
    """

    on_fault: str = "stop"
    hold_seconds: float = 0.2
    max_age: float | None = None
    max_rate: float | None = None
    slew: float | Sequence[float] | None = None
    blend: float = 0.0

    def __post_init__(self) -> None:
        if self.on_fault not in ("stop", "hold", "raise"):
            raise ValueError(f"on_fault must be 'stop', 'hold' or 'raise', got {self.on_fault!r}")
        for name in ("max_age", "max_rate"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value!r}")
        for name in ("hold_seconds", "blend"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)!r}")
        if self.slew is not None and not np.all(np.greater(self.slew, 0.0)):
            raise ValueError(f"slew must be positive, got {self.slew!r}")


class _Skill:
    """What `policy.json` says of one skill, ready for use."""

    def __init__(self, entry: Mapping[str, Any], size: int, actions: int) -> None:
        seen, done = entry["observation"], entry["action"]
        self.name = str(entry["name"])
        self.control_hz: float | None = entry["control_hz"]
        self.period = 1.0 / self.control_hz if self.control_hz else math.inf  # s
        self.names = tuple(part["name"] for part in seen)
        self.action_names = tuple(f"{p['name']}.{e}" for p in done for e in p["elements"])
        widths = [len(part["elements"]) for part in seen]
        ends = np.cumsum(widths).tolist()
        self.slices = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        self.size, self.actions = ends[-1], len(self.action_names)
        self.low, self.high = _bounds(seen, -_LARGEST, "low"), _bounds(seen, _LARGEST, "high")
        self.action_low = _bounds(done, -_LARGEST, "low")
        self.action_high = _bounds(done, _LARGEST, "high")
        stop = [math.nan if p["stop"] is None else p["stop"] for p in done for _ in p["elements"]]
        self.stop = np.array(stop, np.float32)  # NaN keeps the last value
        row = np.zeros((1, size), np.float32)
        self.row: Array = row[0, : self.size]
        self.views = [(n, self.row[s]) for n, s in zip(self.names, self.slices, strict=True)]
        self.feed = {"observation": row, "skill": np.array(entry["index"], np.int64)}
        sizes = {len(self.low), len(self.high), self.size}
        if len(sizes) > 1 or self.size > size or self.actions > actions:
            raise ValueError(f"skill {self.name!r} does not fit the graph")

    def stopped(self, last: Array) -> Array:
        """The stop action, (act,), given the last one."""
        action = np.where(np.isnan(self.stop), last[: self.actions], self.stop)
        return np.clip(action, self.action_low, self.action_high).astype(np.float32)

    def take(self, observation: Observation) -> None:
        """Copy an observation into the graph's input.

        Raises:
            ValueError: its names, their order, or a shape is not the layout's.
        """
        if isinstance(observation, np.ndarray) and observation.dtype == np.float32:
            if observation.shape != (self.size,):
                raise ValueError(self._misshapen("the observation", observation, self.size))
            self.row[:] = observation
        elif isinstance(observation, Mapping):
            if tuple(observation) != self.names:
                raise ValueError(self._misnamed(observation))
            with np.errstate(over="ignore"):  # what overflows is infinite, which is a fault
                for (name, view), value in zip(self.views, observation.values(), strict=True):
                    self._fill(name, view, value)
        else:
            with np.errstate(over="ignore"):
                self._fill("the observation", self.row, observation)

    def _fill(self, name: str, view: Array, value: ArrayLike) -> None:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            try:
                value = np.asarray(value, np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"skill {self.name!r}: {name} must be numbers") from None
        if value.shape != view.shape and not (len(view) == 1 and value.shape == ()):
            raise ValueError(self._misshapen(name, value, len(view)))
        view[:] = value

    def _misshapen(self, name: str, array: NDArray[Any], width: int) -> str:
        return f"skill {self.name!r}: {name} must have shape ({width},), got {array.shape}"

    def _misnamed(self, observation: Mapping[str, Any]) -> str:
        given, wanted = list(observation), ", ".join(self.names)
        if missing := [name for name in self.names if name not in observation]:
            return f"skill {self.name!r}: the observation lacks {missing[0]!r}; it needs {wanted}"
        if unknown := [name for name in given if name not in self.names]:
            return f"skill {self.name!r}: unknown part {unknown[0]!r}; it needs {wanted}"
        return f"skill {self.name!r}: parts must come in the order {wanted}"


class Policy:
    """All skills of a bundle; one object may serve many threads.

    Attributes:
        contract: Content of `policy.json`.
        fault: What was wrong with the latest observation, or None.
        faults: How many observations were faulty.
    """

    def __init__(
        self,
        bundle: Bundle,
        safety: Safety | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to act; see `load`."""
        self.contract = bundle.contract
        self.safety = safety or Safety()
        self.fault: str | None = None
        self.faults = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._session = _session(bundle)
        size = int(self._session.get_inputs()[0].shape[1])
        self._width = int(self._session.get_outputs()[0].shape[1])
        try:
            entries = bundle.contract["skills"]
            with np.errstate(over="raise"):
                self._skills = {e["name"]: _Skill(e, size, self._width) for e in entries}
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise BundleError(bundle.path, f"{CONTRACT} is not valid: {error}") from None
        for name, entry in self._skills.items():
            try:
                self._session.run(None, entry.feed)  # now, not when a robot moves
            except Exception as error:  # onnxruntime has no common class of errors
                problem = f"{GRAPH} has no skill {name!r}: {line(error)}"
                raise BundleError(bundle.path, problem) from None
        if [e["index"] for e in entries] != list(range(len(self._skills))):
            raise BundleError(bundle.path, f"{CONTRACT} is not valid: two skills share a head")
        self._slew = self._checked_slew()
        self.reset()

    @property
    def skills(self) -> list[str]:
        """Names of the skills."""
        return list(self._skills)

    def parts(self, skill: str) -> tuple[str, ...]:
        """Names of a skill's observation, in order."""
        return self._skill(skill).names

    def action_names(self, skill: str) -> tuple[str, ...]:
        """Name of each element of a skill's action."""
        return self._skill(skill).action_names

    def limits(self, skill: str) -> tuple[Array, Array]:
        """Lowest and highest action of a skill, (act,) each."""
        entry = self._skill(skill)
        return entry.action_low, entry.action_high

    def control_hz(self, skill: str) -> float | None:
        """Actions per second the skill was trained at, None where nobody said."""
        return self._skill(skill).control_hz

    def reset(self) -> None:
        """Forget the last action and skill, as before the first call."""
        with self._lock:
            self._last = np.zeros(self._width, np.float32)
            self._from = self._last
            self._acting: _Skill | None = None
            self._switched = self._acted = -math.inf

    def stop(self, skill: str) -> Array:
        """The stop action of a skill, (act,), which becomes the last one."""
        with self._lock:
            return self._emit(self._skill(skill), self._skill(skill).stopped(self._last))

    def __call__(self, observation: Observation, skill: str, stamp: float | None = None) -> Array:
        """The action for an observation.

        Args:
            observation: A mapping of all parts by name, in the order of the layout, which is the
                strict form; or one array (obs,), in which a wrong order cannot be seen.
            skill: Which skill to act in.
            stamp: When the observation was taken, s, by the policy's clock.

        Returns:
            The action, (act,), float32, within the limits of the bundle.

        Raises:
            ValueError: unknown skill, wrong shape, missing or unknown name, wrong order, no stamp
                although `max_age` is set.
            ObservationError: a fault, if `on_fault` is "raise".
        """
        entry = self._skill(skill)
        if stamp is None and self.safety.max_age is not None:
            raise ValueError("max_age is set: give the stamp of each observation")
        with self._lock:
            now = self._clock()
            if self._too_soon(entry, now):
                return self._last[: entry.actions].copy()
            entry.take(observation)
            fault = self._observed_fault(entry, stamp, now)
            if fault is None:
                action: Array = self._session.run(None, entry.feed)[0][0, : entry.actions]
                if not np.isfinite(action).all():
                    fault = "the network's output is not finite"
            if fault is not None:
                return self._faulty(entry, fault, now)
            self.fault = None
            return self._limited(entry, action, now)

    def _skill(self, name: str) -> _Skill:
        try:
            return self._skills[name]
        except (KeyError, TypeError):
            known = ", ".join(self._skills)
            raise ValueError(f"unknown skill {name!r}; the bundle has {known}") from None

    def _checked_slew(self) -> Array:
        """Slew of each action, (width,)."""
        slew = self.safety.slew
        if slew is None:
            return np.zeros(self._width, np.float32)
        if np.ndim(slew) and np.shape(slew) != (self._width,):
            raise ValueError(f"slew must be one number or {self._width}, one for each action")
        if unknown := [e.name for e in self._skills.values() if e.control_hz is None]:
            raise ValueError(f"slew needs a control rate, and skill {unknown[0]!r} declares none")
        return np.broadcast_to(np.asarray(slew, np.float32), (self._width,))

    def _too_soon(self, entry: _Skill, now: float) -> bool:
        rate = self.safety.max_rate
        return rate is not None and entry is self._acting and (now - self._acted) * rate < 1.0

    def _observed_fault(self, entry: _Skill, stamp: float | None, now: float) -> str | None:
        row = entry.row
        # NaN compares false, and infinity lies beyond every bound.
        if not ((row >= entry.low) & (row <= entry.high)).all():
            return _describe(entry)
        if stamp is not None and (most := self.safety.max_age) is not None:
            age = now - stamp
            if not -most <= age <= most:
                fault = f"the observation is {age:.3f} s old; at most {most:g} s is allowed"
                return fault if 0.0 <= age < _LONG_AGO else f"{fault}; {_CLOCKS}"
        return None

    def _faulty(self, entry: _Skill, fault: str, now: float) -> Array:
        if self.fault is None:
            _LOG.warning("skill %s: %s; %s", entry.name, fault, self.safety.on_fault)
        self.fault, self.faults = fault, self.faults + 1
        if self.safety.on_fault == "raise":
            raise ObservationError(f"skill {entry.name!r}: {fault}")
        held = now - self._acted <= self.safety.hold_seconds
        if self.safety.on_fault == "hold" and held and entry is self._acting:
            return self._last[: entry.actions].copy()
        return self._emit(entry, entry.stopped(self._last))

    def _limited(self, entry: _Skill, action: Array, now: float) -> Array:
        """Blend after a switch of skills, limit the slew, and remember."""
        last, safety = self._last[: entry.actions], self.safety
        if entry is not self._acting:
            if self._acting is not None:
                self._from, self._switched = self._last.copy(), now
            elif safety.slew is not None:
                last = entry.stopped(self._last)
        if (passed := now - self._switched) < safety.blend:
            start = self._from[: entry.actions]
            action = start + np.float32(passed / safety.blend) * (action - start)
        if safety.slew is not None:
            # A pause does not save up movement: no step is larger than one control period's.
            period = min(now - self._acted, entry.period)
            step = self._slew[: entry.actions] * np.float32(period)
            action = np.clip(action, last - step, last + step)
        self._acting, self._acted = entry, now
        return self._emit(entry, action)

    def _emit(self, entry: _Skill, action: Array) -> Array:
        self._last[: entry.actions] = action
        return self._last[: entry.actions].copy()


def load(
    path: str | Path,
    safety: Safety | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Policy:
    """Read a bundle, check every byte of it, and prepare to act.

    Args:
        path: The folder that `clrl export` wrote.
        safety: What to do with faults, and limits; by default, stop at a fault.
        clock: Seconds, on the same clock as the stamps of observations.

    Raises:
        BundleError: a file is missing, altered, or not what it must be.
        OSError: it cannot be read.
    """
    return Policy(read(path), safety, clock)


def _session(bundle: Bundle) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            bundle.files[GRAPH], options, providers=["CPUExecutionProvider"]
        )
        names = [x.name for x in (*session.get_inputs(), *session.get_outputs())]
        if names != ["observation", "skill", "action"]:
            raise ValueError(f"its inputs and outputs are {', '.join(names)}")
        widths = [x.shape[1] for x in (session.get_inputs()[0], session.get_outputs()[0])]
        if not all(isinstance(width, int) and 0 < width <= _WIDEST for width in widths):
            raise ValueError(f"its inputs and outputs have the widths {widths}")
    except Exception as error:  # onnxruntime has no common class of errors
        raise BundleError(bundle.path, f"{GRAPH} cannot be run: {line(error)}") from None
    return session


def _bounds(parts: Sequence[Mapping[str, Any]], beyond: float, key: str) -> Array:
    """A bound of each element, (size,); null where there is none."""
    values = [beyond if v is None else v for part in parts for v in part[key]]
    return np.array(values, np.float32)


def _describe(entry: _Skill) -> str:
    """The first element of an observation that is out of bounds."""
    ok = (entry.row >= entry.low) & (entry.row <= entry.high)
    at = int(np.argmin(ok))
    part = next(n for n, s in zip(entry.names, entry.slices, strict=True) if at < s.stop)
    if not np.isfinite(entry.row[at]):
        return f"{part} is not finite"
    return f"{part} has {entry.row[at]:g}, outside [{entry.low[at]:g}, {entry.high[at]:g}]"
