"""The commands and programs of pages that need a store and no Spark, run in the page's order."""

import json
import subprocess
from pathlib import Path

from tests.support.page_commands import output_of, script_of
from tests.support.serving import command
from tests.support.workloads import check_answers, make_store, workload

DOCS = Path(__file__).parents[2] / "docs"
TIMEOUT_S = 120


def run(page: str, folder: Path, place: str, path: Path) -> str:
    """Run a page in a folder, with `path` in place of the page's store."""
    return output_of(script_of((DOCS / page).read_text(), {place: path}), folder, TIMEOUT_S)


def test_statements_of_sql(tmp_path: Path) -> None:
    output = run("sql.md", tmp_path, "/tmp/own", tmp_path / "own")
    rows, commit_ts = output.splitlines()[-1].split()
    assert rows == "1"
    arguments = (tmp_path / "own", "shop.rate", "--at", commit_ts, "--format", "jsonl")
    lines = subprocess.check_output(command("scan", *arguments), text=True)
    assert sorted(map(json.loads, lines.splitlines())) == [
        ["EUR", "1.000000", "2026-11-24"],
        ["USD", "1.060000", "2026-11-24"],
    ]


def test_the_api(tmp_path: Path) -> None:
    output = run("api.md", tmp_path, "/tmp/bank", make_store(workload("bank"), tmp_path / "bank"))
    batches = [int(line) for line in output.splitlines() if line.isdigit()]
    of_tidb = [
        answer.rows
        for answer in workload("bank").answers()
        if (answer.snapshot_ts, answer.table) == (470613571969220631, "bank.acc_int")
    ]
    assert [sum(batches)] == of_tidb


def test_a_copy(tmp_path: Path) -> None:
    bank = workload("bank")
    run("copy.md", tmp_path, "/data/shop", make_store(bank, tmp_path / "shop"))
    assert check_answers(tmp_path / "shop2", bank.answers())
