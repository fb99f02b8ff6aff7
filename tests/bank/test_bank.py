"""The bank for a short while; `make bank` runs it for as long as one likes."""

from pathlib import Path

import pytest

from tests.bank.run import run

pytestmark = [pytest.mark.peer, pytest.mark.slow]
SECONDS = 15


@pytest.mark.parametrize("binlog", [False, True], ids=["regions", "regions and binlog"])
def test_bank(tmp_path: Path, *, binlog: bool) -> None:
    figures = run(tmp_path, SECONDS, binlog=binlog)
    assert figures.different == []
    assert figures.wrong_totals == []
    assert figures.timestamps > 5
    assert (figures.from_binlog > 0) is binlog
    assert figures.done["transfers"] > 50
    assert figures.done["ddl"] > 5
    assert figures.happened["commands"] > 500
