"""Packed times against TiDB's own, and impossible dates."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import UnrepresentableValueError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import parse_column
from pyspark_theflash.tidb.codec.time import (
    DAY_US,
    IMPOSSIBLE_DAY,
    ImpossibleDates,
    impossible,
    pack,
    packed_text,
    packed_times,
    resolve_impossible,
    stored_numbers,
    unpack_dates,
    unpack_times_of_day,
)
from tests.support.golden_vectors import codec_vectors

EPOCH = dt.datetime(1970, 1, 1)


def test_as_tidb_packs_them() -> None:
    for vector in codec_vectors("types.Time.ToPackedUint"):
        packed = int(vector["extra"])
        with_time = not vector["type"].startswith("tp10")
        text = packed_text(packed, with_time=with_time)
        assert text.rstrip("0") == vector["in"].rstrip("0")
        days, well_formed = unpack_dates(np.array([packed], np.uint64))
        micros, time_well_formed = unpack_times_of_day(np.array([packed], np.uint64))
        assert well_formed.all()
        assert time_well_formed.all()
        assert pack(days, micros).tolist() == [packed]
        assert (days[0] < IMPOSSIBLE_DAY) == (packed != 0)
        if packed:
            at = dt.datetime.fromisoformat(vector["in"].ljust(26, "0") if "." in text else text)
            assert EPOCH + dt.timedelta(int(days[0]), 0, int(micros[0])) == at


def test_every_day_of_four_centuries() -> None:
    days = np.arange(-719_162, -719_162 + 146_097 + 1)
    packed = pack(days, np.full_like(days, DAY_US - 1))
    again, well_formed = unpack_dates(packed)
    assert (again == days).all()
    assert well_formed.all()
    assert (unpack_times_of_day(packed)[0] == DAY_US - 1).all()
    assert (np.diff(packed.astype(np.int64)) > 0).all()


@pytest.mark.parametrize(
    "day", [(0, 0, 0), (2020, 0, 10), (2020, 1, 0), (2019, 2, 29), (2020, 4, 31)]
)
def test_no_such_day(day: tuple[int, int, int]) -> None:
    year, month, of_month = day
    packed = ((year * 13 + month) << 5 | of_month) << 41
    possible = ((2020 * 13 + 2) << 5 | 29) << 41
    days, well_formed = unpack_dates(np.array([packed, possible], np.uint64))
    assert well_formed.all()
    assert days.tolist() == [IMPOSSIBLE_DAY + (packed >> 41), 18_321]
    assert pack(days, np.array([0, 0])).tolist() == [packed, possible]
    assert packed_text(packed, with_time=False) == f"{year:04}-{month:02}-{of_month:02}"


def test_year_0_is_on_the_calendar() -> None:
    packed = np.array([(1 << 5 | 1) << 41, (2 << 5 | 29) << 41], np.uint64)
    days, well_formed = unpack_dates(packed)
    assert days.tolist() == [-719_528, -719_528 + 59]
    assert well_formed.all()
    assert (pack(days, np.zeros_like(days)) == packed).all()


def test_malformed() -> None:
    years = np.array([130_000 << 46, 2**64 - 1], np.uint64)
    assert not unpack_dates(years)[1].any()
    times = np.array([24 << 36, 60 << 30, 60 << 24, 1_000_000], np.uint64)
    assert not unpack_times_of_day(times)[1].any()


DATETIME = FieldType(MySQLType.DATETIME, decimal=6)
DATETIMES = [
    "0000-01-01 00:00:00.000000",
    "2020-02-29 23:59:59.999999",
    "9999-12-31 23:59:59.999999",
    "0000-00-00 00:00:00.000000",
    "2020-00-10 00:00:00.000000",
    "2020-02-31 10:00:00.500000",
    "9999-12-00 23:59:59.999999",
]


def test_impossible_times_sort_behind_all_others_and_among_themselves() -> None:
    column = parse_column(pa.array(DATETIMES), DATETIME, "c")
    numbers = stored_numbers(column).to_pylist()
    assert numbers == sorted(numbers)
    assert impossible(column).to_pylist() == [False] * 3 + [True] * 4
    packed = packed_times(column).tolist()
    assert [packed_text(at, with_time=True, fsp=6) for at in packed] == DATETIMES


def test_a_date_and_a_time_share_their_base() -> None:
    times = parse_column(pa.array([text[:10] + " 00:00:00" for text in DATETIMES]), DATETIME, "c")
    dates = parse_column(pa.array([t[:10] for t in DATETIMES]), FieldType(MySQLType.DATE), "c")
    assert dates.cast(arrow_type(DATETIME)).equals(times)
    assert impossible(dates).equals(impossible(times))


def test_impossible_times_are_resolved() -> None:
    column = pa.concat_arrays(
        [parse_column(pa.array(DATETIMES), DATETIME, "c"), pa.nulls(1, arrow_type(DATETIME))]
    )
    nulled = resolve_impossible(column, ImpossibleDates.NULL, "db.t.c")
    assert nulled.type == column.type
    assert nulled.is_valid().to_pylist() == [True] * 3 + [False] * 5
    assert nulled[:3].equals(column[:3])
    with pytest.raises(UnrepresentableValueError) as caught:
        resolve_impossible(column[5:], ImpossibleDates.RAISE, "db.t.c")
    assert caught.value.args == ("db.t.c", "2020-02-31 10:00:00.500000", "a date")
    day = parse_column(pa.array(["0000-00-00"]), FieldType(MySQLType.DATE), "c")
    with pytest.raises(UnrepresentableValueError, match="column c: 0000-00-00 cannot"):
        resolve_impossible(day, ImpossibleDates.RAISE, "c")


@pytest.mark.parametrize("policy", ImpossibleDates)
def test_columns_without_impossible_times_stay(policy: ImpossibleDates) -> None:
    numbers = pa.array([2**62, None])
    times = parse_column(pa.array([*DATETIMES[:3], None]), DATETIME, "c")
    for column in (numbers, times, times[:0], pa.nulls(2, arrow_type(DATETIME))):
        assert resolve_impossible(column, policy, "c") is column
