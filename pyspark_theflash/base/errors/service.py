"""Errors of service calls."""

from pyspark_theflash.base.errors.base import TheFlashError


class ServiceUnavailableError(TheFlashError):
    """A server does not respond, or reports that it is temporarily unavailable."""

    retryable = True

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} is not available: {self.reason}"


class ServiceRefusedError(TheFlashError):
    """A server responds with an error that a retry does not resolve."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} refuses: {self.reason}"


class StreamCutError(ServiceUnavailableError):
    """A stream of rows ended before its end marker; the received rows are incomplete."""


class ProtocolError(TheFlashError):
    """Data on a connection violates the protocol: no frame, an unexpected or too large one."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class AuthenticationError(TheFlashError):
    """A server cannot authenticate the caller: the token is missing or unknown."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} does not let us in: {self.reason}"


class RoleError(TheFlashError):
    """The role of the caller's token does not permit a call."""

    def __init__(self, method: str, needed: str, role: str) -> None:
        super().__init__(method, needed, role)
        self.method, self.needed, self.role = method, needed, role

    def __str__(self) -> str:
        return f"{self.method} needs a token with role {self.needed}, this one has {self.role}"


class UnknownMethodError(TheFlashError):
    """The server does not have a method; it may be another version."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"there is no method {self.method!r}"


class TicketError(TheFlashError):
    """A ticket or handle was not issued by this store, or was modified."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"this {self.what} cannot be used: {self.reason}"


class DeadlineExceededError(TheFlashError):
    """A call did not complete by its deadline."""

    retryable = True

    def __init__(self, method: str, deadline_ms: int) -> None:
        super().__init__(method, deadline_ms)
        self.method, self.deadline_ms = method, deadline_ms

    def __str__(self) -> str:
        return f"{self.method} was not done within {self.deadline_ms} ms"


class CallCancelledError(TheFlashError):
    """A call was cancelled by its caller."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"{self.method} was cancelled"
