"""Replace the expected output of golden scripts by actual output: `make golden-rewrite`.

Tests never write scripts, so none can pass by changing what it expects.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.golden.test_compaction import Compactions
from tests.golden.test_latches import Latches
from tests.golden.test_pairing import PairingScript
from tests.golden.test_pushdown import Pushdowns
from tests.golden.test_visibility import Visibility
from tests.support.script import Subject, rewrite_script, script_paths

SUBJECTS: Final[dict[str, Callable[[Path], Subject]]] = {
    "compaction": Compactions,
    "latches": Latches,
    "pairing": PairingScript,
    "pushdown": Pushdowns,
    "visibility": Visibility,
}


def main() -> None:
    """Rewrite the scripts of all subjects."""
    logging.disable()
    for name, subject in SUBJECTS.items():
        for path in script_paths(name):
            with TemporaryDirectory() as folder:
                rewrite_script(path, subject(Path(folder)))


if __name__ == "__main__":
    main()
