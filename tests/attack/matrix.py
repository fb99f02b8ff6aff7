"""Every method of the API, by every transport, with every kind of credential."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from pyarrow import flight

from pyspark_theflash.base.errors import AuthenticationError, RoleError, TheFlashError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.wire.method import METHODS, Method, Role
from pyspark_theflash.service.wire.protobuf import encode
from tests.attack.harness import Target, attack, breach_if

WRONG = AccessToken("not-one-of-the-tokens")
CREDENTIALS: dict[str, AccessToken | Role | None] = {
    "none": None,
    "wrong": WRONG,
    **{role.name.lower(): role for role in Role},
}
TIMEOUT_MS = 20_000


def outcome(transport: Any, called: Method) -> str:
    """Call a method with an empty request; return "answered" or the name of the refusal."""
    try:
        if called.gives_rows:
            transport.scan(called, called.request(), TIMEOUT_MS).close()
        else:
            tables = [] if called.takes_rows else None
            transport.call(called, called.request(), TIMEOUT_MS, tables)
    except (AuthenticationError, RoleError) as error:
        return type(error).__name__
    except (flight.FlightUnauthenticatedError, flight.FlightUnauthorizedError) as error:
        return type(error).__name__
    except (TheFlashError, flight.FlightError, grpc.RpcError):
        return "answered"
    return "answered"


def _unary_over_grpc(target: Target, called: Method) -> bool:
    return target.protocol != "frames" and not called.is_unary


def _expected(called: Method, role: Role | AccessToken | None, *, has_tokens: bool) -> str:
    if not has_tokens:
        return "answered"
    if not isinstance(role, Role):
        return "AuthenticationError"
    return "answered" if role >= called.role else "RoleError"


def _cases(target: Target) -> Iterator[tuple[str, Method]]:
    methods = list(METHODS.values())
    for number, credential in enumerate(CREDENTIALS):
        # With frames, a token is checked before a method is named.
        step = 12 if target.protocol == "frames" and number < 2 else 3
        yield from (
            (credential, called) for called in methods[number :: step if target.is_short else 1]
        )


@attack("tcp", "unix", "tls", "mtls", "learn")
def methods_by_credentials(target: Target) -> str:
    """Call every method with no token, a wrong one, and one of each role."""
    count = 0
    transports: dict[str, Any] = {}
    try:
        for credential, called in _cases(target):
            who = CREDENTIALS[credential]
            if _unary_over_grpc(target, called):
                continue
            if credential not in transports:
                transports[credential] = target.server.transport(target.protocol, who)
            expected = _expected(called, who, has_tokens=target.server.has_tokens)
            if (
                expected == "answered"
                and called.role is Role.ADMIN
                and called.name != "ListLatches"
            ):
                continue  # a permitted command changes the store
            actual = outcome(transports[credential], called)
            breach_if(actual != expected, f"{called.name} with token {credential}: {actual}")
            count += 1
    finally:
        for transport in transports.values():
            transport.close()
    return f"{count} calls"


@attack("tcp", "mtls", over=["grpc"])
def undeclared_methods(target: Target) -> str:
    """Call methods by paths that are not in the service, with the token of an administrator."""
    paths = ("Scan", "Write", "OpenWriter", "Publish", "__init__", "close", "../GetStatus", "")
    with closing(target.server.transport("grpc", Role.ADMIN)) as transport:
        codes = {path: _code(transport, path) for path in paths}
    refused = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED)
    breach_if(not set(codes.values()) <= set(refused), f"{codes}")
    return f"{len(paths)} paths"


def _code(transport: Any, path: str) -> Any:
    try:
        transport.raw(path, encode(METHODS["GetStatus"].request()), TIMEOUT_MS)
    except grpc.RpcError as error:
        return error.code()
    return None
