"""Archives among the fixtures."""

import tarfile
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Extract one of the fixtures' archives into a folder.

    `filter` is there from Python 3.10.12, 3.11.4 and 3.12 on, the last of which warns without it.
    """
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as opened:
        opened.extractall(folder, **safely)  # type: ignore[arg-type]
