"""Single requests of a holder of a token that permits reading, which need much memory or time."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pyspark_theflash.base.errors import (
    CorruptionError,
    InternalError,
    ServiceUnavailableError,
    TheFlashError,
)
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.message import Aggregate, Aggregation, Expression, Literal
from pyspark_theflash.service.wire.method import METHODS
from tests.attack.harness import BreachError, Target, attack, breach_if
from tests.attack.servers import ATTACKER, ROWS
from tests.support.processes import CLOCK

DEADLINE_MS = 2_000
GRACE_MS = 2_500
"""The time after its deadline at which a call may end, on a busy machine."""


def _ask(target: Target, **plan: Any) -> str:
    """Plan and read a scan, again and again, each within a deadline; return the outcomes."""
    outcomes: dict[str, int] = {}
    slowest_ms = 0
    with target.server.client(ATTACKER) as api:
        while True:
            start_ms = CLOCK.boottime_ms()
            outcome = _outcome(lambda: _read(api, plan))
            took_ms = CLOCK.boottime_ms() - start_ms
            slowest_ms = max(slowest_ms, took_ms)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if target.is_short or not target.goes_on():
                break
    breach_if(
        not target.is_short and slowest_ms > 2 * DEADLINE_MS + GRACE_MS,
        f"{slowest_ms} ms with deadlines of {DEADLINE_MS}",
    )
    return f"{json.dumps(outcomes)}, slowest {slowest_ms} ms"


def _read(api: Any, plan: dict[str, Any]) -> str:
    made = api.plan("shop.items", **plan, timeout_ms=DEADLINE_MS)
    try:
        rows = 0
        for split in made.splits:
            with api.scan(split.ticket, timeout_ms=DEADLINE_MS) as batches:
                rows += sum(batch.num_rows for batch in batches)
        return f"{rows} rows"
    finally:
        with suppress(TheFlashError):
            request = message.SnapshotRequest(made.snapshot.handle)
            api.call(METHODS["ReleaseSnapshot"], request, DEADLINE_MS)


def _outcome(act: Callable[[], str]) -> str:
    """Return the result or the error's name; an error that is no typed refusal is a breach."""
    try:
        return act()
    except (CorruptionError, InternalError) as error:
        raise BreachError(f"{type(error).__name__}: {str(error)[:200]}") from error
    except ServiceUnavailableError as error:
        if "connection" in str(error):
            raise BreachError(f"the process ended: {error}") from error
        return type(error).__name__
    except TheFlashError as error:
        return type(error).__name__


def column(name: str) -> Expression:
    """A column in an expression."""
    return Expression("column", column=name)


def number(value: int) -> Expression:
    """An integer in an expression."""
    return Expression("literal", literal=Literal("int", str(value)))


@attack("tcp", over=["frames"], is_load=True)
def nested_replace(target: Target) -> str:
    """Multiply the length of texts by 10,000."""
    text = "name"
    for _ in range(4):
        text = f"replace({text}, 'e', 'eeeeeeeeee')"
    return _ask(target, columns=["id"], where=f"length({text}) > 5")


@attack("tcp", over=["frames"], is_load=True)
def repeated_text(target: Target) -> str:
    """Make texts of the largest length by functions that multiply."""
    return _ask(target, columns=["id"], where="length(repeat(name, 100000)) > 5")


@attack("tcp", over=["frames"], is_load=True)
def wide_cast(target: Target) -> str:
    """Pad every value to the largest width: 44,100 rows become 2.9 GB."""
    return _ask(target, columns=["id"], where="cast(name as binary(65536)) > 'a'")


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def many_at_a_time(target: Target) -> str:
    """Nest replacements in a condition, in 32 scans at the same time."""
    where = "name"
    for _ in range(4):
        where = f"replace({where}, 'e', 'eeeeeeeeee')"
    options = {"columns": ["id"], "where": f"length({where}) > 5"}
    with ThreadPoolExecutor(32) as threads:
        outcomes = set(threads.map(lambda _: _ask(target, **options), range(32)))
    return f"{len(outcomes)} outcomes, {min(outcomes)}"


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def long_list(target: Target) -> str:
    """Compare with 4,095 numbers."""
    numbers = ", ".join(str(7 * n) for n in range(4095))
    return _ask(target, columns=["id"], where=f"n IN ({numbers})")


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def long_disjunction(target: Target) -> str:
    """Join 3,300 comparisons by OR."""
    terms = " OR ".join(f"n = {7 * n}" for n in range(3300))
    return _ask(target, columns=["id"], where=terms)


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def long_filter(target: Target) -> str:
    """Push down a list of 9,000 numbers."""
    numbers = tuple(number(7 * n) for n in range(9000))
    return _ask(target, columns=["id"], filter=Expression("in", arguments=(column("n"), *numbers)))


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def many_aggregates(target: Target) -> str:
    """Ask for 300 minima by three keys that divide the rows into as many groups."""
    minima = tuple(
        Aggregate("min", Expression("+", arguments=(column("n"), number(n)))) for n in range(300)
    )
    keys = tuple(Expression("+", arguments=(column("id"), number(n))) for n in range(3))
    return _ask(target, aggregation=Aggregation((), minima, keys))


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def many_text_maxima(target: Target) -> str:
    """Ask for 9,000 maxima of a text, of all rows and by the key."""
    maxima = (Aggregate("max", column("name")),) * 9_000
    whole = _ask(target, aggregation=Aggregation((), maxima))
    return f"{whole}; {_ask(target, aggregation=Aggregation(('id',), maxima))}"


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def repeated_sort_keys(target: Target) -> str:
    """Sort by one column 4,000 times."""
    keys = [message.SortKey("name", descending=bool(n % 2)) for n in range(4_000)]
    return _ask(target, columns=["id"], limit=1, order=keys)


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def repeated_columns(target: Target) -> str:
    """Read one column 4,000 times, as text."""
    presentation = message.Presentation(as_text=True)
    return _ask(target, columns=["id"] * 4_000, presentation=presentation)


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def crossed_lists(target: Target) -> str:
    """Intersect four lists of 4,000 keys each, of which no two are adjacent."""
    lists = [
        Expression("in", arguments=(column("id"), *(number(2 * n + at) for n in range(4_000))))
        for at in range(2)
    ]
    texts = [f"id IN ({', '.join(str(2 * n + at) for n in range(4_000))})" for at in range(2)]
    filter = Expression("and", arguments=tuple(lists))
    return _ask(target, columns=["id"], where=" AND ".join(texts), filter=filter)


