"""Moving and copying a region's files between partitions.

    copy       each file of the region that is missing in a partition is read, verified, and written
               there under the same name
    commit     one commit changes the partitions in the records of the region and its files; paths
               no longer used are retired, and removed when no scan needs them

The region's id and its files' numbers do not change, since rows and pointers are the same. New
files of the region are written to its partitions, too. Deltas belong to no region and remain in
partition 0 until a compaction distributes them.

A crash before the commit leaves files that are not in the manifest; the next writer removes them.
After the commit, the manifest has the paths to remove.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pyspark_theflash.storage.engine.api import CompactionReport
from pyspark_theflash.storage.engine.magic.file import DataFile, read_whole
from pyspark_theflash.storage.engine.magic.layout import LayoutChange
from pyspark_theflash.storage.engine.magic.region import Region
from pyspark_theflash.storage.store.partition import Partitions

WriteBytes = Callable[[str, bytes], None]
"""Write and sync a new file at a path relative to the data folder."""


def move_files(
    folder: Path,
    region: Region,
    own: Sequence[DataFile],
    partitions: Partitions,
    retired: Collection[str],
    write: WriteBytes,
) -> tuple[LayoutChange, CompactionReport]:
    """Store a region's own files in exactly these partitions.

    Args:
        retired: retired paths, whose files still exist.

    Raises:
        CorruptionError, EngineError: A file cannot be read from any partition.
    """
    moved: list[DataFile] = []
    vacated: list[str] = []
    resumed: list[str] = []
    written = size_bytes = 0
    for info in own:
        after = info.within(partitions)
        for path in after.paths:
            if path in info.paths:
                continue
            if path in retired:
                # The same file is still there for a running scan.
                read_whole(folder, replace(info, path=path, copies=()))
                resumed.append(path)
                continue
            data = read_whole(folder, info)
            write(path, data)
            written, size_bytes = written + 1, size_bytes + len(data)
        moved.append(after)
        vacated += [path for path in info.paths if path not in after.paths]
    change = LayoutChange(
        moved,
        regions=[replace(region, partitions=partitions)],
        dropped=[region],
        vacated=vacated,
        resumed=resumed,
    )
    report = CompactionReport(
        files_replaced=len(vacated), files_written=written, bytes_written=size_bytes
    )
    return change, report
