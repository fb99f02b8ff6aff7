"""Valid and invalid values of arguments."""

from argparse import ArgumentTypeError

import pytest

from pyspark_theflash.cli.jobs.arguments import cluster_id, seconds, timestamp

NO_NUMBERS = ["", "-1", "1.5", "1 000", "1_0", "\u0663", "x"]


def test_numbers() -> None:
    assert cluster_id("0") == 0
    assert cluster_id(str(2**64 - 1)) == 2**64 - 1
    assert timestamp(str(2**64 - 2)) == 2**64 - 2
    assert seconds("1.5") == 1500


@pytest.mark.parametrize("text", [*NO_NUMBERS, str(2**64)])
def test_no_cluster_id(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        cluster_id(text)


@pytest.mark.parametrize("text", [*NO_NUMBERS, str(2**64 - 1)])
def test_no_timestamp(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        timestamp(text)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e9", "x"])
def test_no_seconds(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        seconds(text)
