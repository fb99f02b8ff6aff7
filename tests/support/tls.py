"""The certificates of `tests/golden/tls`, and servers with them."""

from pathlib import Path

from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.net.listen import listen

FOLDER = Path(__file__).parents[1] / "golden" / "tls"


def tls(name: str, ca: str = "ca") -> TlsFiles:
    """Files of a peer that has certificate `name` and trusts `ca`."""
    return TlsFiles(FOLDER / f"{ca}.pem", FOLDER / f"{name}.pem", FOLDER / f"{name}.key")


def trust(ca: str = "ca") -> TlsFiles:
    """Files of a peer that trusts `ca` and has no certificate."""
    return TlsFiles(FOLDER / f"{ca}.pem")


def bind(server: grpc.Server, files: TlsFiles | None) -> str:
    """Bind a server to a free port of the loopback interface; return its address.

    With `files`, clients need the certificate `client`.
    """
    if files is None:
        return f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    return listen(server, "127.0.0.1:0", Access(files, ("tidb",)))


def options(name: str = "client", ca: str = "ca") -> list[str]:
    """The options of a command that has certificate `name` and trusts `ca`."""
    files = {"--ca": f"{ca}.pem", "--cert": f"{name}.pem", "--key": f"{name}.key"}
    return [word for option, file in files.items() for word in (option, str(FOLDER / file))]
