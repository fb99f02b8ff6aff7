"""A column's change of type: the two types, and how errors name the column."""

from dataclasses import dataclass

from pyspark_theflash.codec.field_type import FieldType
from pyspark_theflash.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Session:
    """What TiDB kept of the session that changed a column, and when it did so (Unix time).

    With an offset, which is in seconds east of UTC, `zone` is of no importance.
    """

    zone: str
    offset_s: int
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a conversion goes from and to; `where` names the column in errors.

    `session`: None if nothing is known of it.
    """

    old: FieldType
    new: FieldType
    where: str
    session: Session | None = None

    def unsupported(self, why: str) -> UnsupportedError:
        """The error for values of which nobody but the DDL's session knows what they became."""
        what = f"{self.old.tp.name} values from before the column became {self.new.tp.name} ({why})"
        return UnsupportedError(what, self.where)
