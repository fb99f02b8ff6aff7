"""python -m tests.soak --kind KIND [--minutes M] [--seed N]

Runs random histories, one seed after the other, until the time is up. Prints every seed, and ends
with 1 if anything differed; `--seed N --minutes 0` repeats the one of that seed.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from random import SystemRandom
from typing import Final

from tests.soak.outcome import Outcome

KINDS: Final = {
    "ddl": "tests.soak.ddl",
    "follow": "tests.soak.follow",
    "histories": "tests.soak.histories",
    "latches": "tests.soak.latches",
    "queries": "tests.soak.queries",
    "reorganize": "tests.soak.reorganize",
    "where": "tests.soak.where",
}
"""By name, a module with `run(folder, *, first_seed, seconds, outcome)`."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak")
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    seed = SystemRandom().randrange(1 << 31) if chosen.seed is None else chosen.seed
    sys.stdout.write(f"{chosen.kind}: first seed {seed}\n")
    sys.stdout.flush()
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        run = importlib.import_module(KINDS[chosen.kind]).run
        run(Path(folder), first_seed=seed, seconds=60 * chosen.minutes, outcome=outcome)
    for text, count in outcome.refused.most_common(20):
        sys.stdout.write(f"refused {count:,} times: {text[:300]}\n")
    sys.stdout.write(f"{chosen.kind}: {outcome.summary()}\n")
    return 1 if outcome.different else 0


if __name__ == "__main__":
    sys.exit(main())
