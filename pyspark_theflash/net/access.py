"""Clients that may call the gRPC servers of TiDB's cluster, the pump and the learner."""

from dataclasses import dataclass
from typing import Any

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.net.bind import check_safe


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

    def check(self, address: str) -> None:
        """Raise `OptionError` unless only these clients can connect to `address`."""
        tls, is_socket = self.tls, address.startswith(UNIX)
        if self.allowed_names and tls is None:
            raise OptionError("allow", "needs TLS: the names are those of certificates")
        check_safe(address, has_tls=tls is not None, has_tokens=True)
        if self.is_insecure and (tls is not None or is_socket):
            raise OptionError("insecure", "is for HOST:PORT without certificates")
        if tls is None:
            if not (is_socket or self.is_insecure):
                reason = (
                    f"{address} is open to all users of this machine: listen on unix:PATH, give "
                    "certificates, or allow it with --insecure"
                )
                raise OptionError("listen", reason)
            return
        if tls.cert is None or tls.key is None:
            raise OptionError("tls", "a server needs a certificate and its key")
        if not self.allowed_names:
            reason = "is missing: give the common names of the clients' certificates"
            raise OptionError("allow", reason)

    def rejects(self, context: Any) -> bool:  # noqa: ANN401 (a call of gRPC)
        """Return whether the name in the caller's certificate is not allowed."""
        if not self.allowed_names:
            return False
        names = context.auth_context().get("x509_common_name", ())
        return not {name.encode() for name in self.allowed_names}.intersection(names)
