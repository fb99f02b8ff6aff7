"""Modules beside a script that Spark runs are found before those of Python's library."""

import sys
from pathlib import Path

JOBS = Path(__file__).parents[2] / "pyspark_theflash" / "jobs"


def test_no_module_of_jobs_has_the_name_of_a_library_module() -> None:
    """spark-submit puts the folder of its script in front of sys.path."""
    names = {path.stem for path in JOBS.glob("*.py")} - {"__init__"}
    assert names
    assert not names & sys.stdlib_module_names
