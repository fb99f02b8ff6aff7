"""Invalid dates, compared with the parser of changed columns, which is tested by TiDB's answers."""

from random import Random

from pyspark_theflash.tidb.codec.change import ReorgSession, TypeChange
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.loose_time import loose_datetime
from pyspark_theflash.tidb.expression.times import is_no_date

DATETIME = FieldType(MySQLType.DATETIME, 0, 26, 6, "binary", "binary")
# ALLOW_INVALID_DATES: zero stands for texts without a date.
CHANGE = TypeChange(DATETIME, DATETIME, "c", ReorgSession("UTC", 0, 0, 0, 1 << 32))


def test_what_is_no_date_is_none_to_tidb() -> None:
    random, rejected = Random(18), 0
    for _ in range(20_000):
        length = random.randint(1, 14)
        text = "".join(random.choice("01234567890123456  .:-+TZex\0,/") for _ in range(length))
        if text[0].isdigit() and is_no_date(text):
            assert loose_datetime(text.encode(), 6, CHANGE) == 0, repr(text)
            rejected += 1
    assert rejected > 2000


def test_some_that_are_none() -> None:
    for text in (
        "1",
        "2024",
        "1.5",
        "0.0",
        "1e1",
        "1x",
        "100%",
        "10\0\0",
        "1 10:00:00",
        "9" * 20,
        "12:34:56.789",
    ):
        assert is_no_date(text)
    for text in ("6.Ze.16031", "20240229", "24-2-29", "2024 1.3-08:10", "1.2.3", "12:04:06.789"):
        assert not is_no_date(text)
