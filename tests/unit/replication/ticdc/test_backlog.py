import random

import numpy as np
import pytest

from pyspark_theflash.replication.ticdc import backlog
from pyspark_theflash.replication.ticdc.backlog import SERIES_KIND, Backlog
from pyspark_theflash.replication.ticdc.layout import parse_data_file
from tests.support.ticdc_tables import rows_of

VERSION = "441349361156227074"


class Files:
    """Files of rows by number, each with its commits; the size is that of the commits."""

    def __init__(self, **commits):
        self.commits = commits
        self.parsed = []

    def list(self):
        return [(self.file(name), len(each)) for name, each in self.commits.items()]

    def file(self, name):
        series, number = name.rsplit("_", 1)
        return parse_data_file(f"d/{series}/{VERSION}/CDC{number.zfill(6)}.json")

    def parse(self, file, size):
        name = f"{file.table.removeprefix('d/')}_{file.number}"
        self.parsed.append(name)
        commits = self.commits[name][:size]
        if commits:
            yield rows_of({"id": [str(ts) for ts in commits]}, commits)


def taken(backlog, low, high):
    return sorted(ts for rows in backlog.rows(low, high) for ts in rows.commit_ts.tolist())


def advance(backlog, high):
    puts, deletes = backlog.changes(high)
    backlog.stored(high)
    return {r.key: r.body for r in puts}, [key for _, key in deletes]


def test_rows_in_any_order_and_file():
    files = Files(a_1=[5, 9, 7], a_2=[6, 12], b_1=[8])
    log = Backlog({}, files.parse)
    log.update(files.list(), 4)
    assert taken(log, 4, 8) == [5, 6, 7, 8]
    assert taken(log, 8, 20) == [9, 12]
    assert len(files.parsed) == 3


def test_finished_files_are_recorded_and_not_read_again():
    files = Files(a_1=[5], a_2=[6], a_3=[9], b_1=[5])
    log = Backlog({}, files.parse)
    log.update(files.list(), 4)
    puts, _ = advance(log, 8)
    assert {key[:3]: body for key, body in puts.items()} == {"d/a": b"[2, 1]", "d/b": b"[1, 1]"}
    again = Files(**files.commits)
    log = Backlog(puts, again.parse)
    log.update(again.list(), 8)
    assert again.parsed == ["a_3"]
    assert taken(log, 8, 9) == [9]


def test_nothing_is_finished_after_a_missing_number():
    """TiCDC leaves a number out if it ends between writing index and file; or the file is late."""
    files = Files(a_1=[5], a_3=[6])
    log = Backlog({}, files.parse)
    log.update(files.list(), 4)
    puts, _ = advance(log, 8)
    assert list(puts.values()) == [b"[1, 1]"]
    files.commits["a_2"] = [10]
    log.update(files.list(), 8)
    assert taken(log, 8, 10) == [10]
    assert files.parsed == ["a_1", "a_3", "a_2"]
    puts, _ = advance(log, 10)
    assert list(puts.values()) == [b"[3, 1]"]


def test_a_file_that_grows_is_read_again():
    files = Files(a_1=[5, 6])
    log = Backlog({}, files.parse)
    log.update(files.list(), 4)
    puts, _ = advance(log, 8)
    files.commits["a_1"] += [9]
    for continued in (log, Backlog(puts, files.parse)):
        continued.update(files.list(), 8)
        assert taken(continued, 8, 9) == [9]


def test_records_of_removed_series_are_deleted():
    files = Files(a_1=[5], b_1=[5])
    log = Backlog({}, files.parse)
    log.update(files.list(), 4)
    advance(log, 8)
    del files.commits["a_1"]
    log.update(files.list(), 8)
    puts, deletes = advance(log, 9)
    assert not puts
    assert [key[:3] for key in deletes] == ["d/a"]
    assert advance(log, 10) == ({}, [])


def test_sent_again_in_a_newer_file():
    files = Files(a_1=[5, 6])
    log = Backlog({}, files.parse)
    log.update(files.list(), 4)
    advance(log, 6)
    files.commits["a_2"] = [5, 6]
    log.update(files.list(), 6)
    assert taken(log, 6, 100) == []
    assert files.parsed == ["a_1", "a_2"]
    assert list(advance(log, 7)[0].values()) == [b"[2, 2]"]


@pytest.mark.parametrize("seed", range(20))
def test_ranges_have_every_row_once(seed, monkeypatch):
    """Ranges that fit in memory, with files that overlap, and not all rows in memory."""
    monkeypatch.setattr(backlog, "RANGE_BYTES", 30)
    rng = random.Random(seed)
    commits = {f"a_{n}": [rng.randrange(1, 200) for _ in range(25)] for n in range(1, 9)}
    files = Files(**commits)
    log = Backlog({}, files.parse)
    log.update(files.list(), 0)
    low, seen, sizes = 0, [], []
    while low < 200:
        high = log.range_end(low, 200)
        assert high > low
        rows = taken(log, low, high)
        seen += rows
        sizes.append(len(rows))
        advance(log, high)
        low = high
    assert seen == sorted(np.concatenate(list(commits.values())).tolist())
    assert max(sizes) < 80
    assert len(sizes) > 5


def test_the_kind_of_record():
    files = Files(a_1=[5])
    log = Backlog({}, files.parse)
    log.update(files.list(), 4)
    (record,), _ = log.changes(5)
    assert record.kind == SERIES_KIND
