"""`clrl verify`: whether a bundle is whole, does what it did, and is fast enough.

Needs numpy and onnxruntime, nothing else, so that a robot can run it.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from clrl import sealed
from clrl.bundle import CONTRACT, GOLDEN, Bundle, BundleError, parse, read
from clrl.deploy import Policy, Safety

Report = dict[str, Any]
CALLS = 10_000
_WARM = 200


def verify(path: str | Path, calls: int = CALLS) -> Report:
    """Check a bundle in every way.

    Args:
        path: Its folder.
        calls: Timed calls of the whole runtime, checks included, >= 1.

    Returns:
        `files`, and for each skill the `pairs` compared, the largest `difference`, and whether
        actions kept their limits; `latency_us` with p50 and p99; `calls`.

    Raises:
        BundleError: a file is missing, altered or too much, a golden pair differs by more than the
            tolerance, or an action leaves its limits.
        OSError: it cannot be read.
    """
    if calls < 1:
        raise ValueError(f"calls must be >= 1, got {calls}")
    bundle = read(path)
    try:
        policy = Policy(bundle, Safety(on_fault="raise"))
        pairs, tolerance = _pairs(bundle, policy)
        skills = {name: _compare(policy, name, *rows, tolerance) for name, rows in pairs.items()}
    except BundleError:
        raise
    except (ValueError, RuntimeError) as error:
        raise BundleError(bundle.path, str(error)) from None
    name, (observations, _) = next(iter(pairs.items()))
    return {
        "bundle": str(path),
        "files": [*sorted(bundle.files), sealed.MANIFEST],
        "skills": skills,
        "latency_us": latency(policy, observations, name, calls),
        "calls": calls,
    }


def latency(policy: Policy, observations: Any, skill: str, calls: int) -> dict[str, float]:
    """Microseconds of one call, checks included: p50 and p99."""
    rows = [np.asarray(row, np.float32) for row in observations]
    seconds = np.empty(calls)
    for i in range(-_WARM, calls):
        row = rows[i % len(rows)]
        start = time.perf_counter()
        policy(row, skill)
        seconds[max(i, 0)] = time.perf_counter() - start
    p50, p99 = np.percentile(1e6 * seconds, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def show(report: Report) -> str:
    """A table a person reads at a glance."""
    lines = [f"ok      {len(report['files'])} files match their sums, none is missing or extra"]
    for name, found in report["skills"].items():
        lines.append(
            f"ok      {name}: {found['pairs']} golden pairs within {found['difference']:.1e}, "
            "all within limits"
        )
    times = report["latency_us"]
    lines.append(
        f"        {report['calls']:,} calls with checks: p50 {times['p50']:.1f} us, "
        f"p99 {times['p99']:.1f} us"
    )
    return "\n".join(lines)


def _pairs(bundle: Bundle, policy: Policy) -> tuple[dict[str, tuple[Any, Any]], float]:
    content = parse(bundle.files[GOLDEN], GOLDEN)
    try:
        tolerance = float(content["tolerance"])
        with np.errstate(over="raise"):
            pairs = {
                name: (
                    np.array(entry["observation"], np.float32),
                    np.array(entry["action"], np.float32),
                )
                for name, entry in content["skills"].items()
            }
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise ValueError(f"{GOLDEN} is not valid") from None
    rows = [seen.ndim == 2 and len(seen) > 0 for seen, _ in pairs.values()]
    if list(pairs) != policy.skills or not all(rows):
        raise ValueError(f"{GOLDEN} does not hold the skills of {CONTRACT}")
    if not 0.0 < tolerance <= 1e-3:
        raise ValueError(f"{GOLDEN} has the tolerance {tolerance:g}")
    return pairs, tolerance


def _compare(policy: Policy, name: str, seen: Any, wanted: Any, tolerance: float) -> Report:
    got = np.stack([policy(row, name) for row in seen])
    if got.shape != wanted.shape:
        raise ValueError(f"golden actions of skill {name!r} have another shape")
    difference = float(np.abs(got - wanted).max())
    if not difference <= tolerance:
        raise ValueError(f"skill {name!r} differs from its golden pairs by {difference:.1e}")
    low, high = policy.limits(name)
    if not ((got >= low) & (got <= high)).all():
        raise ValueError(f"skill {name!r} leaves the limits of its actions")
    return {"pairs": len(seen), "difference": difference, "within_limits": True}
