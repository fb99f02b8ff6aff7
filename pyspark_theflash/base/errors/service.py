"""Calls of services, and what becomes of them."""

from pyspark_theflash.base.errors.base import TheFlashError


class ServiceUnavailableError(TheFlashError):
    """A server that does not answer, or says itself that it cannot just now."""

    retryable = True

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} is not available: {self.reason}"


class ServiceRefusedError(TheFlashError):
    """A server that answers, with an error that asking again does not mend."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} refuses: {self.reason}"


class StreamCutError(ServiceUnavailableError):
    """Rows that stopped before their end was told; what came is not the whole answer."""


class ProtocolError(TheFlashError):
    """What comes over a connection is not what was agreed on: no frame, a wrong one, too large."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class AuthenticationError(TheFlashError):
    """A server that does not know who is calling: no token, or not one of its own."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} does not let us in: {self.reason}"


class RoleError(TheFlashError):
    """A call that the caller's token is not good for."""

    def __init__(self, method: str, needed: str, role: str) -> None:
        super().__init__(method, needed, role)
        self.method, self.needed, self.role = method, needed, role

    def __str__(self) -> str:
        return f"{self.method} needs a token with role {self.needed}, and this one has {self.role}"


class UnknownMethodError(TheFlashError):
    """A call that the server does not have; it may be of another version."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"there is no call {self.method!r}"


class TicketError(TheFlashError):
    """A ticket or handle that this store did not give out, or not as it is now."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"this {self.what} cannot be used: {self.reason}"


class DeadlineExceededError(TheFlashError):
    """A call that was not done by its deadline."""

    retryable = True

    def __init__(self, method: str, deadline_ms: int) -> None:
        super().__init__(method, deadline_ms)
        self.method, self.deadline_ms = method, deadline_ms

    def __str__(self) -> str:
        return f"{self.method} was not done within {self.deadline_ms} ms"


class CallCancelledError(TheFlashError):
    """A call that its caller gave up."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"{self.method} was cancelled"
