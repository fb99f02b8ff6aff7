"""Moving and copying a region's files between partitions.

    files copied   every file of the region that a partition lacks is read whole, checked, and
                   written there under the same name
    committed      the region's record and its files' name the new partitions, in one commit; paths
                   that are no longer named are retired, and removed when no scan needs them

The region keeps its id and its files their numbers, because rows and pointers stay the same. From
now on everything that is written of the region goes to its partitions. Deltas belong to no region,
and stay in partition 0 until a compaction divides them.

A process that dies before the commit leaves files that the manifest does not name, which the next
writer sweeps; after it, the paths to be removed are in the manifest.
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
"""Makes a file durable at a path that has none, relative to the data folder."""


def keep_in(
    folder: Path,
    region: Region,
    own: Sequence[DataFile],
    partitions: Partitions,
    retired: Collection[str],
    write: WriteBytes,
) -> tuple[LayoutChange, CompactionReport]:
    """What becomes of a region when these partitions, and no others, are to have its own files.

    Args:
        retired: paths that are no longer named; the files are still there.
        write: is given the files that are to be made.

    Raises:
        CorruptionError, EngineError: a file cannot be read from any partition.
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
                # It is the same file, which some scan still needs.
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
