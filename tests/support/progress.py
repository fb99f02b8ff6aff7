"""Progress of a store."""

from contextlib import closing
from pathlib import Path

from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress, store_progress


def read_progress(path: Path, *, fs: FileSystem | None = None) -> Progress | None:
    """Return the progress that all tables of the store have reached; None for an empty store."""
    with closing(open_manifest(path, fs or LocalFileSystem())) as manifest:
        return store_progress(manifest.read([PROGRESS_KIND]))
