"""Exit statuses of commands, and error output: one line on stderr.

Statuses, the same for every command:

    0  success         4  timestamp not readable (now)
    1  fsck: damage    5  another process holds the store
    2  usage           6  corruption
    3  no such store,  7  any other error
       table or latch
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Final

from pyspark_theflash.base import errors
from pyspark_theflash.base.errors import InternalError, TheFlashError, UpkeepError
from pyspark_theflash.base.log import is_json, log_fields

OTHER_FAILURE: Final = 7
INTERRUPTED: Final = 130
_STATUS: Final = {
    2: (
        errors.UsageError,
        errors.OptionError,
        errors.ColumnNotFoundError,
        errors.StorePlaceError,
    ),
    3: (
        errors.StoreNotFoundError,
        errors.TableNotFoundError,
        errors.TableNotReplicatedError,
        errors.LatchNotFoundError,
    ),
    4: (
        errors.LoadUnfinishedError,
        errors.NotCaughtUpError,
        errors.SnapshotTooOldError,
        errors.PurgedError,
        errors.PurgedRangeError,
        errors.RegionStoppedError,
        errors.TableSetAsideError,
        errors.UnmatchedPrewriteError,
    ),
    5: (
        errors.StoreInUseError,
        errors.LatchHeldError,
        errors.CommandTimeoutError,
        errors.RaftFedError,
    ),
    6: (errors.CorruptionError, errors.CodecError),
}
_log = logging.getLogger(__name__)


def exit_status(error: TheFlashError) -> int:
    """Return the exit status of an error."""
    kind = getattr(errors, error.first) if isinstance(error, UpkeepError) else type(error)
    return next(
        (status for status, kinds in _STATUS.items() if issubclass(kind, kinds)), OTHER_FAILURE
    )


def run_command(command: Callable[[], int]) -> int:
    """Run a command; errors become one line on stderr and an exit status.

    Only for an error that is a bug, a traceback is logged before that line.
    """
    try:
        status = command()
        # Flush here, where a closed pipe is handled, rather than at interpreter exit.
        sys.stdout.flush()
        return status
    except TheFlashError as error:
        print_error(type(error).__name__, str(error))
        return exit_status(error)
    except BrokenPipeError:
        # The reader has closed the pipe. Without this, Python's flush at exit would fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 (bugs are reported like other errors)
        bug = unexpected(error)
        print_error(type(bug).__name__, str(bug))
        return OTHER_FAILURE


def unexpected(error: Exception) -> InternalError:
    """Log an error that is a bug, with its traceback, and convert it."""
    _log.error("unexpected: %s", type(error).__name__, exc_info=error)
    return InternalError(f"{type(error).__name__}: {error}")


def print_error(name: str, text: str) -> None:
    """Print `theflash: ErrorName: text` as one line, or log it if the log is JSON."""
    if is_json():
        log_fields(_log, text, {"error": name}, logging.ERROR)
        return
    print(f"theflash: {name}: {' '.join(text.split())}", file=sys.stderr)
