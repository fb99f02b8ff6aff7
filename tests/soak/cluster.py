"""A made-up TiDB: tables, transactions, the binlog of its pumps, and what is true at any time.

The truth is a dict of versions by primary key, written at each commit; rows are encoded by
`support.row_oracle`. One clock gives all timestamps. A transaction locks its rows when it is
prewritten and asks for its commit_ts when its prewrite is at a pump; the end of it is sent some
time later, to any pump. A pump sends some messages twice, and its file may end within a frame.
"""

import datetime as dt
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Final

from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE
from pyspark_theflash.testing.stores import column
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.support.binlog_writer import commit, frame, heartbeat, prewrite, prewrite_value, rollback
from tests.support.row_oracle import encode_insert_v1, encode_row_v1

DATABASE: Final = "h"
START_TS: Final = 470_000_000_000_000_000
END_TS: Final = START_TS + (1 << 50)
_BIGINT: Final = FieldType(MySQLType.LONGLONG)
_ROWID: Final = -1
_KEY_FLAGS: Final = ColumnFlag.NOT_NULL | ColumnFlag.PRI_KEY
_DAY: Final = dt.date(2024, 1, 1)
_MOMENT: Final = dt.datetime(2024, 1, 1)

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """A type of columns with few values, so that they repeat."""

    tp: MySQLType
    properties: Mapping[str, Any]
    value: Callable[[Random], Any]
    text: Callable[[Any], str | bytes] = str
    """Formats a value as TiDB does."""


KINDS: Final = {
    "int": Kind(MySQLType.LONG, {"charset": "binary"}, lambda rng: rng.randint(-9, 9)),
    "small": Kind(
        MySQLType.SHORT,
        {"charset": "binary", "flag": ColumnFlag.UNSIGNED},
        lambda rng: rng.randrange(9),
    ),
    "decimal": Kind(
        MySQLType.NEWDECIMAL,
        {"charset": "binary", "flen": 10, "decimal": 2},
        lambda rng: Decimal(rng.randint(-500, 500)) / 100,
        lambda value: f"{value:.2f}",
    ),
    "text": Kind(
        MySQLType.VARCHAR,
        {"flen": 40, "collate": "utf8mb4_bin"},
        lambda rng: rng.choice(["", "a", "b", "long" * rng.randint(1, 9), "é"]),
    ),
    "bytes": Kind(
        MySQLType.VARCHAR,
        {"flen": 40, "charset": "binary", "collate": "binary"},
        lambda rng: rng.randbytes(rng.randrange(3)),
        bytes,
    ),
    "double": Kind(MySQLType.DOUBLE, {"charset": "binary"}, lambda rng: rng.randrange(9) + 0.5),
    "date": Kind(
        MySQLType.DATE, {"charset": "binary"}, lambda rng: _DAY + dt.timedelta(rng.randrange(60))
    ),
    "datetime": Kind(
        MySQLType.DATETIME,
        {"charset": "binary", "decimal": 6},
        lambda rng: _MOMENT + dt.timedelta(microseconds=rng.randrange(1 << 42)),
        lambda value: value.isoformat(" ", "microseconds"),
    ),
}


