"""A file that a command makes: all of it or none, and never in the place of another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.store.manifest import file_errors


@contextmanager
def new_file(path: Path, fs: FileSystem) -> Iterator[IO[bytes]]:
    """A file to write, which is there under its name, and durable, once the block has ended well.

    Raises:
        UsageError: there is something at `path`, or no folder to put it into.
        StoreFullError, EngineError: it cannot be written.
    """
    if path.exists():
        raise UsageError(f"{path} exists already, and is not overwritten")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with file_errors(path):
        try:
            with open(scratch, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            fs.rename(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
