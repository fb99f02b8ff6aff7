"""Files of a folder, or of S3, that another program has written.

    file:///PATH            a folder, for example of NFS
    s3://BUCKET/PREFIX      with the credentials of AWS's tools; ?region=, ?endpoint=

Further properties in the URL's query belong to the files' format.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from pyspark_theflash.base.errors import (
    CorruptionError,
    OptionError,
    ServiceUnavailableError,
    UnsupportedError,
)
from pyspark_theflash.tidb.codec.time import impossible

MOST_BYTES: Final = 1 << 30
"""Maximum size of a file that is read in one piece."""
_CONNECT_S: Final = 10
_REQUEST_S: Final = 60
_S3_KEYS: Final = ("region", "endpoint")


class Storage:
    """Files below a folder of a file system, by path relative to it."""

    def __init__(self, files: fs.FileSystem, root: str, url: str) -> None:
        """`url` names the storage in errors."""
        self._fs, self._root, self.url = files, root.rstrip("/"), url

    def size(self, path: str) -> int | None:
        """Return the size of a file; None if there is none. Raises `ServiceUnavailableError`."""
        with self._available():
            info = self._fs.get_file_info(self._path(path))
        return None if info.type is fs.FileType.NotFound else info.size or 0

    def files(self, *, recursive: bool = True) -> Mapping[str, int]:
        """Return the sizes of all files. Raises `ServiceUnavailableError`."""
        with self._available():
            chosen = fs.FileSelector(self._root, recursive=recursive, allow_not_found=True)
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
            raise CorruptionError(path, 0, f"{size} bytes are more than {MOST_BYTES}")
        with self._available(), self._fs.open_input_stream(self._path(path), None) as stream:
            data: bytes = stream.read(size)
            return data

    def open(self, path: str, codec: str | None = None) -> "StorageStream":
        """Open a file to read it in pieces, decompressed by a codec of Arrow.

        Raises `ServiceUnavailableError`.
        """
        with self._available():
            return StorageStream(self, self._fs.open_input_file(self._path(path)), path, codec)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _available(self) -> AbstractContextManager[None]:
        return _available(self.url)


class StorageStream:
    """A file that is read in pieces, from an offset on. Close it."""

    def __init__(self, storage: Storage, file: pa.NativeFile, path: str, codec: str | None) -> None:
        self._storage, self._file, self._name = storage, file, f"{storage.url}/{path}"
        # Errors of the storage pass through Arrow as they are, so an OSError is the codec's.
        raw = pa.PythonFile(_RawFile(storage, file), "r")
        self._decoded = pa.CompressedInputStream(raw, codec) if codec else None

    def skip(self, offset: int) -> None:
        """Continue at an offset, before anything was read."""
        if self._decoded is None:
            with _available(self._storage.url):
                self._file.seek(offset)
            return
        while offset > 0:
            data = self.read(min(offset, 1 << 20))
            if not data:
                raise CorruptionError(self._name, 0, "is shorter than when it was read before")
            offset -= len(data)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end.

        Raises:
            CorruptionError: The file is not compressed as its name says, or is incomplete.
            ServiceUnavailableError: The storage does not answer.
        """
        if self._decoded is None:
            with _available(self._storage.url):
                data: bytes = self._file.read(size)
                return data
        try:
            decoded: bytes = self._decoded.read(size)
        except OSError as error:
            raise CorruptionError(self._name, 0, str(error)[:300]) from None
        return decoded

    def close(self) -> None:
        """Close the file."""
        if self._decoded is not None:
            self._decoded.close()
        self._file.close()


class _RawFile:
    """A file of a storage, for Arrow."""

    closed = False

    def __init__(self, storage: Storage, file: pa.NativeFile) -> None:
        self._storage, self._file = storage, file

    def read(self, size: int) -> bytes:
        with _available(self._storage.url):
            data: bytes = self._file.read(size)
            return data

    def close(self) -> None:
        """Do nothing: the stream closes the file."""


@contextmanager
def _available(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceUnavailableError(url, str(error)[:300]) from error


def open_files(
    url: str, option: str, prefix: str, keys: Sequence[str]
) -> tuple[Storage, Mapping[str, str]]:
    """Open the storage that a URL names; return the properties of its query.

    Args:
        url: The URL, without the prefix.
        option: The option, for errors.
        prefix: The prefix of the URL in the option, for errors: "cdc".
        keys: The properties that are known.

    Raises:
        OptionError: The URL is invalid, or its folder or bucket does not exist.
        ServiceUnavailableError: The storage does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("file", "s3") or parts.username is not None or parts.fragment:
        reason = f"{_shown(url)!r} is neither {prefix}:file:///PATH nor {prefix}:s3://BUCKET/PREFIX"
        raise OptionError(option, reason)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = (*keys, *(_S3_KEYS if parts.scheme == "s3" else ()))
    if unknown := sorted(query.keys() - set(allowed)):
        raise OptionError(option, f"unknown {unknown[0][:80]!r}; known are {', '.join(allowed)}")
    path, shown = unquote(parts.path), _shown(url)
    if parts.scheme == "file":
        local = fs.LocalFileSystem()
        is_folder = path and local.get_file_info(path).type is fs.FileType.Directory
        if parts.netloc or not is_folder:
            raise OptionError(option, f"{shown!r} is not a folder of this machine")
        return Storage(local, path, shown), query
    if not parts.netloc:
        raise OptionError(option, f"{shown!r} names no bucket")
    files = _s3(query)
    with _available(shown):
        bucket = files.get_file_info(parts.netloc)
    if bucket.type is fs.FileType.NotFound:
        raise OptionError(option, f"{shown!r}: there is no bucket {parts.netloc!r}")
    return Storage(files, parts.netloc + path, shown), query


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


def one_of(query: Mapping[str, str], key: str, values: Collection[str], option: str) -> str | None:
    """Return a property that must have one of some values; None if it is not set.

    Raises `OptionError`.
    """
    value = query.get(key)
    if value is not None and value not in values:
        raise OptionError(option, f"{key} is none of {', '.join(values)}")
    return value


def time_zone(query: Mapping[str, str], option: str) -> str | None:
    """Return the property `time-zone`; None if it is not set. Raises `OptionError`."""
    zone = query.get("time-zone")
    if zone is not None:
        try:
            pc.assume_timezone(pa.array([0], pa.timestamp("us")), zone)
        except (pa.ArrowException, ValueError):
            raise OptionError(option, f"unknown time-zone {zone[:80]!r}") from None
    return zone


def to_utc(values: pa.Array, zone: str, name: str) -> pa.Array:
    """Convert TIMESTAMPs of a column, which were parsed as UTC, from a time zone.

    Raises `UnsupportedError`: The clocks of the time zone changed at a value.
    """
    if zone == "UTC":
        return values
    # Zero dates are not converted.
    is_kept = pc.fill_null(impossible(values), True)
    local = pc.cast(pc.if_else(is_kept, pa.scalar(None, values.type), values), pa.timestamp("us"))
    try:
        zoned = pc.assume_timezone(local, zone)
    except pa.ArrowInvalid:
        what = f"a TIMESTAMP when the clocks of {zone} changed"
        raise UnsupportedError(what, name) from None
    return pc.if_else(is_kept, values, pc.cast(zoned, values.type))
