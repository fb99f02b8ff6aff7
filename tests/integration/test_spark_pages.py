"""The commands and programs of README and of the tutorial, run in the order of the page."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.page_commands import output_of, script_of

PROJECT = Path(__file__).parents[2]
TIMEOUT_S = 600
NOT_RUN = ("make demo", "make wheel")
"""Starts of the blocks that install the package, which the tests have."""


def tidbs_sum() -> int:
    """Return the sum of balances in the rows that TiDB had at the timestamp of both pages."""
    rows = PROJECT / "tests/fixtures/bank/truth/470613571969220631.bank.acc_int.jsonl.gz"
    with gzip.open(rows, "rt") as lines:
        return sum(int(json.loads(line)[2]) for line in lines)


@pytest.mark.parametrize(
    ("page", "sums", "last"),
    [("README.md", 3, "balance: [["), ("docs/tutorial.md", 4, "all sound")],
)
def test_the_page_does_what_it_says(page: str, sums: int, last: str, tmp_path: Path) -> None:
    bank = "tests/fixtures/bank"
    shutil.copytree(PROJECT / bank, tmp_path / bank)
    folders = {"/tmp/bank": tmp_path / "store"}
    script = script_of((PROJECT / page).read_text(), folders, NOT_RUN)
    output = output_of(script, tmp_path, TIMEOUT_S)
    assert len(re.findall(rf"\b{tidbs_sum()}\b", output)) == sums, output
    assert last in output.splitlines()[-1], output
