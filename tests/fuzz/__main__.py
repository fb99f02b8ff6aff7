"""python -m tests.fuzz [--inputs N] [--seconds S] [--seed N] [TARGET ...]

Runs each target (all of them, the cheapest first) until it has parsed so many mutated inputs, or
for so many seconds. Prints what became of them, and an input for each way in which a parser did
anything but parse it or raise a typed error, within a second and 256 MiB.
"""

import argparse
import logging
import math
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import Findings, fuzz
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*", metavar="TARGET", choices=[*TARGETS, []])
    arguments = parser.parse_args()
    logging.disable()
    failed = False
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for name in arguments.names or TARGETS:
            own = Path(folder, name)
            own.mkdir()
            found = fuzz(
                TARGETS[name](own), arguments.inputs, f"{name} {arguments.seed}", arguments.seconds
            )
            _show(name, found)
            failed = failed or bool(found.failures)
    return 1 if failed else 0


def _show(name: str, found: Findings) -> None:
    outcomes = ", ".join(f"{name} {count:,}" for name, count in found.outcomes.most_common(4))
    rate = found.inputs / found.seconds
    print(
        f"{name:32} {found.inputs:>9,} inputs, {rate:>7,.0f} a second, "
        f"slowest {found.slowest_s * 1000:6.1f} ms, {found.grown_bytes >> 20:3} MiB more: "
        f"{outcomes}",
        flush=True,
    )
    for what, data in found.failures.items():
        print(f"  FAILED {what}: {data[:300]!r}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
