"""Replace the expected output of golden scripts by actual output: `make golden-rewrite`.

Tests never write scripts, so none can pass by changing what it expects.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pyspark_theflash.testing.script import ScriptSubject, rewrite_script
from pyspark_theflash.testing.store import SCRIPTS
from pyspark_theflash.testing.visibility import Visibility
from tests.golden.test_compaction import Compactions
from tests.golden.test_latches import Latches
from tests.golden.test_pairing import PairingScript
from tests.golden.test_pushdown import Pushdowns
from tests.golden.test_sql import Statements
from tests.golden.test_visibility import StoredVersions
from tests.support.golden_scripts import script_paths

SUBJECTS: Final[dict[str, Callable[[Path], ScriptSubject]]] = {
    "compaction": Compactions,
    "latches": Latches,
    "pairing": PairingScript,
    "pushdown": Pushdowns,
    "sql": Statements,
    "visibility": StoredVersions,
}


def main() -> None:
    """Rewrite the scripts of all subjects."""
    logging.disable()
    scripts = [(path, subject) for name, subject in SUBJECTS.items() for path in script_paths(name)]
    scripts += [(path, Visibility) for path in SCRIPTS.glob("*.txt")]
    for path, subject in scripts:
        with TemporaryDirectory() as folder:
            rewrite_script(path, subject(Path(folder)))


if __name__ == "__main__":
    main()
