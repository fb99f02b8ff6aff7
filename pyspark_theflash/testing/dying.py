"""Run the kit's history on a store and die at a step, as a process of its own.

python -m pyspark_theflash.testing.dying ENGINE STORE STEP ACKNOWLEDGED

Appends a byte to the file ACKNOWLEDGED after each step that the engine has acknowledged.
"""

import sys
from pathlib import Path

from pyspark_theflash.testing.failures import run_until_death


def main(engine: str, store: str, die_at: str, acknowledged: str) -> None:
    """Run until the given call or fail point."""
    with open(acknowledged, "ab", buffering=0) as notes:
        run_until_death(engine, Path(store), int(die_at), lambda: notes.write(b"."))


if __name__ == "__main__":
    main(*sys.argv[1:])
