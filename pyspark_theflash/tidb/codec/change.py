"""A column's change of type: the two types, and how errors name the column."""

from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.field_type import FieldType

# ALLOW_INVALID_DATES among the bits of TiDB's sql_mode.
_ALLOW_INVALID_DATES: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class ReorgSession:
    """What TiDB kept of the session that changed a column, and when it did so (Unix time).

    With an offset, which is in seconds east of UTC, `zone` is of no importance. `sql_mode` has
    TiDB's bits; None where it was not kept.
    """

    zone: str
    offset_s: int
    from_ms: int
    to_ms: int
    sql_mode: int | None = None


@dataclass(frozen=True, slots=True)
class TypeChange:
    """What a conversion goes from and to; `where` names the column in errors.

    `session`: None if nothing is known of it.
    """

    old: FieldType
    new: FieldType
    where: str
    session: ReorgSession | None = None

    @property
    def keeps_invalid_dates(self) -> bool:
        """Whether texts and numbers like February 30 became dates (else they became zero).

        Raises:
            UnsupportedError: the sql_mode of the session is not known.
        """
        if self.session is None or self.session.sql_mode is None:
            raise self.unsupported("the sql_mode of the session decided about one")
        return bool(self.session.sql_mode & _ALLOW_INVALID_DATES)

    def unsupported(self, why: str) -> UnsupportedError:
        """The error for values of which nobody but the DDL's session knows what they became."""
        what = f"{self.old.tp.name} values from before the column became {self.new.tp.name} ({why})"
        return UnsupportedError(what, self.where)
