"""Counts of actions and comparisons, and repeated queries of TiDB for apparent differences."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pyspark_theflash.base.types import TimeStamp
from tests.bank.compare import Difference, Tables, differences, read_by_tidb
from tests.bank.workload import TOTAL
from tests.support.mysql import MySqlConnection
from tests.support.peer import Peer

_OTHER_SCHEMAS = [f"CREATE DATABASE other{n}" for n in range(40)]
_MONEY = ("acc", "savings", "part", "apart")


@dataclass
class Figures:
    """Counts of actions and comparisons; `tables` at one of the `timestamps` each."""

    timestamps: int = 0
    tables: int = 0
    rows: int = 0
    locks_met: int = 0
    from_binlog: int = 0
    compared_again: int = 0
    """Timestamps at which TiDB's first answer was another (see `Doubts`)."""
    lost_rows: int = 0
    """Rows that TiDB's second answer does not have, although TiDB committed them."""
    different: list[Difference] = field(default_factory=list)
    wrong_totals: list[tuple[int, float]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """Actions of sessions."""
    happened: Counter[str] = field(default_factory=Counter)
    """Changes of regions."""


class Doubts:
    """Answers that were not the same, to be compared again when TiDB has forgotten its schemas.

    TiDB keeps the last 16 schemas that it has loaded, and takes one of these for a `tidb_snapshot`:
    the newest, although DDL may have gone on, if the timestamp is newer than its last look, and the
    one before, if it has loaded two versions at once (`InfoCache.GetBySnapshotTS`, `GetByVersion`).
    So a TiDB that is slow may read a timestamp by an older schema than it had then; once others
    have come it loads the right one.

    And its store sometimes loses an old version of a row. If TiDB only misses rows,
    and there are as many as in the answer by what the store was asked to commit, they are lost.
    """

    def __init__(self, count: Callable[[TimeStamp], dict[str, int]]) -> None:
        """`count`: how many rows of each table the store was asked to commit, at a timestamp."""
        self._count = count
        self._answers: list[tuple[TimeStamp, Tables, dict[str, int]]] = []

    def add(self, ts: TimeStamp, answer: Tables) -> None:
        """An answer that is not TiDB's first one."""
        self._answers.append((ts, answer, self._count(ts)))

    def ask_again(self, peer: Peer, session: MySqlConnection, figures: Figures) -> None:
        """Compare the answers again, and record remaining differences."""
        if self._answers:
            peer.sql(*_OTHER_SCHEMAS)
        figures.compared_again = len({ts for ts, _, _ in self._answers})
        for ts, answer, counts in self._answers:
            for each in differences(ts, answer, read_by_tidb(session, ts)):
                rows = answer.get(each.table)
                if each.only_there or rows is None or rows.total() != counts.get(each.table):
                    figures.different.append(each)
                else:
                    figures.lost_rows += len(each.only_here)


def note(figures: Figures, doubts: Doubts, ts: TimeStamp, here: Tables, there: Tables) -> None:
    """Compare the rows read here with TiDB's first answer."""
    figures.timestamps += 1
    figures.tables += len(there)
    figures.rows += sum(rows.total() for rows in there.values())
    if differences(ts, here, there):
        doubts.add(ts, here)
    _check_total(figures, ts, here)


def note_binlog(
    figures: Figures, doubts: Doubts, ts: TimeStamp, replica: Tables, there: Tables
) -> None:
    """Compare the rows of a store that is written from the binlog with TiDB's first answer."""
    figures.from_binlog += 1
    if differences(ts, replica, there):
        doubts.add(ts, replica)
    _check_total(figures, ts, replica)


def _check_total(figures: Figures, ts: int, tables: Tables) -> None:
    total = sum(_balance(tables, name) for name in _MONEY)
    if total != TOTAL:
        figures.wrong_totals.append((ts, total))


def _balance(tables: Tables, name: str) -> float:
    # `savings` may have a column in front: its balance is the last one.
    at = -1 if name == "savings" else 1
    return sum(float(row[at]) * count for row, count in tables[name].items())
