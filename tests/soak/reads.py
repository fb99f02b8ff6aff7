"""Random reads of a table, compared with its rows."""

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import Aggregate, AggregateFunction, Aggregation, SortKey
from tests.soak.cluster import Row, Table
from tests.soak.conditions import Condition, random_condition

RowCounts = Counter[tuple[Any, ...]]


@dataclass(frozen=True)
class Read:
    """A read: columns, conditions, limit, order and grouping."""

    columns: tuple[str, ...]
    where: Condition | None = None
    filter: Condition | None = None
    limit: int = 0
    order: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        where = "" if self.where is None else f" where {self.where.sql()}"
        pushed = "" if self.filter is None else f" filter {self.filter.sql()}"
        first = f" order {self.order} limit {self.limit}" if self.limit else ""
        group = "" if self.group is None else f" grouped by {self.group}"
        return f"{self.columns}{where}{pushed}{first}{group}"

    @property
    def reaches_all(self) -> bool:
        """Whether no region can be left out."""
        return self.where is None and self.filter is None

    @property
    def pushed(self) -> Pushdown:
        term = None if self.filter is None else self.filter.term()
        if self.group is not None:
            count = Aggregate(AggregateFunction.COUNT)
            return Pushdown(term, aggregation=Aggregation((self.group,), (count,)))
        order = () if self.order is None else (SortKey(self.order),)
        return Pushdown(term, limit=self.limit, order=order)


def random_read(rng: Random, table: Table) -> Read:
    """A read; most are of all rows or of those of a condition."""
    names = list(table.columns)
    columns = tuple(rng.sample(names, k=rng.randint(0, len(names))))
    if rng.random() < 0.3:
        return Read(tuple(names))
    where = random_condition(rng, table) if rng.random() < 0.4 else None
    filter = random_condition(rng, table) if rng.random() < 0.3 else None
    what = rng.random()
    if what < 0.2:
        return Read((), where, filter, group=rng.choice(names))
    if what < 0.4:
        limit = rng.choice([1, 3, 50])
        order = rng.choice(columns) if columns and rng.random() < 0.5 else None
        return Read(columns, where, filter, limit=limit, order=order)
    return Read(columns, where, filter)


def difference(snapshot: ReadSnapshot, table: Table, read: Read, rows: list[Row]) -> str | None:
    """Describe the difference between a read and the expected rows; None if there is none.

    A limit and an order are of each region, so there may be more rows than the limit.
    """
    kept = [row for row in rows if _is_kept(row, read)]
    columns = None if read.group is not None else read.columns
    where = None if read.where is None else read.where.sql()
    plan = snapshot.plan(table.full_name, columns, where=where, pushed=read.pushed)
    actual: RowCounts = Counter()
    for batch in snapshot.held(plan):
        if batch.num_columns:
            actual.update(zip(*(c.to_pylist() for c in batch.columns), strict=True))
        else:
            actual[()] += batch.num_rows
    if read.group is not None:
        group = read.group
        return _differing(_counted(actual), Counter((row[group],) for row in kept))
    wanted: RowCounts = Counter(tuple(row[name] for name in read.columns) for row in kept)
    if not read.limit:
        return _differing(actual, wanted)
    if actual - wanted:
        return f"extra {list((actual - wanted).items())[:3]}"
    most, least = read.limit * len(plan.tasks), min(read.limit, wanted.total())
    if not least <= actual.total() <= max(most, least):
        return f"{actual.total()} rows of {wanted.total()} in {len(plan.tasks)} regions"
    if read.order is not None:
        at = read.columns.index(read.order)
        first, first_wanted = (_sorted(rows, at)[: read.limit] for rows in (actual, wanted))
        if first != first_wanted:
            return f"first {first[:3]} for {first_wanted[:3]}"
    return None


def _is_kept(row: Row, read: Read) -> bool:
    return all(each is None or each.holds(row) for each in (read.where, read.filter))


def _counted(counted: RowCounts) -> RowCounts:
    """Rows of a group and a count as the group so many times."""
    counts: RowCounts = Counter()
    for (group, count), times in counted.items():
        counts[(group,)] += count * times
    return counts


def _sorted(rows: RowCounts, at: int) -> list[Any]:
    """A column's values in order, NULLs last."""
    values = [row[at] for row in rows.elements()]
    return sorted(v for v in values if v is not None) + [v for v in values if v is None]


def _differing(actual: RowCounts, wanted: RowCounts) -> str | None:
    if actual == wanted:
        return None
    extra, missing = list((actual - wanted).items()), list((wanted - actual).items())
    return f"extra {extra[:3]}, missing {missing[:3]}"
