"""Who may call: tokens with roles, and how one is shown without being said.

A tokens file has a line for each: a role (`read`, `write`, `admin`) and the token itself or
`sha256d:` and the SHA-256 of its SHA-256 in hex. Empty lines and what follows `#` do not count.

Over a socket a token is proved, not sent (the scheme is SCRAM's):

    key = SHA-256(token)    stored = SHA-256(key)    proof = key XOR HMAC-SHA-256(stored, nonce)

The server knows `stored` only and makes a new nonce for each connection, so neither its file nor
what was once heard on a connection lets anybody in.
"""

import hashlib
import hmac
import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.service.wire.method import Role

PROOF_BYTES: Final = 32
TOKEN_CHARS_MIN: Final = 16
_HASHED: Final = "sha256d:"
_CONTEXT: Final = b"theflash v1"
_FILE_BYTES_MAX: Final = 1 << 20
_TOKENS_MAX: Final = 1000
_OPTION: Final = "tokens"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A caller's token. It is never shown."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        """Raises `OptionError`."""
        if not _is_token(self.value):
            reason = f"is not of {TOKEN_CHARS_MIN} or more printable ASCII characters"
            raise OptionError("token", reason)

    @classmethod
    def from_file(cls, path: Path) -> "AccessToken":
        """The first line of a file that only we can read. Raises `OptionError`."""
        return cls(_read_private(path).partition("\n")[0].strip())

    def proof(self, nonce: bytes) -> bytes:
        """What shows that we have the token, once."""
        key = _sha256(self.value.encode())
        return _xor(key, _mask(_sha256(key), nonce))


class Tokens:
    """A server's tokens, read anew when their file changes, so that one can be taken back."""

    def __init__(self, path: Path) -> None:
        """Raises `OptionError`: the file cannot be used, or others can read it."""
        self._path, self._mutex = path, threading.Lock()
        self._seen: object = None
        self._roles: dict[bytes, Role] = {}
        self._known()

    def by_proof(self, nonce: bytes, proof: bytes) -> bytes | None:
        """The stored form of the token that a proof shows; None if it shows none."""
        found = None
        if len(proof) == PROOF_BYTES:
            for stored in self._known():
                key = _xor(proof, _mask(stored, nonce))
                if hmac.compare_digest(_sha256(key), stored):
                    found = stored
        return found

    def by_token(self, token: str) -> bytes | None:
        """The stored form of a token that was said; None if it is not known."""
        said, found = _sha256(_sha256(token.encode("utf-8", "surrogatepass"))), None
        for stored in self._known():
            if hmac.compare_digest(said, stored):
                found = stored
        return found

    def role(self, stored: bytes) -> Role | None:
        """What whoever has that token may do now; None if it was taken back."""
        return self._known().get(stored)

    def _known(self) -> dict[bytes, Role]:
        with self._mutex:
            try:
                status = self._path.stat()
            except OSError as error:
                raise OptionError(_OPTION, f"cannot read {self._path}: {error.strerror}") from error
            seen = (status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode)
            if seen != self._seen:
                self._roles = _parse(_read_private(self._path))
                self._seen = seen
            return self._roles


def identity_of(stored: bytes) -> str:
    """What tells callers apart by their tokens, and shows nothing of these."""
    return f"token {_sha256(_CONTEXT + stored).hex()[:8]}"


def _parse(text: str) -> dict[bytes, Role]:
    roles: dict[bytes, Role] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0].upper() not in Role.__members__:
            reason = f"line {number} is not `read`, `write` or `admin` and a token"
            raise OptionError(_OPTION, reason)
        roles[_stored(words[1], number)] = Role[words[0].upper()]
    if not 0 < len(roles) <= _TOKENS_MAX:
        raise OptionError(_OPTION, f"there are {len(roles)} tokens, and 1 to {_TOKENS_MAX} may be")
    return roles


def _stored(word: str, number: int) -> bytes:
    if word.startswith(_HASHED):
        digits = word.removeprefix(_HASHED)
        if len(digits) != 64 or not set(digits.lower()) <= set("0123456789abcdef"):
            raise OptionError(_OPTION, f"line {number}: `{_HASHED}` and 64 hex digits are wanted")
        return bytes.fromhex(digits)
    if not _is_token(word):
        reason = f"line {number}: a token has {TOKEN_CHARS_MIN} or more printable ASCII characters"
        raise OptionError(_OPTION, reason)
    return _sha256(_sha256(word.encode()))


def _is_token(text: str) -> bool:
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(" #")
    return is_plain and len(text) >= TOKEN_CHARS_MIN


def _read_private(path: Path) -> str:
    """A small file that nobody else can read. Raises `OptionError`."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (os.geteuid(), 0):
                raise OptionError(_OPTION, f"{path} belongs to somebody else")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise OptionError(_OPTION, f"{path} can be read by others: chmod 600 it")
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise OptionError(_OPTION, f"cannot read {path}: {error.strerror}") from error
    if len(content) > _FILE_BYTES_MAX:
        raise OptionError(_OPTION, f"{path} is larger than {_FILE_BYTES_MAX} bytes")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise OptionError(_OPTION, f"{path} is not ASCII") from None


def _mask(stored: bytes, nonce: bytes) -> bytes:
    return hmac.new(stored, _CONTEXT + nonce, hashlib.sha256).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
