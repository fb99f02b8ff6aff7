"""Load on a live cluster: tables, transactions, DDL, splits, killed clients and faults of the feed.

Every worker is a thread that runs until the load ends. TiDB rejects some statements, since DDL and
other transactions come between; only accepted DDL is counted.
"""

import itertools
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto.cdcpb_pb2 import Error
from tests.soak.outcome import Outcome
from tests.support.cdc_peer import CdcControl
from tests.support.kv_writer import KvWriter, WriteRefused
from tests.support.mysql import MySqlConnection, MySqlError
from tests.support.peer import Peer

CLOCK: Final = SystemClock()
STATEMENT_ROWS: Final = 5_000
SMALL_SHARE: Final = 50
"""The tables other than `big` have one in 50 of its rows."""
_PARTS: Final = 4
_CALL_MS: Final = 10_000
_SHARED: Final = ("big", "common", "rowid", "parts", "cols", "moved", "leaving")
"""Tables that transactions change, each with the columns id and v."""


def small_rows(rows: int) -> int:
    """Return the number of rows of each table other than `big`."""
    return max(rows // SMALL_SHARE, 100)


def create(peer: Peer, rows: int) -> None:
    """Create the tables, with `rows` rows in `big`."""
    few = small_rows(rows)
    step = few // _PARTS + 1
    parts = ", ".join(f"PARTITION p{n} VALUES LESS THAN ({(n + 1) * step})" for n in range(_PARTS))
    peer.sql(
        "CREATE DATABASE shop",
        "CREATE DATABASE other",
        "CREATE TABLE shop.big (id INT PRIMARY KEY, v INT, w VARCHAR(40), d DECIMAL(12,2))",
        "CREATE TABLE shop.common (k VARCHAR(20), id INT, v INT, PRIMARY KEY (k) CLUSTERED)",
        "CREATE TABLE shop.rowid (id INT, v INT)",
        f"CREATE TABLE shop.parts (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id) ({parts})",
        "CREATE TABLE shop.swap (id INT PRIMARY KEY, v INT)",
        "CREATE TABLE shop.cols (id INT PRIMARY KEY, v INT, m INT)",
        "CREATE TABLE shop.moved (id INT PRIMARY KEY, v INT)",
        "CREATE TABLE shop.leaving (id INT PRIMARY KEY, v INT)",
        "CREATE TABLE shop.truncated (id INT PRIMARY KEY, v INT)",
        "CREATE TABLE other.swap (id INT PRIMARY KEY, v INT)",
        "CREATE TABLE other.entering (id INT PRIMARY KEY, v INT)",
    )
    with peer.connect() as session:
        _fill(session, "shop.big", rows, lambda n: f"({n}, {n % 10}, 'text {n}', {n % 1000}.25)")
        _fill(session, "shop.common", few, lambda n: f"('k{n:09}', {n}, {n % 10})")
        _fill(session, "shop.cols", few, lambda n: f"({n}, {n % 10}, {n % 100})")
        for table in ("rowid", "parts", "moved", "leaving", "truncated"):
            _fill(session, f"shop.{table}", few, lambda n: f"({n}, {n % 10})")
        _fill(session, "other.entering", few, lambda n: f"({n}, {n % 10})")
        regions = max(4, min(rows // 50_000, 20))
        session.query(f"SPLIT TABLE shop.big BETWEEN (0) AND ({rows}) REGIONS {regions}")


def _fill(session: MySqlConnection, table: str, count: int, row: Callable[[int], str]) -> None:
    for low in range(0, count, STATEMENT_ROWS):
        rows = ",".join(map(row, range(low, min(low + STATEMENT_ROWS, count))))
        session.query(f"INSERT INTO {table} VALUES {rows}")


@dataclass(frozen=True)
class Place:
    """Parameters and state of all workers."""

    peer: Peer
    rows: int
    outcome: Outcome
    ended: threading.Event
    enters: bool
    """Whether tables enter the scope with rows."""
    fault_s: float
    """Longest pause between two faults of the feed."""


class Load:
    """All workers, while the context is open."""

    has_failed = False

    def __init__(self, place: Place, seed: int) -> None:
        self._ended = place.ended
        workers = (_transactions, _transactions, _columns, _partitions, _names, _splits)
        self._threads = [
            threading.Thread(target=self._run, args=(worker, place, Random(f"{seed} {n}")))
            for n, worker in enumerate((*workers, _killed_clients, _lost_clients, _faults))
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, worker: Callable[[Place, Random], None], place: Place, rng: Random) -> None:
        try:
            worker(place, rng)
        except BaseException as error:  # noqa: BLE001
            place.outcome.differs("".join(traceback.format_exception(error)))
            self.has_failed = True


def _sessions(place: Place) -> Iterator[MySqlConnection]:
    """Yield sessions until the end, a new one when the last one is given up."""
    while not place.ended.is_set():
        with suppress(ConnectionError, TimeoutError), place.peer.connect() as session:
            session.query("SET innodb_lock_wait_timeout = 2")
            yield session


# -- transactions


def _transactions(place: Place, rng: Random) -> None:
    for session in _sessions(place):
        session.query(f"SET tidb_enable_1pc = {rng.randrange(2)}")
        session.query(f"SET tidb_enable_async_commit = {rng.randrange(2)}")
        with suppress(ConnectionError, TimeoutError):
            for _ in range(200):
                if place.ended.wait(rng.random() * 0.04):
                    return
                with suppress(MySqlError):
                    _transact(session, place.rows, rng)
                    place.outcome.counts["transactions"] += 1


def _transact(session: MySqlConnection, rows: int, rng: Random) -> None:
    statements = [_change(rows, rng) for _ in range(rng.choice((1, 1, 2, 4, 8)))]
    session.query("ROLLBACK")
    if len(statements) > 1:
        session.query(rng.choice(("BEGIN", "BEGIN OPTIMISTIC", "BEGIN PESSIMISTIC")))
    for statement in statements:
        session.query(statement)
    session.query("COMMIT" if rng.random() < 0.95 else "ROLLBACK")


def _change(rows: int, rng: Random) -> str:
    few = small_rows(rows)
    table = f"shop.{rng.choice(_SHARED)}"
    limit = rows if table == "shop.big" else few
    # A tenth of the keys are new.
    key, value = rng.randrange(limit + limit // 10), rng.randrange(100)
    if table == "shop.common":
        kinds = [
            f"REPLACE INTO {table} VALUES ('k{key:09}', {key}, {value})",
            f"DELETE FROM {table} WHERE k = 'k{key:09}'",
        ]
    else:
        kinds = [
            f"REPLACE INTO {table} (id, v) VALUES ({key}, {value})",
            f"DELETE FROM {table} WHERE id = {key}",
            f"INSERT IGNORE INTO {table} (id, v) VALUES ({key}, {value}), ({key + 1}, {value})",
            f"UPDATE {table} SET v = v + 1 WHERE id BETWEEN {key} AND {key + rng.randrange(200)}",
        ]
    return rng.choice(kinds)


def _killed_clients(place: Place, rng: Random) -> None:
    """Clients that disappear within a transaction."""
    while not place.ended.wait(rng.random() * 2):
        with suppress(MySqlError, ConnectionError, TimeoutError), place.peer.connect() as session:
            session.query(rng.choice(("BEGIN OPTIMISTIC", "BEGIN PESSIMISTIC")))
            for _ in range(rng.randrange(1, 5)):
                session.query(_change(place.rows, rng))
            place.outcome.counts["clients gone"] += 1


def _lost_clients(place: Place, rng: Random) -> None:
    """Clients killed between prewrite and commit, so that their locks remain."""
    with (
        PDClient([place.peer.pd_address], clock=CLOCK) as pd,
        TiKVClient(pd, clock=CLOCK, policy=LockPolicy.RESOLVE) as client,
    ):
        while not place.ended.wait(1 + rng.random() * 4):
            with suppress(MySqlError, ConnectionError, TimeoutError, TheFlashError, WriteRefused):
                place.outcome.counts["locks left"] += _leave_lock(place, client, rng)


def _leave_lock(place: Place, client: TiKVClient, rng: Random) -> bool:
    id_text = place.peer.sql(
        "SELECT tidb_table_id FROM information_schema.tables "
        "WHERE table_schema = 'shop' AND table_name = 'big'"
    )[0][0]
    key = encode_record_key(PhysicalTableID(int(id_text or 0)), rng.randrange(place.rows))
    keys, deadline = RawKeyRange(key, RawKey(key + b"\0")), Deadline(CLOCK, _CALL_MS)
    pages = client.scan(keys, client.now(deadline), deadline)
    rows = dict(itertools.chain.from_iterable(pages))
    if key in rows:
        start_ts, ttl_ms = client.now(deadline), rng.choice((1, 2000))
        KvWriter(client).prewrite(start_ts, key, {key: rows[key]}, ttl_ms=ttl_ms)
    return key in rows


# -- DDL


def _ddl(place: Place, session: MySqlConnection, kind: str, statement: str) -> bool:
    """Execute DDL; return whether TiDB accepted it."""
    try:
        session.query(statement)
    except MySqlError as error:
        place.outcome.refused[f"{kind}: {error.message[:120]}"] += 1
        return False
    place.outcome.counts[kind if kind == "rows" else f"ddl: {kind}"] += 1
    return True


def _columns(place: Place, rng: Random) -> None:
    for session in _ddl_sessions(place):
        for number in itertools.count():
            if place.ended.wait(rng.random() * 2):
                return
            table, name = rng.choice(("shop.cols", "shop.cols", "shop.big")), f"c{number}"
            at = rng.choice(("", " FIRST", " AFTER id"))
            definition = rng.choice(
                ("INT NOT NULL DEFAULT 5", "VARCHAR(20) DEFAULT 'x'", "DATETIME", "BIGINT")
            )
            _ddl(place, session, "add", f"ALTER TABLE {table} ADD COLUMN {name} {definition}{at}")
            modified = rng.choice(("VARCHAR(20)", "BIGINT", "INT", "DOUBLE", "DECIMAL(20,2)"))
            _ddl(place, session, "modify", f"ALTER TABLE shop.cols MODIFY COLUMN m {modified}")
            if table == "shop.cols":
                renamed = f"ALTER TABLE shop.cols CHANGE COLUMN {name} r{number} VARCHAR(30)"
                _ddl(place, session, "change", renamed)
                name = f"r{number}"
            place.ended.wait(rng.random())
            _ddl(place, session, "drop", f"ALTER TABLE {table} DROP COLUMN {name}")


def _ddl_sessions(place: Place) -> Iterator[MySqlConnection]:
    """Yield sessions with time for a long statement."""
    while not place.ended.is_set():
        with (
            suppress(ConnectionError, TimeoutError),
            MySqlConnection("127.0.0.1", place.peer.ports.sql, 600) as session,
        ):
            yield session


def _partitions(place: Place, rng: Random) -> None:
    few = small_rows(place.rows)
    step = few // _PARTS + 1
    ends = [(f"p{n}", (n + 1) * step) for n in range(_PARTS)]
    for session in _ddl_sessions(place):
        for number in itertools.count():
            if place.ended.wait(rng.random() * 3):
                return
            kind = rng.choice(("add", "reorganize", "reorganize", "exchange", "exchange", "empty"))
            if kind == "exchange":
                _exchange(place, session, rng.choice(ends)[0], ends, rng)
            else:
                _repartition(place, session, kind, number, ends, rng)


def _exchange(
    place: Place,
    session: MySqlConnection,
    part: str,
    ends: Sequence[tuple[str, int]],
    rng: Random,
) -> None:
    """Swap a partition with a table of rows that fit it, and empty that table."""
    database = rng.choice(("shop", "other")) if place.enters else "shop"
    at = [name for name, _ in ends].index(part)
    low, high = ends[at - 1][1] if at else 0, ends[at][1]
    keys = sorted({rng.randrange(low, high) for _ in range(50)})
    rows = ", ".join(f"({key}, {rng.randrange(100)})" for key in keys)
    session.query(f"TRUNCATE TABLE {database}.swap")
    session.query(f"INSERT INTO {database}.swap VALUES {rows}")
    kind = "exchange" if database == "shop" else "exchange with an unfollowed table"
    statement = f"ALTER TABLE shop.parts EXCHANGE PARTITION {part} WITH TABLE {database}.swap"
    if _ddl(place, session, kind, statement) and rng.random() < 0.8:
        # Mostly back, or the partitions would soon be empty.
        place.ended.wait(rng.random())
        _ddl(place, session, kind, statement)


def _repartition(
    place: Place,
    session: MySqlConnection,
    kind: str,
    number: int,
    ends: list[tuple[str, int]],
    rng: Random,
) -> None:
    """Add, empty or reorganize partitions, and change `ends` accordingly."""
    if kind == "empty" and rng.random() < 0.7:
        # Partitions that begin beyond the rows.
        added = (f"e{number}", ends[-1][1] + 10)
        text = f"PARTITION {added[0]} VALUES LESS THAN ({added[1]})"
        _ddl(place, session, "add partition", f"ALTER TABLE shop.parts ADD PARTITION ({text})")
        session.query(f"REPLACE INTO shop.parts VALUES ({added[1] - 1}, 1)")
        how = rng.choice(("truncate", "drop"))
        text = f"ALTER TABLE shop.parts {how.upper()} PARTITION {added[0]}"
        done = _ddl(place, session, f"{how} partition", text)
        if not (done and how == "drop"):
            ends.append(added)
        return
    if kind in ("add", "empty"):
        added = (f"a{number}", ends[-1][1] + 100)
        text = f"PARTITION {added[0]} VALUES LESS THAN ({added[1]})"
        if _ddl(place, session, "add partition", f"ALTER TABLE shop.parts ADD PARTITION ({text})"):
            ends.append(added)
        return
    first = rng.randrange(len(ends))
    last = min(len(ends) - 1, first + rng.randrange(3))
    low, high = ends[first - 1][1] if first else 0, ends[last][1]
    cuts = sorted(rng.sample(range(low + 1, high), min(high - low - 1, rng.randrange(3))))
    new = [(f"q{number}_{n}", end) for n, end in enumerate([*cuts, high])]
    old = ", ".join(name for name, _ in ends[first : last + 1])
    into = ", ".join(f"PARTITION {name} VALUES LESS THAN ({end})" for name, end in new)
    text = f"ALTER TABLE shop.parts REORGANIZE PARTITION {old} INTO ({into})"
    if _ddl(place, session, "reorganize partition", text):
        ends[first : last + 1] = new


def _names(place: Place, rng: Random) -> None:
    """Create, truncate, rename and drop tables."""
    few = small_rows(place.rows)
    for session in _ddl_sessions(place):
        for number in itertools.count():
            if place.ended.wait(rng.random() * 3):
                return
            for kind, *statements in _naming(rng.randrange(5), number, few, place.enters, rng):
                place.ended.wait(rng.random() * 0.5)
                for statement in statements:
                    if not _ddl(place, session, kind, statement):
                        break


def _naming(
    choice: int, number: int, few: int, enters: bool, rng: Random
) -> Iterator[tuple[str, ...]]:
    key = rng.randrange(few)
    rows = ", ".join(f"({n}, {number})" for n in range(key, key + 50))
    if choice == 0:
        yield "truncate", "TRUNCATE TABLE shop.truncated"
        yield "rows", f"INSERT INTO shop.truncated VALUES {rows}"
    elif choice == 1:
        yield "create", f"CREATE TABLE shop.n{number} (id INT PRIMARY KEY, v INT)"
        yield "rows", f"INSERT INTO shop.n{number} VALUES {rows}"
        yield "drop table", f"DROP TABLE shop.n{number}"
    elif choice == 2:
        yield "rename", "RENAME TABLE shop.moved TO shop.moving"
        yield "rows", f"REPLACE INTO shop.moving VALUES {rows}"
        yield "rename", "RENAME TABLE shop.moving TO shop.moved"
    elif choice == 3:
        yield "rename out", "RENAME TABLE shop.leaving TO other.leaving"
        yield "rows", f"REPLACE INTO other.leaving VALUES {rows}"
        yield "rename in", "RENAME TABLE other.leaving TO shop.leaving"
    elif enters:
        yield "rename in with rows", "RENAME TABLE other.entering TO shop.entering"
        yield "rows", f"REPLACE INTO shop.entering VALUES {rows}"
        yield "rename out", "RENAME TABLE shop.entering TO other.entering"
        yield "rows", f"REPLACE INTO other.entering VALUES {rows}"


# -- the store


def _splits(place: Place, rng: Random) -> None:
    few = small_rows(place.rows)
    for session in _sessions(place):
        with suppress(ConnectionError, TimeoutError):
            session.query("SET tidb_wait_split_region_finish = 0")
            while not place.ended.wait(2 + rng.random() * 12):
                table = rng.choice(("big", "big", "parts", "cols", "moved"))
                limit = place.rows if table == "big" else few
                low = rng.randrange(limit // 2)
                high = rng.randrange(low + 100, limit + 100)
                regions = rng.randrange(2, 5)
                with suppress(MySqlError):
                    session.query(
                        f"SPLIT TABLE shop.{table} BETWEEN ({low}) AND ({high}) REGIONS {regions}"
                    )
                    place.outcome.counts["splits"] += 1


def _faults(place: Place, rng: Random) -> None:
    """Errors, cuts and delays of the feed."""
    control = CdcControl(place.peer.cdc_control_url)
    errors = {
        "not leader": Error(not_leader={}),
        "epoch not match": Error(epoch_not_match={}),
        "region not found": Error(region_not_found={}),
        "server is busy": Error(server_is_busy={"reason": "test"}),
        "congested": Error(congested={"region_id": 1}),
    }
    while not place.ended.wait(rng.random() * place.fault_s):
        region = rng.choice([0, *(feed["region"] for feed in control.feeds())])
        kind = rng.choice(("cut", "fail", "fail", "refuse", "hold", "hold"))
        if kind == "cut":
            control.cut(rng.choice((1, 4, 8, 14)))
        elif kind == "hold":
            kind = rng.choice(("resolved", "send", "snapshot", "scan"))
            with control.held(kind):
                place.ended.wait(rng.random() * 3)
        else:
            name = rng.choice(sorted(errors))
            if kind == "fail":
                control.fail(errors[name], region)
            else:
                control.refuse(errors[name], region, rng.randrange(1, 4))
            kind = f"{kind}: {name}"
        place.outcome.counts[f"fault: {kind}"] += 1
