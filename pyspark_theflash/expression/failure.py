"""Why an expression is not evaluated, before it is known where it stands.

`evaluate` makes `UnsupportedError` and `UnrepresentableValueError` of these.
"""


class LackingError(Exception):
    """Something that is not evaluated here; its text names it, never a value."""


class OutOfRangeError(Exception):
    """A result that TiDB refuses too, an integer overflow for one; its text names the type."""
