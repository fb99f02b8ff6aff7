"""Files of TiCDC's storage sink in a folder or in S3.

    file:///PATH            a folder, for example of NFS
    s3://BUCKET/PREFIX      with the credentials of AWS's tools; ?region=, ?endpoint=

Further properties in the URL's query are those of `SinkFormat`: `time-zone` and
`binary-encoding-method`.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from pyspark_theflash.base.errors import CorruptionError, OptionError, ServiceUnavailableError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.ticdc.layout import METADATA
from pyspark_theflash.replication.ticdc.rows import BinaryEncoding, SinkFormat
from pyspark_theflash.tidb.codec.document import load, shaped, uint64

MOST_BYTES: Final = 1 << 30
"""Maximum size of a file; the maximum of TiCDC's `file-size` is half of it."""
_MOST_METADATA_BYTES: Final = 1 << 16
_CONNECT_S: Final = 10
_REQUEST_S: Final = 60
_FORMAT_KEYS: Final = ("time-zone", "binary-encoding-method")
_S3_KEYS: Final = ("region", "endpoint")


class SinkStorage:
    """Files below a folder of a file system, by path relative to it."""

    def __init__(self, files: fs.FileSystem, root: str, url: str) -> None:
        """`url` names the storage in errors."""
        self._fs, self._root, self.url = files, root.rstrip("/"), url

    def checkpoint_ts(self) -> TimeStamp | None:
        """Return the timestamp below which all rows are in the files; None if none is written.

        Raises:
            ServiceUnavailableError: The storage does not answer.
            CodecError: The metadata is invalid.
        """
        with self._available():
            info = self._fs.get_file_info(self._path(METADATA))
        if info.type is fs.FileType.NotFound:
            return None
        body = self.read(METADATA, min(info.size or 0, _MOST_METADATA_BYTES))
        with shaped(f"{self.url}/{METADATA}"):
            return TimeStamp(uint64(load(body)["checkpoint-ts"]))

    def files(self) -> Mapping[str, int]:
        """Return the sizes of all files. Raises `ServiceUnavailableError`."""
        with self._available():
            chosen = fs.FileSelector(self._root, recursive=True, allow_not_found=True)
            infos = self._fs.get_file_info(chosen)
        start = len(self._root) + 1
        return {i.path[start:]: i.size for i in infos if i.type is fs.FileType.File}

    def read(self, path: str, size: int) -> bytes:
        """Return the first `size` bytes of a file, or all if there are fewer.

        Raises:
            CorruptionError: It is too large.
            ServiceUnavailableError: The storage does not answer, or has removed the file.
        """
        if size > MOST_BYTES:
            raise CorruptionError(path, 0, f"{size} bytes are more than TiCDC writes to a file")
        with self._available(), self._fs.open_input_stream(self._path(path)) as stream:
            data: bytes = stream.read(size)
            return data

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _available(self) -> AbstractContextManager[None]:
        return _available(self.url)


@contextmanager
def _available(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceUnavailableError(url, str(error)[:300]) from error


def open_storage(url: str) -> tuple[SinkStorage, SinkFormat]:
    """Open the storage that a URL names.

    Raises:
        OptionError: The URL is invalid, or its folder or bucket does not exist.
        ServiceUnavailableError: The storage does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("file", "s3") or parts.username is not None or parts.fragment:
        reason = f"{_shown(url)!r} is neither cdc:file:///PATH nor cdc:s3://BUCKET/PREFIX"
        raise OptionError("source", reason)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = (*_FORMAT_KEYS, *(_S3_KEYS if parts.scheme == "s3" else ()))
    if unknown := sorted(query.keys() - set(allowed)):
        raise OptionError("source", f"unknown {unknown[0]!r}; known are {', '.join(allowed)}")
    path, shown = unquote(parts.path), _shown(url)
    if parts.scheme == "file":
        local = fs.LocalFileSystem()
        is_folder = path and local.get_file_info(path).type is fs.FileType.Directory
        if parts.netloc or not is_folder:
            raise OptionError("source", f"{shown!r} is not a folder of this machine")
        return SinkStorage(local, path, shown), _format(query)
    if not parts.netloc:
        raise OptionError("source", f"{shown!r} names no bucket")
    files, sink_format = _s3(query), _format(query)
    with _available(shown):
        bucket = files.get_file_info(parts.netloc)
    if bucket.type is fs.FileType.NotFound:
        raise OptionError("source", f"{shown!r}: there is no bucket {parts.netloc!r}")
    return SinkStorage(files, parts.netloc + path, shown), sink_format


def _shown(url: str) -> str:
    """Return a URL without its query and user, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]


def _s3(query: Mapping[str, str]) -> fs.FileSystem:
    endpoint = urlsplit(query.get("endpoint", ""))
    return fs.S3FileSystem(
        region=query.get("region"),
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
    )


def _format(query: Mapping[str, str]) -> SinkFormat:
    zone, encoding = (query.get(key) for key in _FORMAT_KEYS)
    encodings = {each.value: each for each in (BinaryEncoding.BASE64, BinaryEncoding.HEX)}
    if encoding is not None and encoding not in encodings:
        raise OptionError("source", "binary-encoding-method is neither base64 nor hex")
    if zone is not None:
        try:
            pc.assume_timezone(pa.array([0], pa.timestamp("us")), zone)
        except (pa.ArrowException, ValueError):
            raise OptionError("source", f"unknown time-zone {zone[:80]!r}") from None
    return SinkFormat(zone, None if encoding is None else encodings[encoding])
