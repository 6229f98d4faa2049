"""Known vulnerabilities of the pinned versions, where PyPI cannot be asked (`make audit` does).

    git clone https://github.com/pyupio/safety-db
    python benchmarks/offline_audit.py safety-db/data/insecure.json

Prints every entry that covers a version of `constraints.txt`; exits with 1 if there is one.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def pinned() -> dict[str, str]:
    """Version by package."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    needs = [Requirement(line) for line in lines if line]
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in needs}


def main(database: str) -> int:
    """Compare; the exit status."""
    known = json.loads(Path(database).read_text())
    day = datetime.fromtimestamp(known.pop("$meta")["timestamp"], UTC).date()
    pins = pinned()
    entries = [(canonicalize_name(name), spec) for name, specs in known.items() for spec in specs]
    mine = [(name, spec) for name, spec in entries if name in pins]
    hits = [(n, s) for n, s in mine if SpecifierSet(s).contains(pins[n], prereleases=True)]
    print(f"{len(mine)} entries of {day} on {len(dict(mine))} of {len(pins)} pinned packages")
    for name, spec in hits:
        print(f"{name} {pins[name]} is covered by {spec}")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 2 else (__doc__ or ""))
