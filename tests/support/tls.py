"""The certificates of `tests/golden/tls`."""

from pathlib import Path

from pyspark_theflash.base.tls import TlsFiles

FOLDER = Path(__file__).parents[1] / "golden" / "tls"


def tls(name: str, ca: str = "ca") -> TlsFiles:
    """Files of a peer that has certificate `name` and trusts `ca`."""
    return TlsFiles(FOLDER / f"{ca}.pem", FOLDER / f"{name}.pem", FOLDER / f"{name}.key")


def trust(ca: str = "ca") -> TlsFiles:
    """Files of a peer that trusts `ca` and has no certificate."""
    return TlsFiles(FOLDER / f"{ca}.pem")
