"""The calls of the API that are commands to the store's writer."""

from dataclasses import fields
from typing import Any, Final

from pyspark_theflash.storage.store.command import ORDERS, Argument, Verb, handle_of

VERBS: Final = {
    "Compact": Verb.COMPACT,
    "Flush": Verb.FLUSH,
    "SplitRegion": Verb.SPLIT,
    "MergeRegions": Verb.MERGE,
    "MoveRegion": Verb.MOVE,
    "CopyRegion": Verb.COPY,
    "PurgeRegion": Verb.PURGE,
    "CollectGarbage": Verb.GC,
    "SetRetention": Verb.RETENTION,
    "SetInterval": Verb.INTERVAL,
    "StopWriter": Verb.STOP,
}
"""The command of each call that `Service.command` answers."""


def command_of(method: str, request: Any) -> tuple[Verb, Argument]:  # noqa: ANN401
    """Convert a call to a command and its argument.

    A command's order has the fields of the request. Without an order, the argument is the value of
    the request's only field.

    Raises:
        OptionError: The text of a handle is invalid.
    """
    verb = VERBS[method]
    values: dict[str, Any] = {field.name: getattr(request, field.name) for field in fields(request)}
    if verb in ORDERS:
        if verb is Verb.SPLIT:
            values["at"] = handle_of(values["at"])
        return verb, ORDERS[verb](**values).to_text()
    (argument,) = values.values() or (None,)
    return verb, argument
