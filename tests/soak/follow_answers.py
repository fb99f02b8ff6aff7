"""TiDB's rows at many timestamps, and the same rows of a store.

Threads read ranges of some tables in TiDB (`tidb_snapshot`), in turns, and sometimes all rows of
all tables; they are compared when the store is readable at that timestamp. Of all rows of the large
table, the number and the sum of their checksums are compared, which TiDB computes. What differs is
read again some time later, before it is called a difference: a TiDB that is slow reads a snapshot
by an older schema, until it has loaded others. And unistore loses old versions now and then: rows
that only TiDB misses are counted as lost there, if the store has the right rows of that range at a
later timestamp.
"""

import itertools
import threading
import traceback
import zlib
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from tests.soak.follow_load import CLOCK, Place, small_rows
from tests.support.mysql import MySqlConnection, MySqlError

Rows = Counter[tuple[Any, ...]]

PAUSE_S: Final = 0.25
AGAIN_MS: Final = 30_000
"""Time after which TiDB is asked again."""
_THREADS: Final = 4
_WIDTH: Final = 300
_TABLES: Final = 4
"""Tables of an answer, except of those with all rows."""
_ALL_EVERY: Final = 100
"""Every so many answers have all rows of all tables."""
_NULL: Final = "NULL"
_MOST: Final = 200
"""Answers that are not compared yet."""


@dataclass
class Answer:
    """Rows in TiDB by table, with the columns and the condition of each.

    `names` are all tables. Those in `sums` have one row, see `_sum`.
    """

    ts: int
    wheres: dict[str, str | None]
    names: list[str] = field(default_factory=list)
    sums: frozenset[str] = frozenset()
    rows: dict[str, Rows] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    asked_ms: int = 0


class Answers:
    """Answers of TiDB, which are read while the context is open."""

    has_failed = False

    def __init__(self, place: Place, seed: int) -> None:
        self.place, self._rng = place, Random(seed)
        self._ended = threading.Event()
        self._answers: deque[Answer] = deque()
        self._doubts: deque[Answer] = deque()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._run) for _ in range(_THREADS)]

    def __enter__(self) -> "Answers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def compare(self, store: Path, resolved_ts: int) -> bool:
        """Compare one answer with the store; return whether there was one."""
        if self._doubts and CLOCK.boottime_ms() > self._doubts[0].asked_ms + AGAIN_MS:
            _ask_again(self.place, store, self._doubts.popleft())
            return True
        if not self._answers or self._answers[0].ts > resolved_ts:
            return False
        answer = self._answers.popleft()
        if _differences(store, answer, self.place):
            self._doubts.append(answer)
        self.place.outcome.counts["comparisons"] += 1
        return True

    def _run(self) -> None:
        try:
            while not self._ended.wait(PAUSE_S):
                with suppress(ConnectionError, TimeoutError), self.place.peer.connect() as session:
                    for _ in range(100):
                        if self._ended.wait(PAUSE_S):
                            return
                        if len(self._answers) >= _MOST:
                            continue
                        if answer := self._ask(session, next(self._numbers)):
                            self._answers.append(answer)
        except BaseException as error:  # noqa: BLE001
            self.place.outcome.differs("".join(traceback.format_exception(error)))
            self.has_failed = True

    def _ask(self, session: MySqlConnection, number: int) -> Answer | None:
        session.query("SET tidb_snapshot = ''")
        session.query("BEGIN")
        ts = int(session.query("SELECT @@tidb_current_ts")[0][0] or 0)
        session.query("COMMIT")
        is_whole = number % _ALL_EVERY == _ALL_EVERY - 1
        with suppress(MySqlError):
            if is_whole:
                return _read(session, ts, None, sums=frozenset({"big"}))
            return _read(session, ts, self._where, first=number * _TABLES)
        self.place.outcome.counts["answers refused by TiDB"] += 1
        return None

    def _where(self, table: str) -> str:
        most = self.place.rows if table == "big" else small_rows(self.place.rows)
        low = self._rng.randrange(max(1, most))
        return f"id BETWEEN {low} AND {low + _WIDTH}"


def compare_all(place: Place, store: Path, ts: int) -> None:
    """Compare all rows at a timestamp at which the store is readable."""
    with place.peer.connect() as session:
        answer = _read(session, ts, None, sums=frozenset({"big"}))
    if _differences(store, answer, place):
        CLOCK.sleep_ms(AGAIN_MS)
        _ask_again(place, store, answer)
    place.outcome.counts["comparisons of all rows"] += 1


