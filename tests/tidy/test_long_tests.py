"""Every name in the list of long tests is that of a test, which a renamed test would not be."""

import pytest

from tests.conftest import LONG
from tests.tidy.sources import ROOT

KIT = ROOT / "pyspark_theflash" / "testing" / "contract.py"
"""Its tests are run by subclasses in other files."""
NAMES = [line for line in LONG.read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", NAMES)
def test_a_long_test_exists(name: str) -> None:
    file, *parts = name.partition("[")[0].split("::")
    text = (ROOT / file).read_text() + KIT.read_text()
    assert all(part in text for part in parts if part != "runTest")
