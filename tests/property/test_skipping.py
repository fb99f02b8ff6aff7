"""Row groups that a scan skips have no matching row: results are the same without skipping.

Histories are random: inserts, updates, deletes, and columns that were added and widened between.
Row groups are small, and some files were written before there were statistics. Conditions are
random, as a WHERE of TiDB and as a filter of Spark, at several timestamps.
"""

import datetime
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.present import NATIVE, Presentation, ZeroDates
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import ColumnTerm, FunctionTerm, LiteralKind, LiteralTerm
from pyspark_theflash.storage.engine.magic import encode, file, scan
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType

NAME: Final = "d.t"
EARLIER: Final = [
    id_column(),
    column("i", MySQLType.LONG),
    column("u", MySQLType.LONGLONG, flag=ColumnFlag.UNSIGNED),
    column("dec", MySQLType.NEWDECIMAL, flen=20, decimal=3),
    column("f", MySQLType.DOUBLE),
    column("day", MySQLType.DATE),
    column("at", MySQLType.DATETIME, decimal=6),
    column("t", MySQLType.TIME, decimal=6),
    column("y", MySQLType.YEAR),
    column("s", MySQLType.VARCHAR, collate="utf8mb4_bin"),
    column("b", MySQLType.VARCHAR, collate="utf8mb4_0900_bin"),
    column("ci", MySQLType.VARCHAR, collate="utf8mb4_general_ci"),
    column("e", MySQLType.ENUM, elems=["z", "a", "m"]),
]
OLD: Final = table_info(1, NAME, EARLIER)
WIDE: Final = [*EARLIER[:1], column("i", MySQLType.LONGLONG), *EARLIER[2:]]
NEW: Final = table_info(1, NAME, [*WIDE, column("added", MySQLType.LONG, origin_default="7")])
TIMES: Final = (200, 300, 400)
EPOCH: Final = datetime.datetime(1970, 1, 1)
TEXTS: Final = ["", "a", "A", "a ", "a\t", "ab", "B", "b", "ä", "z" * 70, "z" * 71]
NO_DATE: Final = 10_000_000
"""The zero date, as it is stored."""


def row(number: int, rng: random.Random) -> list[Any]:
    """The values of a row, which grow with its number, and some NULLs."""
    n = number // 4 + rng.choice([0, 0, 0, 1])
    day = NO_DATE if rng.random() < 0.01 else 18_000 + n
    text = TEXTS[n % len(TEXTS)] + rng.choice(["", " ", "x"])
    values = [
        n - 40,
        (n - 20) % 2**64,
        Decimal(n - 30) / 8,
        rng.choice([0.0, -0.0, float(n)]) if n < 9 else n / 4 - 10,
        day,
        EPOCH + datetime.timedelta(hours=n * 7),
        datetime.timedelta(minutes=n * 11 - 500),
        1901 + n % 200,
        text,
        text,
        text,
        1 + n % 3,
    ]
    return [number, *(None if rng.random() < 0.05 else value for value in values)]


def history(store: Path, seed: int) -> None:
    """Write a store: files without statistics, merged ones with them, and deltas."""
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "STATISTICS_ROWS", 1 << 30 if seed % 2 else 1)
        first = [(n, 150, row(n, rng)) for n in range(0, 240, 2)]
        StoreBuilder(store, OLD).publish(TIMES[0], {OLD: first})
        assert main(["compact", str(store)]) == 0
        patch.setattr(encode, "STATISTICS_ROWS", 1)
        for resolved_ts in TIMES[1:]:
            chosen = rng.sample(range(300), 60)
            changes = [
                (n, resolved_ts - 50, None if rng.random() < 0.3 else [*row(n, rng), n % 9])
                for n in chosen
            ]
            StoreBuilder(store, NEW).publish(resolved_ts, {NEW: changes})
            if rng.random() < 0.5 or seed == 0:
                assert main(["compact", str(store)]) == 0


@pytest.fixture(scope="module", params=range(4))
def store(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "WHOLE_CHECK_BYTES", 0)
        patch.setattr(encode, "ROW_GROUP_ROWS", 16)
        patch.setattr(encode, "SAMPLE_ROWS", 8)
        path = tmp_path_factory.mktemp("skipping") / "store"
        history(path, request.param)
        yield path


