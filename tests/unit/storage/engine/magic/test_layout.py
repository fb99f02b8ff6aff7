"""The caches of decoded records."""

from dataclasses import replace

import pytest

from pyspark_theflash.storage.engine.magic import layout
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind
from pyspark_theflash.storage.engine.magic.layout import RegionFiles
from pyspark_theflash.storage.engine.magic.region import Region

FILE = DataFile(
    number=1,
    physical_id=2,
    region_id=3,
    path="data/1.parquet",
    kind=FileKind.DELTA,
    rows=1,
    size_bytes=2,
    data_bytes=3,
    crc=4,
    footer_bytes=5,
    footer_crc=6,
    min_handle=b"a",
    max_handle=b"b",
    min_commit_ts=7,
    max_commit_ts=8,
    garbage_ts=9,
    has_deletes=False,
    has_superseded=False,
    has_previous=False,
)
CACHES = (layout._cached_region, layout._cached_file, layout._cached_file_text)


def entries():
    return [cache.cache_info().currsize for cache in CACHES]


@pytest.mark.parametrize(("size", "cached"), [(8, 1), (600, 0), (3_456, 0)])
def test_long_primary_keys_are_not_cached(size, cached):
    """Records with keys of 3 KiB, the longest that TiDB has, would take 24 KiB in each cache."""
    for cache in CACHES:
        cache.cache_clear()
    start, end = b"a" * size, b"b" * size
    file = replace(FILE, min_handle=start, max_handle=end)
    content = RegionFiles(Region(2, 3, start, end), (file,))
    assert RegionFiles.from_texts(content.texts()) == content
    assert entries() == [cached] * 3
