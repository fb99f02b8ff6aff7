"""Clients that may call the gRPC servers of TiDB's cluster, the pump and the learner."""

from dataclasses import dataclass
from typing import Any

from pyspark_theflash.base.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Access:
    """Clients that may call a server.

    Attributes:
        tls: the server's certificate, and the authority of the clients' certificates.
        allowed_names: the allowed common names of clients' certificates.
        is_insecure: whether all users of this machine may connect to HOST:PORT, without `tls`.
    """

    tls: TlsFiles | None = None
    allowed_names: tuple[str, ...] = ()
    is_insecure: bool = False

    def rejects(self, context: Any) -> bool:  # noqa: ANN401 (a call of gRPC)
        """Return whether the name in the caller's certificate is not allowed."""
        if not self.allowed_names:
            return False
        names = context.auth_context().get("x509_common_name", ())
        return not {name.encode() for name in self.allowed_names}.intersection(names)
