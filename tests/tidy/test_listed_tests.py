"""Every name in the lists of tests is that of a test, which a renamed test would not be."""

import pytest

from tests.conftest import LISTED, listed
from tests.tidy.sources import ROOT

KIT = "".join(
    path.read_text() for path in sorted((ROOT / "pyspark_theflash" / "testing").glob("*.py"))
)
"""Its tests are run by subclasses in other files."""
NAMES = sorted(line for mark in LISTED for line in listed(mark))


@pytest.mark.parametrize("name", NAMES)
def test_a_listed_test_exists(name: str) -> None:
    file, *parts = name.partition("[")[0].split("::")
    path = ROOT / file
    assert path.exists()
    text = (path.read_text() if parts else "") + KIT
    assert all(part in text for part in parts if part != "runTest")
