"""Packed times against TiDB's own, and the days that no calendar has."""

import datetime as dt

import numpy as np
import pytest

from pyspark_theflash.codec.time import (
    DAY_US,
    pack,
    packed_text,
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
        days, well_formed, exists = unpack_dates(np.array([packed], np.uint64))
        micros, time_well_formed = unpack_times_of_day(np.array([packed], np.uint64))
        assert well_formed.all()
        assert time_well_formed.all()
        assert exists.all() == (packed != 0)
        if packed:
            at = dt.datetime.fromisoformat(vector["in"].ljust(26, "0") if "." in text else text)
            assert EPOCH + dt.timedelta(int(days[0]), 0, int(micros[0])) == at
            assert pack(days, micros).tolist() == [packed]


def test_every_day_of_four_centuries() -> None:
    days = np.arange(-719_162, -719_162 + 146_097 + 1)
    packed = pack(days, np.full_like(days, DAY_US - 1))
    again, well_formed, exists = unpack_dates(packed)
    assert (again == days).all()
    assert (well_formed & exists).all()
    assert (unpack_times_of_day(packed)[0] == DAY_US - 1).all()
    assert (np.diff(packed.astype(np.int64)) > 0).all()


@pytest.mark.parametrize(
    "day", [(0, 0, 0), (2020, 0, 10), (2020, 1, 0), (2019, 2, 29), (2020, 4, 31)]
)
def test_no_such_day(day: tuple[int, int, int]) -> None:
    year, month, of_month = day
    packed = ((year * 13 + month) << 5 | of_month) << 41
    _, well_formed, exists = unpack_dates(np.array([packed], np.uint64))
    assert well_formed.all()
    assert not exists.any()
    assert packed_text(packed, with_time=False) == f"{year:04}-{month:02}-{of_month:02}"


def test_year_0_is_on_the_calendar() -> None:
    packed = np.array([(1 << 5 | 1) << 41, (2 << 5 | 29) << 41], np.uint64)
    days, well_formed, exists = unpack_dates(packed)
    assert days.tolist() == [-719_528, -719_528 + 59]
    assert (well_formed & exists).all()
    assert (pack(days, np.zeros_like(days)) == packed).all()


def test_malformed() -> None:
    years = np.array([130_000 << 46, 2**64 - 1], np.uint64)
    assert not unpack_dates(years)[1].any()
    times = np.array([24 << 36, 60 << 30, 60 << 24, 1_000_000], np.uint64)
    assert not unpack_times_of_day(times)[1].any()
