"""How many callers a server takes, and how long it waits for them."""

from dataclasses import dataclass
from typing import Final

CONNECTIONS_MAX: Final = 64
DRAIN_MS: Final = 5_000
"""How long calls that have begun may take when a server is to end."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a server waits for callers, in ms."""

    greeting_ms: int = 3_000
    """For all of what comes before the first call."""
    idle_ms: int = 600_000
    """Between two calls."""
    frame_ms: int = 10_000
    """For the rest of a frame that has begun."""
    send_ms: int = 60_000
    """For one who does not take what is sent, or does not send what is wanted."""
    rows_ms: int = 600_000
    """For one who does not take the next rows: a Spark task may be at work on those it has."""
