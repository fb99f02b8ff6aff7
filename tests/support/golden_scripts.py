"""The golden scripts of the tests, by subject."""

from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).parents[1] / "golden" / "scripts"


def script_paths(subject: str) -> list[Path]:
    """Return the scripts of a subject, by name."""
    return sorted((SCRIPTS / subject).glob("*.txt"))