@dataclass(frozen=True)
class Table:
    """A table: its columns by name, those of the key first, and which rows it may have."""

    id: int
    name: str
    columns: Mapping[str, str]
    info: dict[str, Any]
    key: tuple[str, ...]
    keys: Callable[[Random], Key]

    @property
    def full_name(self) -> str:
        return f"{DATABASE}.{self.name}"

    @property
    def types(self) -> dict[int, FieldType]:
        parsed = parse_table_info(DATABASE, self.info)
        return {int(c.id): c.type for c in parsed.columns} | {_ROWID: _BIGINT}

    def row(self, rng: Random, key: Key) -> Row:
        """A random row of that key."""
        row: Row = dict(zip(self.key, key, strict=bool(self.key)))
        for name, kind in self.columns.items():
            if name not in self.key:
                row[name] = None if rng.random() < 0.2 else KINDS[kind].value(rng)
        return row

    def change(self, key: Key, old: Row | None, new: Row | None) -> tuple[int, bytes]:
        """Return the kind and the encoded row of a change in a binlog."""
        if old is None:
            assert new is not None
            held = {n: v for n, v in new.items() if n not in self.key}
            body = encode_row_v1(self._cells(held), self.types)
            if len(key) > 1:
                types = [self.types[self._id(name)] for name in self.key]
                return INSERT, encode_insert_v1(key, types, body)
            # An unsigned key is a handle of the same 64 bits.
            (number,) = key
            return INSERT, encode_insert_v1(
                [(number + (1 << 63)) % (1 << 64) - (1 << 63)], [_BIGINT], body
            )
        if new is None:
            return DELETE_ROW, self._whole(key, old)
        return UPDATE, self._whole(key, old) + self._whole(key, new)

    def _whole(self, key: Key, row: Row) -> bytes:
        rowid = {} if self.key else {_ROWID: key[0]}
        return encode_row_v1(self._cells(row) | rowid, self.types)

    def _cells(self, row: Row) -> dict[int, Any]:
        return {self._id(name): value for name, value in row.items()}

    def _id(self, name: str) -> int:
        return list(self.columns).index(name) + 1


