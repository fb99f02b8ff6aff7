"""Root of all errors, and errors that are raised in several packages."""

from typing import ClassVar


class TheFlashError(Exception):
    """Root of all errors of this package."""

    retryable: ClassVar[bool] = False
    deterministic: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        # Show the public module in tracebacks and pickles.
        if cls.__module__.startswith(__package__):
            cls.__module__ = "pyspark_theflash.errors"


class InternalError(TheFlashError):
    """Violation of an internal invariant: a bug in this package, independent of the input."""


def invariant(condition: bool, message: str) -> None:
    """Raise `InternalError` unless `condition` holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise InternalError(message)


class OptionError(TheFlashError):
    """An option is missing, unknown or has an invalid value."""

    deterministic = True

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"option {self.key!r}: {self.reason}"


class UsageError(TheFlashError):
    """Invalid command line."""

    deterministic = True


class UnsupportedError(TheFlashError):
    """A feature of TiDB is not supported; `where` names the table, column or file."""

    deterministic = True

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where)
        self.what, self.where = what, where

    def __str__(self) -> str:
        return f"{self.where}: {self.what} is not supported"


class MissingExtraError(TheFlashError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.package, self.extra = package, extra

    def __str__(self) -> str:
        return (
            f"{self.package} is not installed; install it with: "
            f"pip install 'pyspark-theflash[{self.extra}]'"
        )


class LibraryBuildError(TheFlashError):
    """The C library cannot be built on this machine."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot build the C library: {self.reason}"


class CodecError(TheFlashError):
    """Bytes do not conform to their encoding.

    `layer` is the encoding ("row v1", "memcomparable bytes"), `offset` the byte at which decoding
    stopped, `context` a short hex excerpt from there (key and framing bytes, at most 16) or "".
    """

    deterministic = True

    def __init__(self, layer: str, reason: str, offset: int = 0, context: str = "") -> None:
        super().__init__(layer, reason, offset, context)
        self.layer, self.reason, self.offset, self.context = layer, reason, offset, context

    def __str__(self) -> str:
        at = f" (bytes {self.context})" if self.context else ""
        return f"{self.layer}: {self.reason} at byte {self.offset}{at}"


class CorruptionError(TheFlashError):
    """Stored bytes fail their checksum or are inconsistent. Nothing is repaired or skipped."""

    deterministic = True

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(file, offset, reason)
        self.file, self.offset, self.reason = file, offset, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason} at byte {self.offset}"


class BinlogCorruptionError(CorruptionError):
    """A bad frame in a binlog: wrong magic or checksum, impossible length, invalid message."""


class UnrepresentableValueError(TheFlashError):
    """A value of TiDB cannot be represented in the requested form, e.g. a zero date as a date."""

    deterministic = True

    def __init__(self, column: str, value: str, form: str) -> None:
        super().__init__(column, value, form)
        self.column, self.value, self.form = column, value, form

    def __str__(self) -> str:
        return f"column {self.column}: {self.value} cannot be represented as {self.form}"
