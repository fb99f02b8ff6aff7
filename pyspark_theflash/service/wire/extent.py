"""How large a request's expressions may be; looked at before anything is done with them."""

from typing import Any, Final

from pyspark_theflash.base.errors import UnsupportedError

PARTS_MAX: Final = 10_000
DEPTH_MAX: Final = 64


def check_extent(request: Any) -> None:  # noqa: ANN401 (a `PlanRequest`, or the message of one)
    """Return if the expressions of a plan's request may be looked at.

    Raises:
        UnsupportedError: they are nested too deep, or too many.
    """
    aggregation = request.aggregation
    aggregates = () if aggregation is None else aggregation.aggregates
    keys = () if aggregation is None else aggregation.keys
    _check_parts(len(aggregates) + len(keys) + len(request.order))
    level = [request.filter, *(each.argument for each in aggregates), *keys]
    level = [each for each in level if each is not None]
    parts = depth = 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise UnsupportedError(f"an expression nested deeper than {DEPTH_MAX}", "request")
        parts += sum(len(each.arguments) for each in level)
        _check_parts(parts)
        level = [argument for each in level for argument in each.arguments]


def _check_parts(parts: int) -> None:
    if parts > PARTS_MAX:
        raise UnsupportedError(f"an expression of more than {PARTS_MAX} parts", "request")