SPARK: Final[dict[str, tuple[LiteralKind, st.SearchStrategy[Any]]]] = {
    "id": (LiteralKind.INT, st.integers(-5, 310)),
    "i": (LiteralKind.INT, st.integers(-45, 40)),
    "u": (LiteralKind.INT, st.integers(0, 60)),
    "dec": (LiteralKind.DECIMAL, st.integers(-40, 60).map(lambda n: Decimal(n) / 10)),
    "f": (LiteralKind.DOUBLE, st.sampled_from([0.0, -0.0, float("nan"), 3.25, -10.0, 5.0])),
    "day": (LiteralKind.DATE, st.integers(17_995, 18_080)),
    "at": (LiteralKind.TIMESTAMP_NTZ, st.integers(-1, 80).map(lambda n: n * 7 * 3_600_000_000)),
    "t": (LiteralKind.DURATION, st.integers(-1, 80).map(lambda n: (n * 11 - 500) * 60_000_000)),
    "s": (LiteralKind.STRING, st.sampled_from([*TEXTS, "ax", "b "])),
    "ci": (LiteralKind.STRING, st.sampled_from([*TEXTS, "ax", "b "])),
    "added": (LiteralKind.INT, st.integers(-1, 9)),
}
TIDB: Final[dict[str, st.SearchStrategy[str]]] = {
    "id": st.integers(-5, 310).map(str),
    "i": st.sampled_from(["0", "-3", "7.5", "'5'", "'x'", "1e1", "-41", "100"]),
    "u": st.sampled_from(["0", "18446744073709551600", "-1", "20.5", "'7'"]),
    "dec": st.sampled_from(["0", "-3.125", "2.5", "'1'", "1e0", "9.99999"]),
    "f": st.sampled_from(["0", "-9.75", "'2'", "5", "1e2"]),
    "day": st.sampled_from(
        ["'2019-05-01'", "'2019-04-15 12:00:00'", "20190420", "'0000-00-00'", "'x'"]
    ),
    "at": st.sampled_from(["'1970-01-09'", "'1970-01-12 05:00:00.5'", "19700110", "'no'"]),
    "t": st.sampled_from(["'-01:00:00'", "'02:30'", "10000", "'00:11:00'"]),
    "y": st.sampled_from(["1950", "99", "'99'", "2005.5"]),
    "s": st.sampled_from(["'a'", "'A '", "'b'", "'zz'", "''", "0"]),
    "b": st.sampled_from(["'a'", "'A '", "'b'", "'zz'", "''", "0"]),
    "ci": st.sampled_from(["'a'", "'A '", "'b'", "'Ä'", "''"]),
    "e": st.sampled_from(["'a'", "2", "'m'"]),
    "added": st.sampled_from(["7", "0", "'8'"]),
}
OPERATORS: Final = st.sampled_from(["=", "<", "<=", ">", ">=", "<>", "<=>"])


@st.composite
def filters(draw: st.DrawFn, depth: int = 2) -> Any:
    """A filter of Spark."""
    if depth and draw(st.booleans()):
        name = draw(st.sampled_from(["and", "or", "not"]))
        parts = tuple(draw(filters(depth - 1)) for _ in range(1 if name == "not" else 2))
        return FunctionTerm(name, parts)
    name = draw(st.sampled_from(sorted(SPARK)))
    kind, values = SPARK[name]
    if draw(st.integers(0, 5)) == 0:
        return FunctionTerm(draw(st.sampled_from(["is null", "is not null"])), (ColumnTerm(name),))
    if draw(st.integers(0, 4)) == 0:
        several = draw(st.lists(values, min_size=1, max_size=3) | st.just([draw(values)] * 70))
        return FunctionTerm("in", (ColumnTerm(name), *(LiteralTerm(kind, v) for v in several)))
    pair = (ColumnTerm(name), LiteralTerm(kind, draw(values)))
    return FunctionTerm(draw(OPERATORS), pair if draw(st.booleans()) else pair[::-1])


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> str:
    """A WHERE of TiDB."""
    if depth and draw(st.booleans()):
        name = draw(st.sampled_from(["and", "or"]))
        return f"({draw(conditions(depth - 1))} {name} {draw(conditions(depth - 1))})"
    name = draw(st.sampled_from(sorted(TIDB)))
    values = TIDB[name]
    match draw(st.integers(0, 7)):
        case 0:
            return f"{name} IS NULL"
        case 1:
            return f"{name} IN ({', '.join(draw(st.lists(values, min_size=1, max_size=3)))})"
        case 2:
            return f"{name} BETWEEN {draw(values)} AND {draw(values)}"
        case 3:
            return f"NOT {name} {draw(OPERATORS)} {draw(values)}"
    pair = [name, draw(values)]
    return f" {draw(OPERATORS)} ".join(pair if draw(st.booleans()) else pair[::-1])


def rows(store: Path, ts: int, presentation: Presentation = NATIVE, **options: Any) -> Any:
    """The matching rows, or the error; each snapshot is scanned twice, as scans fill caches."""
    scans = []
    with open_snapshot(store, TimeStamp(ts)) as snapshot:
        for _ in range(2):
            plan = snapshot.plan(NAME, ["id", "added"], presentation, **options)
            try:
                scans.append(sorted(repr(r) for b in snapshot.held(plan) for r in b.to_pylist()))
            except TheFlashError as error:
                return type(error)
    assert scans[0] == scans[1]
    return scans[0]


def check(store: Path, ts: int, **options: Any) -> None:
    with_skipping = rows(store, ts, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scan, "possible_groups", lambda opened, _: [True] * len(opened.footer.group_rows)
        )
        expected = rows(store, ts, **options)
    # An error may be that of a value in a part that is skipped.
    assert with_skipping == expected or isinstance(expected, type)


@settings(max_examples=25)
@given(term=filters(), ts=st.sampled_from(TIMES))
def test_filters_of_spark(store: Path, term: Any, ts: int) -> None:
    check(store, ts, pushed=Pushdown(term), presentation=Presentation(ZeroDates.NULL))


@settings(max_examples=25)
@given(where=conditions(), ts=st.sampled_from(TIMES))
def test_conditions_of_tidb(store: Path, where: str, ts: int) -> None:
    try:
        check(store, ts, where=where)
    except TheFlashError:
        with open_snapshot(store) as snapshot, pytest.raises(TheFlashError):
            snapshot.plan(NAME, ["id"], where=where)
