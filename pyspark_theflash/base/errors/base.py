"""Root of all errors, and errors that are raised in several packages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        """Return the class unchanged; the decorator is for type checkers."""
        return lambda cls: cls


@dataclass_transform(eq_default=False)
class TheFlashError(Exception):
    """Root of all errors of this package.

    A subclass declares its constructor arguments as the fields of a dataclass. Its text is
    `template`, formatted with the fields, or made by its own `__str__`.
    """

    retryable: ClassVar[bool] = False
    deterministic: ClassVar[bool] = False
    template: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, repr=False)(cls)
        # Show the public module in tracebacks and pickles.
        if cls.__module__.startswith(__package__):
            cls.__module__ = "pyspark_theflash.errors"

    def __post_init__(self) -> None:
        self.args = tuple(vars(self).values())  # which pickle passes to the constructor

    def __str__(self) -> str:
        return self.template.format_map(vars(self)) or super().__str__()


class InternalError(TheFlashError):
    """Violation of an internal invariant: a bug in this package, independent of the input."""

    reason: str
    template = "{reason}"


def invariant(condition: bool, message: str) -> None:
    """Raise `InternalError` unless `condition` holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise InternalError(message)


class OptionError(TheFlashError):
    """An option is missing, unknown or has an invalid value."""

    deterministic = True
    key: str
    reason: str
    template = "option {key!r}: {reason}"


class UsageError(TheFlashError):
    """Invalid command line."""

    deterministic = True
    reason: str
    template = "{reason}"


class UnsupportedError(TheFlashError):
    """A feature of TiDB is not supported; `where` names the table, column or file."""

    deterministic = True
    what: str
    where: str
    template = "{where}: {what} is not supported"


class MissingExtraError(TheFlashError):
    """A package of an optional extra is not installed."""

    package: str
    extra: str
    template = (
        "{package} is not installed; install it with: pip install 'pyspark-theflash[{extra}]'"
    )


class LibraryBuildError(TheFlashError):
    """The C library cannot be built on this machine."""

    reason: str
    template = "cannot build the C library: {reason}"


class CodecError(TheFlashError):
    """Bytes do not conform to their encoding.

    `layer` is the encoding ("row v1", "memcomparable bytes"), `offset` the byte at which decoding
    stopped, `context` a short hex excerpt from there (key and framing bytes, at most 16) or "".
    """

    deterministic = True
    layer: str
    reason: str
    offset: int = 0
    context: str = ""

    def __str__(self) -> str:
        at = f" (bytes {self.context})" if self.context else ""
        return f"{self.layer}: {self.reason} at byte {self.offset}{at}"


class CorruptionError(TheFlashError):
    """Stored bytes fail their checksum or are inconsistent. Nothing is repaired or skipped."""

    deterministic = True
    file: str
    offset: int
    reason: str
    template = "{file}: {reason} at byte {offset}"


class BinlogCorruptionError(CorruptionError):
    """A bad frame in a binlog: wrong magic or checksum, impossible length, invalid message."""


class UnrepresentableValueError(TheFlashError):
    """A value of TiDB cannot be represented in the requested form, e.g. a zero date as a date."""

    deterministic = True
    column: str
    value: str
    form: str
    template = "column {column}: {value} cannot be represented as {form}"
