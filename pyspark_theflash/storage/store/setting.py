"""Settings of the writer, stored by an operator."""

from typing import Final

from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import shaped, uint64

SETTING_KIND: Final = "setting"
_INTERVAL_KEY: Final = "interval_ms"
_RETENTION_KEY: Final = "retention_ms"
DEFAULT_RETENTION_MS: Final = 86_400_000


def interval_record(interval_ms: int) -> Record:
    """Return the record of the writer's poll interval."""
    return Record(SETTING_KIND, _INTERVAL_KEY, str(interval_ms).encode())


def interval_ms(view: View) -> int | None:
    """Return the writer's poll interval; None if it is not set. Raises `CodecError`."""
    return _number(view, _INTERVAL_KEY)


def retention_record(retention_ms: int) -> Record:
    """Return the record of the history that garbage collection retains."""
    return Record(SETTING_KIND, _RETENTION_KEY, str(retention_ms).encode())


def retention_ms(view: View) -> int | None:
    """Return the history that garbage collection retains; None if not set. Raises `CodecError`."""
    return _number(view, _RETENTION_KEY)


def _number(view: View, key: str) -> int | None:
    body = view.of_kind(SETTING_KIND).get(key)
    with shaped(f"{SETTING_KIND} record"):
        return None if body is None else uint64(int(body))
