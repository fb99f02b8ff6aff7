"""Files of TiCDC's storage sink in a folder or in S3.

Properties in the URL's query are those of `SinkFormat`: `time-zone` and `binary-encoding-method`.
"""

from typing import Final

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.storage import Storage, one_of, open_files, time_zone
from pyspark_theflash.replication.ticdc.layout import METADATA
from pyspark_theflash.replication.ticdc.rows import BinaryEncoding, SinkFormat
from pyspark_theflash.tidb.codec.document import load, shaped, uint64

_MOST_METADATA_BYTES: Final = 1 << 16
_ENCODING: Final = "binary-encoding-method"


def checkpoint_ts(storage: Storage) -> TimeStamp | None:
    """Return the timestamp below which all rows are in the files; None if none is written.

    Raises:
        ServiceUnavailableError: The storage does not answer.
        CodecError: The metadata is invalid.
    """
    size = storage.size(METADATA)
    if size is None:
        return None
    body = storage.read(METADATA, min(size, _MOST_METADATA_BYTES))
    with shaped(f"{storage.url}/{METADATA}"):
        return TimeStamp(uint64(load(body)["checkpoint-ts"]))


def open_storage(url: str) -> tuple[Storage, SinkFormat]:
    """Open the storage that a URL names. Raises the errors of `open_files`."""
    storage, query = open_files(url, "source", "cdc", ("time-zone", _ENCODING))
    names = [each.value for each in (BinaryEncoding.BASE64, BinaryEncoding.HEX)]
    encoding = one_of(query, _ENCODING, names, "source")
    zone = time_zone(query, "source")
    return storage, SinkFormat(zone, None if encoding is None else BinaryEncoding(encoding))
