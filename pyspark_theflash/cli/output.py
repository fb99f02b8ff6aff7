"""Output files that appear complete or not at all, and never overwrite another."""

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
    """Open a new file, which gets its name, durably, when the block ends without an error.

    Raises:
        UsageError: The path exists, or its folder does not.
        StoreFullError, EngineError: The file cannot be written.
    """
    if path.exists():
        raise UsageError(f"{path} already exists and is not overwritten")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist")
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