def random_tables(rng: Random) -> list[Table]:
    """One of each kind of key and of partitioning, with random columns."""
    few = rng.choice([4, 20, 200])

    def number(rng: Random) -> Key:
        return (rng.randrange(few) - few // 2,)

    def unsigned(rng: Random) -> Key:
        return (rng.randrange(few) * rng.choice([1, 1 << 56]),)

    def word(rng: Random) -> Key:
        name = rng.choice([b"", b"a", b"a\0", b"\xff" * 9, b"k" * 20])
        return name, rng.randrange(few) - few // 2

    def counted(rng: Random) -> Key:
        return (rng.randrange(few) + 1,)

    hashed = {"type": 2, "expr": "`id`", "num": 3}
    ranged = {"type": 1, "expr": "`id`", "num": 0}
    bounds: list[list[str] | None] = [["-1"], [str(few // 4)], ["MAXVALUE"]]
    return [
        _table(rng, 100, "ints", {"id": "int"}, number),
        _table(rng, 110, "unsigned", {"id": "int"}, unsigned, flag=ColumnFlag.UNSIGNED),
        _table(rng, 120, "words", {"word": "bytes", "n": "int"}, word),
        _table(rng, 130, "hidden", {}, counted),
        _table(rng, 140, "hashed", {"id": "int"}, number, partition=hashed, bounds=[None] * 3),
        _table(rng, 150, "ranged", {"id": "int"}, number, partition=ranged, bounds=bounds),
        _table(rng, 160, "lacking", {"id": "int"}, number),
    ]


LACKING: Final = "lacking"
"""A table whose earlier rows are not in the base."""


def _table(
    rng: Random,
    table_id: int,
    name: str,
    key: dict[str, str],
    keys: Callable[[Random], Key],
    *,
    flag: int = 0,
    partition: dict[str, Any] | None = None,
    bounds: list[list[str] | None] | None = None,
) -> Table:
    kinds = [rng.choice(sorted(KINDS)) for _ in range(rng.randint(1, 5))]
    columns = key | {f"{kind}{n}": kind for n, kind in enumerate(kinds)}
    cols = []
    for place, (each, kind) in enumerate(columns.items()):
        properties = dict(KINDS[kind].properties)
        tp = KINDS[kind].tp
        if each in key:
            properties["flag"] = _KEY_FLAGS | flag
            tp = MySQLType.LONGLONG if each == "id" else tp
        cols.append({"id": place + 1, "offset": place, **column(each, tp, **properties)})
    is_common = len(key) > 1
    parts = [{"name": {"O": each}, "offset": n, "length": -1} for n, each in enumerate(key)]
    primary = {"id": 1, "idx_name": {"O": "PRIMARY"}, "idx_cols": parts, "is_primary": True}
    info = {
        "id": table_id,
        "name": {"O": name},
        "cols": cols,
        "pk_is_handle": len(key) == 1,
        "is_common_handle": is_common,
        "index_info": [primary | {"state": 5, "is_unique": True}] if is_common else None,
        "state": 5,
        "partition": None,
    }
    if partition is not None:
        definitions = [
            {"id": table_id + n + 1, "name": {"O": f"p{n}"}, "less_than": bound}
            for n, bound in enumerate(bounds or [])
        ]
        info["partition"] = partition | {"enable": True, "definitions": definitions}
    return Table(table_id, name, columns, info, tuple(key), keys)


@dataclass
class _Open:
    """A transaction that is prewritten: its changes by table and key, and its binlog's message."""

    start_ts: int
    changes: dict[tuple[str, Key], Row | None]
    messages: list[bytes] = field(default_factory=list)


class Pump:
    """One pump: files that grow, and messages not written yet."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files, self._waiting = folder, 0, b""
        self.messages: list[bytes] = []
        folder.mkdir()

    def send(self, message: bytes) -> None:
        self.messages.append(message)
        self.send_again(message)

    def send_again(self, message: bytes) -> None:
        """Not one of `messages`: TiDB sends a prewrite again only before its commit.

        A writer whose ledger has forgotten a transaction would wait for a second commit of it.
        """
        self._waiting += frame(message)

    def write(self, rng: Random) -> None:
        """Write pending messages, sometimes without the last bytes, sometimes into a new file."""
        kept = rng.randrange(len(self._waiting) + 1) if rng.random() < 0.2 else 0
        shown = self._waiting[: len(self._waiting) - kept]
        with (self.folder / f"binlog-{self._files:04}").open("ab") as out:
            out.write(shown)
        self._waiting = self._waiting[len(shown) :]
        if not self._waiting and rng.random() < 0.2:
            self._files += 1

    def write_all(self) -> None:
        """Write all that waits."""
        with (self.folder / f"binlog-{self._files:04}").open("ab") as out:
            out.write(self._waiting)
        self._waiting = b""


class Cluster:
    """See the module. `versions` is the truth: by table and key (commit_ts, row or None)."""

    def __init__(self, rng: Random, folder: Path) -> None:
        self._rng, self.folder, self.ts = rng, folder, START_TS
        self.tables = random_tables(rng)
        self.versions: dict[str, dict[Key, list[tuple[int, Row | None]]]]
        self.versions = {table.name: {} for table in self.tables}
        self.pumps = [Pump(folder / f"pump-{n}") for n in range(rng.randint(1, 3))]
        self.schema, self.base = folder / "schema.json", folder / "base"
        self.based: list[Table] = []
        self._locked: set[tuple[str, Key]] = set()
        self._open: list[_Open] = []
        self._ended: list[bytes] = []
        self.transactions = 0
        self._write_schema()
        self._write_base()
        self.beat()

    def rows(self, table: str, ts: int) -> list[Row]:
        """All rows of a table as of a timestamp."""
        visible = []
        for versions in self.versions[table].values():
            newest = [row for commit_ts, row in versions if commit_ts <= ts][-1:]
            visible += [row for row in newest if row is not None]
        return visible

    # -- what happens

    def step(self) -> None:
        """Something that a session, a pump or the network does."""
        what = self._rng.random()
        if what < 0.35:
            self._begin()
        elif what < 0.65:
            self._end()
        elif what < 0.9:
            self._deliver()
        elif what < 0.95:
            self.beat()
        else:
            # TiDB got no answer, and sends it again, wherever.
            pump = self._rng.choice(self.pumps)
            if pump.messages:
                self._rng.choice(self.pumps).send_again(self._rng.choice(pump.messages[-20:]))

    def beat(self) -> None:
        """Send a heartbeat from each pump."""
        for pump in self.pumps:
            pump.send(heartbeat(self._next()))
            pump.write(self._rng)

    def settle(self) -> int:
        """End and deliver everything; the timestamp up to which all is at the pumps."""
        while self._open:
            self._end()
        while self._ended:
            self._deliver()
        self.beat()
        for pump in self.pumps:
            pump.write_all()
        return self.ts

    def _next(self) -> int:
        self.ts += self._rng.randint(1, 3)
        return self.ts

    def _begin(self) -> None:
        """Prewrite a transaction."""
        rng, start_ts = self._rng, self._next()
        changes: dict[tuple[str, Key], Row | None] = {}
        mutations: dict[int, list[tuple[int, bytes]]] = {}
        for _ in range(rng.choice([0, 1, 2, 5, 20])):
            table = rng.choice(self.tables)
            key = table.keys(rng)
            place = table.name, key
            if place in self._locked or place in changes:
                continue
            versions = self.versions[table.name].get(key, [])
            old = versions[-1][1] if versions else None
            new = None if old is not None and rng.random() < 0.3 else table.row(rng, key)
            changes[place] = new
            mutations.setdefault(table.id, []).append(table.change(key, old, new))
        self._locked |= changes.keys()
        value = prewrite_value(60, mutations) if changes else b""
        message = prewrite(start_ts, value)
        self._rng.choice(self.pumps).send(message)
        self._open.append(_Open(start_ts, changes, [message]))

    def _end(self) -> None:
        """Commit or roll back a transaction, and send the result to its pump."""
        if not self._open:
            return
        chosen = self._open.pop(self._rng.randrange(len(self._open)))
        self._locked -= chosen.changes.keys()
        if self._rng.random() < 0.15:
            self._ended.append(rollback(chosen.start_ts))
            return
        commit_ts = self._next()
        for (table, key), row in chosen.changes.items():
            self.versions[table].setdefault(key, []).append((commit_ts, row))
        self.transactions += 1
        self._ended.append(commit(chosen.start_ts, commit_ts))

    def _deliver(self) -> None:
        if self._ended:
            message = self._ended.pop(self._rng.randrange(len(self._ended)))
            self._rng.choice(self.pumps).send(message)
        for pump in self.pumps:
            pump.write(self._rng)

    # -- files

    def _write_schema(self) -> None:
        initial = [{"ts": START_TS, "db": DATABASE, "table": table.info} for table in self.tables]
        document = {
            "start_ts": START_TS,
            "end_ts": END_TS,
            "initial": initial,
            "changes": [],
            "schema_versions": [],
        }
        self.schema.write_text(json.dumps(document))

    def _write_base(self) -> None:
        """Rows from before the binlog, of some of the tables."""
        self.base.mkdir()
        entries = []
        for table in self.tables:
            if table.name != LACKING and self._rng.random() < 0.7:
                self.based.append(table)
                entries.append(self._base_entry(table))
        (self.base / "base.json").write_text(json.dumps(entries))

    def _base_entry(self, table: Table) -> dict[str, Any]:
        lines, total = [], 0
        keys = dict.fromkeys(table.keys(self._rng) for _ in range(self._rng.choice([0, 3, 50])))
        for key in keys:
            row = table.row(self._rng, key)
            self.versions[table.name][key] = [(START_TS, row)]
            cells = [
                None if row[n] is None else KINDS[k].text(row[n]) for n, k in table.columns.items()
            ]
            cells += [] if table.key else [str(key[0])]
            lines.append([{"x": c.hex()} if isinstance(c, bytes) else c for c in cells])
            total += int.from_bytes(
                hashlib.sha256(b"".join(map(_counted, cells))).digest()[:16], "big"
            )
        file = f"{table.name}.jsonl.gz"
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (self.base / file).write_bytes(gzip.compress(text.encode(), mtime=0))
        return {
            "db": DATABASE,
            "table": table.name,
            "table_id": table.id,
            "columns": [*table.columns, *([] if table.key else ["_tidb_rowid"])],
            "file": file,
            "rows": len(lines),
            "checksum": f"{total % (1 << 128):032x}",
        }


def _counted(cell: str | bytes | None) -> bytes:
    """A value as a base's checksum counts it."""
    if cell is None:
        return b"N;"
    content = cell if isinstance(cell, bytes) else cell.encode()
    return (b"X" if isinstance(cell, bytes) else b"S") + b"%d:" % len(content) + content + b";"
