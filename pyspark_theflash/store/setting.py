"""What an operator has set, and the writer keeps to until it is set otherwise."""

from typing import Final

from pyspark_theflash.codec.document import shaped, uint64
from pyspark_theflash.store.manifest import Record, View

SETTING_KIND: Final = "setting"
_INTERVAL_KEY: Final = "interval_ms"


def interval_record(interval_ms: int) -> Record:
    """How often the writer looks for new input, as a record."""
    return Record(SETTING_KIND, _INTERVAL_KEY, str(interval_ms).encode())


def interval_ms(view: View) -> int | None:
    """How often the writer looks for new input; None if nobody has said. Raises `CodecError`."""
    body = view.of_kind(SETTING_KIND).get(_INTERVAL_KEY)
    with shaped(f"{SETTING_KIND} record"):
        return None if body is None else uint64(int(body))
