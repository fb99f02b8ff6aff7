"""The scope of a store: the tables that it replicates."""

import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.types import Generation, TableID, TimeStamp
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.scope import SCOPE_KIND, ScopedTables, TableScope, continued
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent


@pytest.mark.parametrize(
    ("include", "exclude", "inside", "outside"),
    [
        ((), (), ["a.b", "c.d"], []),
        (("shop.*",), (), ["shop.orders", "SHOP.x"], ["other.orders", "shops.x"]),
        (("shop.*",), ("*.log_?",), ["shop.orders", "shop.log_10"], ["shop.log_1"]),
        ((), ("shop.orders",), ["shop.lines"], ["shop.Orders"]),
        (("*.log[1]", "*.a]"), (), ["shop.log[1]", "shop.a]"], ["shop.log1", "shop.a"]),
    ],
)
def test_patterns(
    include: tuple[str, ...], exclude: tuple[str, ...], inside: list[str], outside: list[str]
) -> None:
    scope = TableScope(include, exclude)
    assert [n for n in inside if not scope.contains(n)] == []
    assert [n for n in outside if scope.contains(n)] == []


@pytest.mark.parametrize("pattern", ["[", "*[", "*a", "?*", "*?a"])
def test_a_pattern_longer_than_any_name_is_not_compiled(pattern: str) -> None:
    # Compiled, these would take minutes.
    assert not TableScope((pattern * (2_000_000 // len(pattern)),)).contains("a" * 129 + ".b")


def test_a_store_keeps_its_scope() -> None:
    scope = TableScope(("a.*",))
    view = View(Generation(1), {SCOPE_KIND: {"scope": scope.to_record().body}})
    assert TableScope.of(view) == scope
    assert continued(scope, None) == scope
    assert continued(scope, TableScope(("a.*",))) == scope
    assert continued(None, None) == TableScope()
    with pytest.raises(OptionError, match="cannot change"):
        continued(scope, TableScope(("a.*", "b.*")))


def test_a_scope_is_extended() -> None:
    scope = TableScope(("a.*",), ("*.log",))
    longer = scope.plus(["b.*", "a.*", "a.x", "c.y"], TimeStamp(7), [TableID(5)])
    added = (("b.*", TimeStamp(7)), ("c.y", TimeStamp(7)))
    assert longer == TableScope(("a.*",), ("*.log",), added, (TableID(5),))
    assert longer.plus(["b.*", "b.t"], TimeStamp(9), []) == longer
    created = [longer.contains("b.t", ts) for ts in (None, TimeStamp(7), TimeStamp(8))]
    assert created == [False, False, True]
    assert not longer.contains("b.log", TimeStamp(8))
    view = View(Generation(1), {SCOPE_KIND: {"scope": longer.to_record().body}})
    assert TableScope.of(view) == longer
    for requested in (None, scope, TableScope(("a.*", "b.*", "c.y"), ("*.log",))):
        assert continued(longer, requested) == longer
    with pytest.raises(OptionError, match="theflash follow --add"):
        continued(longer, TableScope(("a.*", "b.*"), ("*.log",)))
    everything = TableScope().plus(["b.*"], TimeStamp(7), [])
    assert everything == TableScope()


def test_the_first_name_decides() -> None:
    columns = [column("a", MySQLType.LONG)]
    names = ["shop.t", "other.t"]
    events = [
        TableEvent(TimeStamp(n), name.partition(".")[0], TableID(7), table_info(7, name, columns))
        for n, name in enumerate(names, 1)
    ]
    history = SchemaHistory(TimeStamp(1), TimeStamp(9), events, ())
    assert ScopedTables(TableScope(("shop.*",)), history).contains(TableID(7))
    assert not ScopedTables(TableScope(("other.*",)), history).contains(TableID(7))
