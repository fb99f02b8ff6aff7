"""Errors of service calls."""

from pyspark_theflash.base.errors.base import TheFlashError


class ServiceUnavailableError(TheFlashError):
    """A server does not respond, or reports that it is temporarily unavailable."""

    retryable = True
    address: str
    reason: str
    template = "{address} is not available: {reason}"


class ServiceRefusedError(TheFlashError):
    """A server responds with an error that a retry does not resolve."""

    address: str
    reason: str
    template = "{address} refuses: {reason}"


class StreamCutError(ServiceUnavailableError):
    """A stream of rows ended before its end marker; the received rows are incomplete."""


class ProtocolError(TheFlashError):
    """Data on a connection violates the protocol: no frame, an unexpected or too large one."""

    address: str
    reason: str
    template = "{address}: {reason}"


class AuthenticationError(TheFlashError):
    """A server cannot authenticate the caller: the token is missing or unknown."""

    address: str
    reason: str
    template = "{address} does not let us in: {reason}"


class RoleError(TheFlashError):
    """The role of the caller's token does not permit a call."""

    method: str
    needed: str
    role: str
    template = "{method} needs a token with role {needed}, this one has {role}"


class UnknownMethodError(TheFlashError):
    """The server does not have a method; it may be another version."""

    method: str
    template = "there is no method {method!r}"


class TicketError(TheFlashError):
    """A ticket or handle was not issued by this store or to this caller, or was modified."""

    what: str
    reason: str
    template = "this {what} cannot be used: {reason}"


class DeadlineExceededError(TheFlashError):
    """A call did not complete by its deadline."""

    retryable = True
    method: str
    deadline_ms: int
    template = "{method} was not done within {deadline_ms} ms"


class CallCancelledError(TheFlashError):
    """A call was cancelled by its caller."""

    method: str
    template = "{method} was cancelled"
