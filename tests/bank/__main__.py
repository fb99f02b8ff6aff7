"""python -m tests.bank [--minutes M] [--seed N]

Needs `make peer`. Prints what was compared, and ends with 1 if anything differed.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from tests.bank.run import run
from tests.peer.build import is_built


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bank")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if not is_built():
        parser.error("needs a TiDB: run `make peer`")
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    with tempfile.TemporaryDirectory(prefix="bank-") as folder:
        figures = run(Path(folder), round(60 * chosen.minutes), chosen.seed)
    print(
        f"{figures.timestamps:,} timestamps compared ({figures.tables:,} tables, "
        f"{figures.rows:,} rows; {figures.locks_met:,} locks met): "
        f"{len(figures.different)} different, {len(figures.wrong_totals)} wrong totals"
    )
    print("sessions:", ", ".join(f"{name} {n:,}" for name, n in sorted(figures.done.items())))
    print("regions:", ", ".join(f"{name} {n:,}" for name, n in sorted(figures.happened.items())))
    for each in (*figures.different[:5], *figures.wrong_totals[:5]):
        print(str(each)[:4000])
    return 1 if figures.different or figures.wrong_totals else 0


if __name__ == "__main__":
    sys.exit(main())