@attack("tcp", over=["frames"], is_load=True)
def metadata_of_metadata(target: Target) -> str:
    """Name metadata tables of metadata tables, up to 2,500 deep."""
    kinds = ("files", "locks", "raft", "regions", "latches", "progress", "schemas", "partitions")
    outcomes, names = set(), 8 if target.is_short else 400
    with target.server.client(ATTACKER) as api:
        for at in range(names):
            suffix = "".join(f"${kinds[(at >> n % 9) % 8]}" for n in range(500 + at % 5 * 500))
            name = f"shop.items{suffix}"[:16_000]
            outcomes.add(_outcome(lambda name=name: str(api.describe(name))[:20]))  # type: ignore[misc]
    breach_if(outcomes != {"TableNotFoundError"}, f"{sorted(outcomes)}")
    return f"{names} names"


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def plans_of_metadata(target: Target) -> str:
    """Plan scans of metadata that differ in their limit only, in one snapshot."""
    plans = 0
    with target.server.client(ATTACKER) as api:
        snapshot = api.snapshot()
        moment = message.Moment(handle=snapshot.handle)
        while target.goes_on():
            plans += 1
            api.plan("shop.items$schemas", (), moment=moment, limit=plans)
    return f"{plans} plans"


@attack("tcp", over=["frames"], is_load=True)
def literals_out_of_range(target: Target) -> str:
    """Use literals of 31 digits where 64 bits are expected, and a cast without an argument."""
    huge = number(10**30)
    day = Expression("literal", literal=Literal("date", str(10**30)))
    filters = {
        "a position": Expression("substring", arguments=(column("name"), huge)),
        "a length": Expression("substring", arguments=(column("name"), number(1), huge)),
        "a day": Expression("as date", arguments=(day,)),
        "no argument": Expression("coalesce", arguments=(Expression("as int"),)),
    }
    outcomes = {
        what: _ask(target, columns=["id"], filter=Expression("is null", arguments=(term,)))
        for what, term in filters.items()
    }
    key = Expression("as date", arguments=(day,))
    counts = Aggregation((), (Aggregate("count", column("id")),), (key,))
    outcomes["a key"] = _ask(target, aggregation=counts)
    return json.dumps(outcomes)


@attack("tcp", over=["frames"], is_load=True)
def deep_expressions(target: Target) -> str:
    """Nest a condition and an expression 10,000 deep."""
    nested = f"{'(' * 10_000}n = 1{')' * 10_000}"
    first = _ask(target, columns=["id"], where=nested)
    expression = column("id")
    for _ in range(300):
        expression = Expression("not", arguments=(expression,))
    second = _ask(target, columns=["id"], filter=expression)
    return f"{first}; {second}"


@attack("tcp", over=["frames"], is_load=True)
def large_prepare_read(target: Target) -> str:
    """Prepare a read with 8 MiB of options."""
    settings = [message.Setting("table", "shop.items")]
    settings += [message.Setting(f"filter.{n}", "x" * 30) for n in range(100_000)]
    if not target.is_short:
        settings += [message.Setting("columns", ",".join(["id"] * 500_000))]
    request = message.ReadOptions(tuple(settings))
    outcome, took_ms = "", 0
    with target.server.client(ATTACKER) as api:
        while True:
            start_ms = CLOCK.boottime_ms()
            outcome = _outcome(lambda: str(api.call(METHODS["PrepareRead"], request, DEADLINE_MS)))
            took_ms = max(took_ms, CLOCK.boottime_ms() - start_ms)
            if target.is_short or not target.goes_on():
                break
    breach_if(took_ms > DEADLINE_MS + GRACE_MS, f"{took_ms} ms with a deadline of {DEADLINE_MS}")
    return f"{outcome[:60]} in {took_ms} ms"


@attack("tcp", over=["frames"], is_load=True)
def repeated_tickets(target: Target) -> str:
    """Read a split a thousand times in one call."""
    with target.server.client(ATTACKER) as api:
        plan = api.plan("shop.items", ["id"])
        ticket = plan.splits[0].ticket

        def repeated() -> str:
            rows = 0
            with api.scan(ticket, more=[ticket] * 999, timeout_ms=DEADLINE_MS) as batches:
                for batch in batches:
                    rows += batch.num_rows
                    breach_if(rows > ROWS, "rows are returned more than once")
            return f"{rows} rows"

        return _outcome(repeated)


@attack("tcp", over=["frames"], is_load=True, is_short=False)
def digests(target: Target) -> str:
    """Compute checksums with a deadline that has almost passed."""
    slowest_ms = 0
    with target.server.client(ATTACKER) as api:
        while target.goes_on():
            start_ms = CLOCK.boottime_ms()
            _outcome(lambda: str(api.digest("shop.items", timeout_ms=50)))
            slowest_ms = max(slowest_ms, CLOCK.boottime_ms() - start_ms)
    breach_if(slowest_ms > GRACE_MS, f"{slowest_ms} ms with a deadline of 50")
    return f"slowest {slowest_ms} ms"
