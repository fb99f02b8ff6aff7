"""All errors that this package raises for users.

The root is `TheFlashError`. Two class attributes describe an instance without its class:
`retryable` (the same request may succeed later) and `deterministic` (every replica of the same
input fails in the same way, so another replica is no alternative).

Errors are pickled between processes (Spark workers, spark-submit). Pickle calls the class with
`args` again, so `args` are the constructor arguments unchanged, and the message is formatted when
it is read.
"""

from collections.abc import Iterable

from pyspark_theflash.base.errors.base import *  # noqa: F403
from pyspark_theflash.base.errors.base import TheFlashError, invariant
from pyspark_theflash.base.errors.cluster import *  # noqa: F403
from pyspark_theflash.base.errors.latch import *  # noqa: F403
from pyspark_theflash.base.errors.query import *  # noqa: F403
from pyspark_theflash.base.errors.service import *  # noqa: F403
from pyspark_theflash.base.errors.source import *  # noqa: F403
from pyspark_theflash.base.errors.store import *  # noqa: F403

__all__ = [
    *(
        name
        for name, value in globals().items()
        if isinstance(value, type) and issubclass(value, TheFlashError)
    ),
    "invariant",
    "rebuilt",
]


def rebuilt(name: str, arguments: Iterable[object]) -> TheFlashError | None:
    """Construct an error from its class name and arguments; None if there is no such class.

    Raises:
        TypeError, ValueError: The arguments do not fit the class.
    """
    error_class = globals().get(name)
    if not (isinstance(error_class, type) and issubclass(error_class, TheFlashError)):
        return None
    error = error_class(*(tuple(each) if isinstance(each, list) else each for each in arguments))
    str(error)  # raises if the arguments do not fit
    return error
