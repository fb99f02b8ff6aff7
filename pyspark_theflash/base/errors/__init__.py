"""All errors that this package raises for users.

The root is `TheFlashError`. Two class attributes describe an instance without its class:
`retryable` (the same request may succeed later) and `deterministic` (every replica of the same
input fails in the same way, so another replica is no alternative).

Errors are pickled between processes (Spark workers, spark-submit). Pickle calls the class with
`args` again, so `args` are the constructor arguments unchanged, and the message is formatted when
it is read.
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
