"""Data files of the engine `magic`, encoded in one call."""

import pyarrow as pa

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.storage.engine.magic.encode import EncodedFile, FileEncoder
from pyspark_theflash.storage.engine.magic.file import FileKind
from pyspark_theflash.storage.engine.magic.region import NO_REGION


def encode_file(
    table: pa.Table,
    *,
    number: int,
    physical_id: PhysicalTableID,
    kind: FileKind,
    region_id: RegionID = NO_REGION,
) -> EncodedFile:
    """Encode sorted versions, at least one, with all system columns."""
    encoder = FileEncoder(kind)
    encoder.add(table)
    return encoder.finish(number=number, physical_id=physical_id, region_id=region_id)
