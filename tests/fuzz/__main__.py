"""python -m tests.fuzz [--inputs N] [--seed N] [TARGET ...]: mutated inputs for every parser.

Prints what became of them, and every input on which a parser did anything but parse it or raise a
typed error, within a second and 256 MiB.
"""

import argparse
import sys

from tests.fuzz.run import fuzz
from tests.fuzz.targets import targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    failed = 0
    for target in targets():
        if arguments.names and target.name not in arguments.names:
            continue
        findings = fuzz(target, arguments.inputs, arguments.seed)
        outcomes = ", ".join(
            f"{name} {count:,}" for name, count in findings.outcomes.most_common(4)
        )
        print(
            f"{target.name:24} slowest {findings.slowest_s * 1000:7.1f} ms, "
            f"{findings.grown_mib:5.0f} MiB more: {outcomes}",
            flush=True,
        )
        for what, data in findings.failures[:5]:
            print(f"  FAILED {what}: {data.hex()[:400]}", flush=True)
        failed += len(findings.failures)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
