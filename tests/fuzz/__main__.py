"""python -m tests.fuzz [--inputs N] [--seconds S] [--seed N] [TARGET ...]
python -m tests.fuzz [--seed N] --only NUMBER|BYTES TARGET

Runs each target (all of them, the cheapest first) until it has parsed so many mutated inputs, or
for so many seconds. Prints what became of them, and an input for each way in which a parser did
anything but parse it or raise a typed error, within a second and 256 MiB. With --only, prints one
input whole, by its number or as it was printed, and lets its error through.
"""

import argparse
import ast
import logging
import math
import sys
import tempfile
import warnings
from pathlib import Path

from tests.fuzz.run import Findings, fuzz, nth_input
from tests.fuzz.targets import TARGETS

_SHOWN_BYTES = 1000


def main() -> int:
    arguments = _arguments()
    logging.disable()
    warnings.simplefilter("error")
    failed = False
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for name in arguments.names:
            own = Path(folder, name)
            own.mkdir()
            target, seed = TARGETS[name](own), f"{name} {arguments.seed}"
            if arguments.only is not None:
                only = arguments.only
                data = only if isinstance(only, bytes) else nth_input(target, only, seed)
                print(data)
                target.parse(data)
                continue
            findings = fuzz(target, arguments.inputs, seed, arguments.seconds)
            _show(name, arguments.seed, findings)
            failed = failed or bool(findings.failures)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=ast.literal_eval, metavar="NUMBER|BYTES")
    parser.add_argument("names", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - TARGETS.keys())
    if unknown:
        parser.error(f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if arguments.only is not None and len(arguments.names) != 1:
        parser.error("--only takes one target")
    arguments.names = arguments.names or list(TARGETS)
    return arguments


def _show(name: str, seed: int, findings: Findings) -> None:
    outcomes = ", ".join(f"{name} {count:,}" for name, count in findings.outcomes.most_common(4))
    rate = findings.inputs / findings.seconds
    print(
        f"{name:32} {findings.inputs:>9,} inputs, {rate:>7,.0f} a second, "
        f"slowest {findings.slowest_s * 1000:6.1f} ms (input {findings.slowest}), "
        f"{findings.grown_bytes >> 20:3} MiB more: {outcomes}",
        flush=True,
    )
    for what, (number, data) in findings.failures.items():
        more = f"... {len(data):,} bytes" if len(data) > _SHOWN_BYTES else ""
        print(f"  FAILED {what}: {data[:_SHOWN_BYTES]!r}{more}")
        print(f"    python -m tests.fuzz --seed {seed} --only {number} {name}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
