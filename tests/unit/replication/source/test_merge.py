from collections.abc import Iterator

import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    OptionError,
    PumpRefusedError,
    PumpUnavailableError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.event import Entity, EntityKind
from pyspark_theflash.replication.source.merge import (
    MergedSource,
    check_named,
    is_merged,
    places_of,
)


class Part:
    """Commits by commit_ts; a position is the number of commits before it."""

    def __init__(self, *commits: int, failure: Exception | None = None) -> None:
        self.commits, self.failure = list(commits), failure
        self.position: str | None = None

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        self.position = after
        for number in range(int(after or 0), len(self.commits)):
            ts = TimeStamp(self.commits[number])
            self.position = str(number + 1)
            yield Entity(EntityKind.COMMIT, TimeStamp(ts - 1), ts, b"", None, "f", 0)
        if self.failure is not None:
            raise self.failure


def nothing() -> None:
    """Accept the sources: there is no other pump."""


def read(source: MergedSource, after: str | None = None) -> list[tuple[int, int]]:
    return [(entity.stream, entity.commit_ts) for entity in source.entities(after)]


def test_the_part_that_is_furthest_behind_comes_next() -> None:
    source = MergedSource({"a": Part(10, 40, 50), "b": Part(20, 30)}, nothing)
    assert read(source) == [(0, 10), (1, 20), (0, 40), (1, 30), (0, 50)]


def test_it_goes_on_at_the_position_of_each_part() -> None:
    a, b = Part(10, 40), Part(20)
    source = MergedSource({"a": a, "b": b}, nothing)
    read(source)
    position = source.position
    assert is_merged(position)
    assert [(p.name, p.position, p.seen_ts) for p in places_of(position)] == [
        ("a", "2", 40),
        ("b", "1", 20),
    ]
    b.commits.append(60)
    again = MergedSource({"a": a, "b": b, "new": Part(5)}, nothing)
    assert read(again, position) == [(2, 5), (1, 60)]


def test_a_store_that_followed_one_begins_anew() -> None:
    assert read(MergedSource({"a": Part(10), "b": Part()}, nothing), "1") == [(0, 10)]
    assert places_of("file:7") == places_of(None) == []
    with pytest.raises(CodecError):
        places_of('[["a"]]')


def test_every_part_must_be_named() -> None:
    source = MergedSource({"a": Part(), "b": Part()}, nothing)
    read(source)
    check_named(source.position, ["a", "b", "c"], [])
    check_named(source.position, ["a"], ["b"])
    check_named("7:8", ["a"], [])
    with pytest.raises(OptionError, match="b was followed before"):
        check_named(source.position, ["a"], [])


def test_a_part_that_fails_does_not_stop_the_others() -> None:
    away = PumpUnavailableError("b", "is away")
    source = MergedSource({"a": Part(10, 40), "b": Part(20, failure=away)}, nothing)
    with pytest.raises(PumpUnavailableError):
        read(source)
    source.is_full = lambda: False
    assert sorted(read(source)) == [(0, 10), (0, 40), (1, 20)]
    assert [p.trouble for p in places_of(source.position)] == ["", str(away)]
    assert "is away" not in str(MergedSource({"a": Part(), "b": Part()}, nothing).position)
    for failing in (
        {"a": Part(failure=away), "b": Part(failure=away)},
        {"a": Part(), "b": Part(failure=PumpRefusedError("b", "no"))},
    ):
        source = MergedSource(failing, nothing)
        source.is_full = lambda: False
        with pytest.raises((PumpUnavailableError, PumpRefusedError)):
            read(source)


def test_only_those_behind_are_read_where_there_is_no_room() -> None:
    a, b = Part(10, 40, 50), Part(20)
    source = MergedSource({"a": a, "b": b}, nothing)
    source.is_full = lambda: True
    assert read(source) == [(0, 10), (1, 20), (0, 40)]
    b.commits += [45, 60]
    assert read(source, source.position) == [(1, 45), (0, 50), (1, 60)]


def test_others_are_looked_for_before_anything_is_published() -> None:
    def other() -> None:
        raise PumpRefusedError("c", "is not followed")

    source = MergedSource({"a": Part(10), "b": Part()}, other)
    with pytest.raises(PumpRefusedError):
        read(source)
    source.is_full = lambda: False
    assert read(source) == [(0, 10)]
    with pytest.raises(PumpRefusedError):
        source.position  # noqa: B018
