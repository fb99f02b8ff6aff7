"""Tokens of callers with roles, and proofs of possession.

A tokens file has one token per line: a role (`read`, `write`, `admin`), and the token itself or
`sha256d:` and the SHA-256 of its SHA-256 in hex. Empty lines and comments after `#` are ignored.

Over a socket, a client proves that it has a token without sending it, as in SCRAM:

    key = SHA-256(token)    stored = SHA-256(key)    proof = key XOR HMAC-SHA-256(stored, nonce)

The server has only `stored` and sends a new nonce on each connection, so neither its file nor a
recorded connection is sufficient to authenticate.
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Callable, Iterable
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
    """A caller's token. Its `repr` omits the value."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        """Raises `OptionError`."""
        if not _is_token(self.value):
            reason = f"must have {TOKEN_CHARS_MIN} or more printable ASCII characters"
            raise OptionError("token", reason)

    @classmethod
    def from_file(cls, path: Path) -> "AccessToken":
        """Read a token from the first line of a private file. Raises `OptionError`."""
        return cls(read_private(path).partition("\n")[0].strip())

    def proof(self, nonce: bytes) -> bytes:
        """Return the proof that the caller has the token, for one connection."""
        key = _sha256(self.value.encode())
        return _xor(key, _mask(_sha256(key), nonce))


class Tokens:
    """A server's tokens. The file is read again when it changes, so tokens can be revoked."""

    def __init__(self, path: Path) -> None:
        """Raises `OptionError`: the file is invalid, or other users can read it."""
        self._path = path
        self._read: tuple[object, dict[bytes, Role]] = None, {}
        """The status of the file before it was read, and its tokens."""
        self._current()

    def by_proof(self, nonce: bytes, proof: bytes) -> bytes | None:
        """Return the stored form of the token that a proof is valid for, or None."""
        if len(proof) != PROOF_BYTES:
            return None
        roles = self._current()
        return _matching(roles, lambda stored: _sha256(_xor(proof, _mask(stored, nonce))))

    def by_token(self, token: str) -> tuple[bytes, Role] | None:
        """Return the stored form of a token and its role, or None if it is not valid."""
        hashed, roles = _sha256(_sha256(token.encode("utf-8", "surrogatepass"))), self._current()
        stored = _matching(roles, lambda _: hashed)
        return None if stored is None else (stored, roles[stored])

    def role(self, stored: bytes) -> Role | None:
        """Return the current role of a token; None if it was revoked."""
        return self._current().get(stored)

    def _current(self) -> dict[bytes, Role]:
        # Without a lock: calls that authenticate at the same time would wait for each other, since
        # a thread that asks for the status gives up the interpreter meanwhile.
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise OptionError(_OPTION, f"cannot read {self._path}: {error.strerror}") from error
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode)
        before, roles = self._read
        if stamp != before:
            roles = _parse(read_private(self._path))
            self._read = stamp, roles
        return roles


def _matching(stored_tokens: Iterable[bytes], hashed: Callable[[bytes], bytes]) -> bytes | None:
    """Compare with all tokens, so that the time does not depend on the one that matches."""
    match = None
    for stored in stored_tokens:
        if hmac.compare_digest(hashed(stored), stored):
            match = stored
    return match


def identity_of(stored: bytes) -> str:
    """Return an identifier of a token that does not reveal it."""
    return f"token {_sha256(_CONTEXT + stored).hex()[:16]}"


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
        raise OptionError(_OPTION, f"{len(roles)} tokens; 1 to {_TOKENS_MAX} are allowed")
    return roles


def _stored(word: str, number: int) -> bytes:
    if word.startswith(_HASHED):
        digits = word.removeprefix(_HASHED)
        if len(digits) != 64 or not set(digits.lower()) <= set("0123456789abcdef"):
            raise OptionError(_OPTION, f"line {number}: 64 hex digits must follow `{_HASHED}`")
        return bytes.fromhex(digits)
    if not _is_token(word):
        reason = f"line {number}: a token has {TOKEN_CHARS_MIN} or more printable ASCII characters"
        raise OptionError(_OPTION, reason)
    return _sha256(_sha256(word.encode()))


def _is_token(text: str) -> bool:
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(" #")
    return is_plain and len(text) >= TOKEN_CHARS_MIN


def read_private(path: Path, option: str = _OPTION) -> str:
    """Read a small file that only its owner can read. Raises `OptionError`, naming `option`."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (os.geteuid(), 0):
                raise OptionError(option, f"{path} belongs to another user")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise OptionError(option, f"{path} can be read by other users: chmod 600 it")
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise OptionError(option, f"cannot read {path}: {error.strerror}") from error
    if len(content) > _FILE_BYTES_MAX:
        raise OptionError(option, f"{path} is larger than {_FILE_BYTES_MAX} bytes")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise OptionError(option, f"{path} is not ASCII") from None


def _mask(stored: bytes, nonce: bytes) -> bytes:
    return hmac.new(stored, _CONTEXT + nonce, hashlib.sha256).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
