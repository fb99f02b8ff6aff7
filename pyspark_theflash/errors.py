"""The errors that this package raises, for `except` clauses of users.

from pyspark_theflash.errors import NotCaughtUpError
"""

from pyspark_theflash.base.errors import *  # noqa: F403
from pyspark_theflash.base.errors import __all__ as __all__
