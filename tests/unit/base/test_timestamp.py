"""The parser of all forms of timestamps, and rejected texts."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from pyspark_theflash.base.timestamp import parse_timestamp, shown, utc
from pyspark_theflash.base.types import MAX_TS, from_physical_ms, physical_ms

LEAP_DAY_MS = 1_709_164_800_000
"""2024-02-29 00:00:00 UTC."""
TSO = 470613571969220631


@pytest.mark.parametrize("given", [TSO, str(TSO), f" {TSO} ", np.uint64(TSO)])
def test_a_tso(given):
    assert parse_timestamp(given) == TSO


@pytest.mark.parametrize("given", [0, 100, "000100", 2**64 - 2])
def test_any_tso_but_the_largest_number(given):
    assert parse_timestamp(given) == int(given)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2024-02-29Z", 0),
        ("2024-02-29 00:00Z", 0),
        ("2024-2-29 01:02:03Z", 3_723_000),
        ("2024-02-29 00:00:00.1+00", 100),
        ("2024-02-29T00:00:00.123z", 123),
        ("2024-02-29 00:00:00.123999Z", 123),
        ("2024-02-29 00:00:00 UTC", 0),
        ("2024-02-29 08:00:00.5+08:00", 500),
        ("2024-02-28T18:30:00-0530", 0),
        ("2024-02-29 01:00:00+01", 0),
    ],
)
def test_a_time(text, milliseconds):
    assert parse_timestamp(text) == from_physical_ms(LEAP_DAY_MS + milliseconds)


def test_a_time_is_the_first_timestamp_of_its_millisecond():
    ts = parse_timestamp("2024-02-29 00:00:00.007Z")
    assert physical_ms(ts) == LEAP_DAY_MS + 7
    assert physical_ms(ts - 1) == LEAP_DAY_MS + 6


def test_a_datetime():
    moment = datetime(2024, 2, 29, 8, 0, 0, 123_999, timezone(timedelta(hours=8)))
    assert parse_timestamp(moment) == from_physical_ms(LEAP_DAY_MS + 123)
    with pytest.raises(ValueError, match="has no time zone"):
        parse_timestamp(moment.replace(tzinfo=None))


@pytest.mark.parametrize(
    "given",
    [
        *("", "-1", "1.5", "1_0", "\u0663", "x", "0x10", "9" * 10_000, "yesterday", "09:05:30"),
        *("2023-02-29Z", "1969-12-31Z", "9999-12-31Z", "0001-01-01+14", "2024-01-01T25:00Z"),
        *("2024-01-01 00:00:00 +99:00", "2024-01-01 00:00:00 Asia/Shanghai"),
        *(-1, MAX_TS, str(MAX_TS), MAX_TS + 1, 1.0, True, None, b"1"),
    ],
)
def test_no_timestamp(given):
    with pytest.raises(ValueError):  # noqa: PT011 (the text is for people)
        parse_timestamp(given)


def test_a_time_without_a_zone_is_not_guessed():
    for text in ("2024-02-29", "2024-02-29 09:05:30", "2024-02-29T09:05:30.5"):
        with pytest.raises(ValueError, match=f"no time zone: write {text}Z for UTC"):
            parse_timestamp(text)


@pytest.mark.parametrize(
    ("given", "unit"),
    [
        (LEAP_DAY_MS // 1000, "seconds"),
        (str(LEAP_DAY_MS), "milliseconds"),
        (LEAP_DAY_MS * 1000, "microseconds"),
    ],
)
def test_a_count_of_seconds_is_no_tso(given, unit):
    with pytest.raises(ValueError, match=f"looks like {unit}") as caught:
        parse_timestamp(given)
    assert f"write {LEAP_DAY_MS << 18} or 2024-02-29T00:00:00.000Z" in str(caught.value)
    assert parse_timestamp(LEAP_DAY_MS << 18) == parse_timestamp("2024-02-29T00:00:00.000Z")


def test_shown():
    assert shown(TSO) == f"{TSO} (2026-11-21T08:05:06.157Z)"
    assert parse_timestamp(utc(TSO)) == TSO >> 18 << 18
    assert utc(MAX_TS) == "4199-11-24T01:22:57.663Z"
