"""python -m tests.bank [--minutes M] [--seed N] [--binlog]

Needs `make peer`. Prints what was compared, and ends with 1 if anything differed.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from tests.bank.run import Figures, run
from tests.peer.build import is_built

CLOCK = SystemClock()
_TELL_MS = 60_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bank")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--binlog", action="store_true", help="compare a store made from it too")
    chosen = parser.parse_args()
    if not is_built():
        parser.error("needs a TiDB: run `make peer`")
    with tempfile.TemporaryDirectory(prefix="bank-") as folder:
        figures = run(
            Path(folder),
            round(60 * chosen.minutes),
            chosen.seed,
            binlog=chosen.binlog,
            tell=Progress(),
        )
    sys.stdout.write("\n".join(_lines(figures)) + "\n")
    return 1 if figures.different or figures.wrong_totals else 0


class Progress:
    """Prints the figures every now and then."""

    def __init__(self) -> None:
        self._next_ms = CLOCK.boottime_ms() + _TELL_MS

    def __call__(self, figures: Figures) -> None:
        if CLOCK.boottime_ms() >= self._next_ms:
            sys.stderr.write(next(_lines(figures)) + "\n")
            self._next_ms = CLOCK.boottime_ms() + _TELL_MS


def _lines(figures: Figures) -> Iterator[str]:
    yield (
        f"{figures.timestamps:,} timestamps compared ({figures.tables:,} tables, "
        f"{figures.rows:,} rows; {figures.locks_met:,} locks met; "
        f"{figures.from_binlog:,} from the binlog too; TiDB asked again at "
        f"{figures.compared_again}, which had lost {figures.lost_rows} rows): "
        f"{len(figures.different)} different, {len(figures.wrong_totals)} wrong totals"
    )
    for name, counts in (("sessions", figures.done), ("regions", figures.happened)):
        yield f"{name}: " + ", ".join(f"{what} {n:,}" for what, n in sorted(counts.items()))
    for each in (*figures.different[:5], *figures.wrong_totals[:5]):
        yield str(each)[:4000]


if __name__ == "__main__":
    sys.exit(main())