def _read(
    session: MySqlConnection,
    ts: int,
    where: Any,
    first: int | None = None,
    sums: frozenset[str] = frozenset(),
) -> Answer:
    """Read all tables, or only some from number `first` on, by a condition."""
    chosen = names = _names(session, ts)
    if first is not None:
        chosen = [names[(first + n) % len(names)] for n in range(min(_TABLES, len(names)))]
    wheres = {name: where(name) if where else None for name in chosen}
    answer = Answer(ts, wheres, names, sums)
    _fill(session, answer)
    return answer


def _names(session: MySqlConnection, ts: int) -> list[str]:
    session.query(f"SET tidb_snapshot = {ts}")
    return sorted(str(row[0]) for row in session.query("SHOW TABLES FROM shop"))


def _fill(session: MySqlConnection, answer: Answer) -> None:
    answer.asked_ms = CLOCK.boottime_ms()
    session.query(f"SET tidb_snapshot = {answer.ts}")
    for name, where in answer.wheres.items():
        columns = [str(row[0]) for row in session.query(f"SHOW COLUMNS FROM shop.{name}")]
        condition = f" WHERE {where}" if where else ""
        answer.columns[name] = columns
        listed = ", ".join(columns)
        if name in answer.sums:
            texts = ", ".join(f"IFNULL({column}, '{_NULL}')" for column in columns)
            listed = f"COUNT(*), SUM(CRC32(CONCAT_WS('|', {texts})))"
        answer.rows[name] = Counter(session.query(f"SELECT {listed} FROM shop.{name}{condition}"))


def _ask_again(place: Place, store: Path, answer: Answer) -> None:
    """Compare an answer that differed with one of now."""
    try:
        with place.peer.connect() as session:
            # It may have named tables of another time, too.
            names = _names(session, answer.ts)
            wheres = {name: where for name, where in answer.wheres.items() if name in names}
            again = Answer(answer.ts, wheres, names)
            _fill(session, again)
    except MySqlError as error:
        place.outcome.differs(f"at {answer.ts}: TiDB cannot be asked again: {error}")
        return
    place.outcome.counts["asked again"] += 1
    for name, text, is_only_here in _differences(store, again, place):
        if is_only_here and not _persists(place, store, name, answer):
            place.outcome.counts["tables with rows lost by unistore"] += 1
            place.outcome.refused[f"lost by unistore: {name} at {answer.ts}: {text[:200]}"] += 1
        else:
            place.outcome.differs(f"at {answer.ts}: {name}: {text}")


def _persists(place: Place, store: Path, name: str, answer: Answer) -> bool:
    """Return whether the rows of a range still differ at a later timestamp."""
    with open_snapshot(store) as snapshot, place.peer.connect() as session:
        now = Answer(snapshot.snapshot_ts, {name: answer.wheres.get(name)})
        with suppress(MySqlError):
            _fill(session, now)
            return bool(_differences(store, now, place))
    return False


def _differences(store: Path, answer: Answer, place: Place) -> list[tuple[str, str, bool]]:
    """Return table, description, and whether TiDB only misses rows, for each difference."""
    differences = []
    with open_snapshot(store, TimeStamp(answer.ts)) as snapshot:
        names = {table.name for table in snapshot.tables() if table.db == "shop"}
        if answer.names and names != set(answer.names):
            differences.append(("tables", f"{sorted(names)} for {answer.names}", False))
        for name in sorted(names & set(answer.rows)):
            theirs = answer.rows[name]
            try:
                ours = _ours(snapshot, name, answer)
            except TheFlashError as error:
                differences.append((name, repr(error), False))
                continue
            place.outcome.counts["tables compared"] += 1
            rows = int(next(iter(theirs))[0] or 0) if name in answer.sums else theirs.total()
            place.outcome.counts["rows compared"] += rows
            if ours != theirs:
                here, there = list((ours - theirs).items()), list((theirs - ours).items())
                text = f"{answer.wheres[name]}: here {here[:3]}, there {there[:3]}"
                differences.append((name, text, not there))
    return differences


def _ours(snapshot: ReadSnapshot, name: str, answer: Answer) -> Rows:
    plan = snapshot.plan(f"shop.{name}", answer.columns[name], where=answer.wheres[name])
    rows: Rows = Counter()
    count = total = 0
    for batch in snapshot.texts(plan):
        cells = zip(*(column.to_pylist() for column in batch), strict=True)
        if name in answer.sums:
            count += len(batch[0])
            total += sum(map(_sum, cells))
        else:
            rows.update(cells)
    return Counter([(str(count), str(total))]) if name in answer.sums else rows


def _sum(row: tuple[str | None, ...]) -> int:
    """Return the checksum of a row's texts, as TiDB computes it."""
    texts = (_NULL if text is None else text for text in row)
    return zlib.crc32("|".join(texts).encode())
