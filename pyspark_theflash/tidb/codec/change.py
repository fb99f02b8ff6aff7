"""Change of a column's type by MODIFY COLUMN: both types and the session that ran the DDL."""

from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.field_type import FieldType

# The bit of ALLOW_INVALID_DATES in TiDB's sql_mode.
_ALLOW_INVALID_DATES: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class ReorgSession:
    """Settings of the session that changed a column, as recorded in TiDB's DDL job.

    A nonzero `offset_s` (seconds east of UTC) takes precedence over `zone`. The change ran from
    `from_ms` to `to_ms` (Unix time). `sql_mode` has TiDB's bits; None if it was not recorded.
    """

    zone: str
    offset_s: int
    from_ms: int
    to_ms: int
    sql_mode: int | None = None


@dataclass(frozen=True, slots=True)
class TypeChange:
    """Old and new type of a column. `where` names the column in errors.

    `session` is None if it was not recorded.
    """

    old: FieldType
    new: FieldType
    where: str
    session: ReorgSession | None = None

    @property
    def keeps_invalid_dates(self) -> bool:
        """Whether texts and numbers like February 30 became dates; otherwise they became zero.

        Raises:
            UnsupportedError: The sql_mode of the session was not recorded.
        """
        if self.session is None or self.session.sql_mode is None:
            raise self.unsupported("the result depends on the session's unknown sql_mode")
        return bool(self.session.sql_mode & _ALLOW_INVALID_DATES)

    def unsupported(self, why: str) -> UnsupportedError:
        """Return the error for a value whose converted form cannot be determined."""
        types = f"from {self.old.tp.name} to {self.new.tp.name}"
        return UnsupportedError(f"conversion of old values {types} ({why})", self.where)
