"""Every error a user can meet.

One root, `TheFlashError`. Two class attributes tell a caller what to do with an instance without
knowing its class: `retryable` (the same request may succeed later) and `deterministic` (every
replica of the same input would fail the same way, so trying elsewhere is pointless).

Errors cross process borders (Spark workers, spark-submit), so every class hands its constructor's
arguments unchanged to `Exception.__init__` and formats itself in `__str__`; anything else comes
back from pickle garbled.
"""

from collections.abc import Iterable

from pyspark_theflash.base.errors.base import (
    BinlogCorruptionError,
    CodecError,
    CorruptionError,
    InternalError,
    LibraryBuildError,
    MissingExtraError,
    OptionError,
    TheFlashError,
    UnrepresentableValueError,
    UnsupportedError,
    UsageError,
    invariant,
)
from pyspark_theflash.base.errors.cluster import (
    CacheFullError,
    KeyIsLockedError,
    LockResolveError,
    OtherPumpError,
    PDRefusedError,
    PDUnavailableError,
    PumpRefusedError,
    PumpUnavailableError,
    RaftCommandError,
    RegionBehindError,
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
    TiKVRefusedError,
    TiKVUnavailableError,
)
from pyspark_theflash.base.errors.latch import (
    LatchHeldError,
    LatchLostError,
    LatchNotFoundError,
    LatchOrderError,
    LeaseExpiredError,
    StaleTokenError,
)
from pyspark_theflash.base.errors.query import (
    SqlError,
    SqlMemoryError,
    SqlOverflowError,
    SqlTimeoutError,
)
from pyspark_theflash.base.errors.service import (
    AuthenticationError,
    CallCancelledError,
    DeadlineExceededError,
    ProtocolError,
    RoleError,
    ServiceRefusedError,
    ServiceUnavailableError,
    StreamCutError,
    TicketError,
    UnknownMethodError,
)
from pyspark_theflash.base.errors.source import (
    ClusterMismatchError,
    NoPartitionError,
    RowMissingError,
    SchemaConflictError,
    SchemaFileError,
    SchemaOutdatedError,
    SchemaSourceError,
    TransactionConflictError,
    UnknownCopyError,
    UnknownPartitionError,
    UnmatchedPrewriteError,
)
from pyspark_theflash.base.errors.store import (
    ColumnNotFoundError,
    CommandTimeoutError,
    EngineError,
    FeedConflictError,
    NotCaughtUpError,
    PurgedError,
    PurgedRangeError,
    RaftFedError,
    RegionNotFoundError,
    SnapshotTooOldError,
    SpoolFullError,
    StoreExistsError,
    StoreFormatError,
    StoreFullError,
    StoreInUseError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreReplacedError,
    TableNotFoundError,
    TableNotLoadedError,
    TableNotReplicatedError,
    TableSetAsideError,
    UpkeepError,
)

__all__ = [
    "AuthenticationError",
    "BinlogCorruptionError",
    "CacheFullError",
    "CallCancelledError",
    "ClusterMismatchError",
    "CodecError",
    "ColumnNotFoundError",
    "CommandTimeoutError",
    "CorruptionError",
    "DeadlineExceededError",
    "EngineError",
    "FeedConflictError",
    "InternalError",
    "KeyIsLockedError",
    "LatchHeldError",
    "LatchLostError",
    "LatchNotFoundError",
    "LatchOrderError",
    "LeaseExpiredError",
    "LibraryBuildError",
    "LockResolveError",
    "MissingExtraError",
    "NoPartitionError",
    "NotCaughtUpError",
    "OptionError",
    "OtherPumpError",
    "PDRefusedError",
    "PDUnavailableError",
    "ProtocolError",
    "PumpRefusedError",
    "PumpUnavailableError",
    "PurgedError",
    "PurgedRangeError",
    "RaftCommandError",
    "RaftFedError",
    "RegionBehindError",
    "RegionEpochNotMatchError",
    "RegionGapError",
    "RegionNotFoundError",
    "RegionNotReadableError",
    "RoleError",
    "RowMissingError",
    "SchemaConflictError",
    "SchemaFileError",
    "SchemaOutdatedError",
    "SchemaSourceError",
    "ServiceRefusedError",
    "ServiceUnavailableError",
    "SnapshotTooOldError",
    "SpoolFullError",
    "SqlError",
    "SqlMemoryError",
    "SqlOverflowError",
    "SqlTimeoutError",
    "StaleTokenError",
    "StoreExistsError",
    "StoreFormatError",
    "StoreFullError",
    "StoreInUseError",
    "StoreMismatchError",
    "StoreNotFoundError",
    "StoreReplacedError",
    "StreamCutError",
    "TableNotFoundError",
    "TableNotLoadedError",
    "TableNotReplicatedError",
    "TableSetAsideError",
    "TheFlashError",
    "TiKVRefusedError",
    "TiKVUnavailableError",
    "TicketError",
    "TransactionConflictError",
    "UnknownCopyError",
    "UnknownMethodError",
    "UnknownPartitionError",
    "UnmatchedPrewriteError",
    "UnrepresentableValueError",
    "UnsupportedError",
    "UpkeepError",
    "UsageError",
    "invariant",
    "rebuilt",
]


def rebuilt(name: str, arguments: Iterable[object]) -> TheFlashError | None:
    """The error of one of these classes that was told as its name and arguments; None if none is.

    Raises:
        TypeError, ValueError: these are not the arguments of that class.
    """
    known = globals().get(name)
    if not (isinstance(known, type) and issubclass(known, TheFlashError)):
        return None
    error = known(*(tuple(each) if isinstance(each, list) else each for each in arguments))
    str(error)  # which fails if these are not its arguments
    return error
