"""Who may send to the collector, and read: a bearer token each, and learners' own.

Tokens stand in `tokens.json` in the collector's folder, as SHA-256 only: a token is 256
random bits, so there is nothing to guess that a slow hash would protect. A learner
token is a JWT (HS256) that the LMS signs; its `sub` is the only learner whose events
the request may carry, and of whom it may read.
"""

import contextlib
import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ingest.contracts.events import event_types
from ingest.errors import WarehouseError
from ingest.store.files import lock, read_regular, write_durably

TOKEN_PREFIX = "lmsw_"
DEFAULT_RATE = 1000.0
SHORTEST_SECRET = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Token:
    """A right to send, to read, or both.

    `sources` are the origins it may write for, none for who may not send; the first is
    that of events which name none. `types` are the event types it may send, all if
    empty. With `reads` it may ask the read API. `rate` is in events, or requests to
    read, a second. With `needs_learner` each request has to bring a learner token, too.
    """

    name: str
    sha256: str
    sources: tuple[str, ...]
    rate: float = DEFAULT_RATE
    types: tuple[str, ...] = ()
    needs_learner: bool = False
    created_at: str = ""
    revoked_at: str | None = None
    reads: bool = False

    @property
    def is_active(self) -> bool:
        return self.revoked_at is None


@dataclass(frozen=True)
class TokenBook:
    """All tokens that were ever made, in that order."""

    tokens: tuple[Token, ...] = ()
    _active: dict[str, Token] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        active = {token.sha256: token for token in self.tokens if token.is_active}
        object.__setattr__(self, "_active", active)

    def find(self, text: str) -> Token | None:
        """The active token with this text; its hash is looked up, so time tells
        nothing about the text."""
        return self._active.get(hash_of(text))


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def read(path: Path) -> TokenBook:
    """No file, no tokens. Raises `WarehouseError`."""
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return TokenBook()
    except OSError as error:
        raise WarehouseError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return TokenBook(msgspec.json.decode(content, type=tuple[Token, ...]))
    except msgspec.DecodeError as error:
        raise WarehouseError(
            f"{path}: no file of tokens ({error}); put back what was there"
        ) from error


def create(
    path: Path,
    name: str,
    *,
    sources: Sequence[str],
    types: Sequence[str] = (),
    rate: float = DEFAULT_RATE,
    needs_learner: bool = False,
    reads: bool = False,
) -> tuple[Token, str]:
    """Adds a token; it and its text, which is nowhere else. Raises `WarehouseError`."""
    for value, what in ((name, "name"), *((source, "--source") for source in sources)):
        if not _NAME.fullmatch(value):
            raise WarehouseError(
                f"{what} {value!r}: expected 1 to 64 letters, digits, dots, dashes and "
                "underscores"
            )
    if not sources and not reads:
        raise WarehouseError(
            "--source: name at least one, like web-player; or --reads, for who only "
            "reads"
        )
    if unknown := sorted(set(types) - set(event_types())):
        raise WarehouseError(
            f"--type {unknown[0]}: no contract has it; there are "
            f"{', '.join(event_types())}"
        )
    if not 0 < rate <= 1_000_000:
        raise WarehouseError(f"--rate {rate:g}: expected more than 0, to 1000000")
    text = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = Token(
        name=name,
        sha256=hash_of(text),
        sources=tuple(dict.fromkeys(sources)),
        rate=rate,
        types=tuple(dict.fromkeys(types)),
        needs_learner=needs_learner,
        created_at=_now(),
        reads=reads,
    )
    with _changing(path):
        book = read(path)
        if any(known.name == name and known.is_active for known in book.tokens):
            raise WarehouseError(
                f"{name}: there is an active token of that name; choose another, or "
                f"`warehouse tokens revoke {name}` first"
            )
        _write(path, (*book.tokens, token))
    return token, text


def revoke(path: Path, name: str) -> Token:
    """Ends a token at once, in a running collector, too. Raises `WarehouseError`."""
    with _changing(path):
        book = read(path)
        active = [t for t in book.tokens if t.name == name and t.is_active]
        if not active:
            raise WarehouseError(
                f"{name}: no active token of that name; `warehouse tokens list` shows "
                "which there are"
            )
        revoked = replace(active[0], revoked_at=_now())
        _write(path, tuple(revoked if t is active[0] else t for t in book.tokens))
    return revoked


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One change at a time; and what the disk says, in one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise WarehouseError(
            f"{path}: cannot be written ({error.strerror or error}); make the folder "
            "writable"
        ) from error


def _write(path: Path, tokens: tuple[Token, ...]) -> None:
    content = msgspec.json.format(msgspec.json.encode(tokens)) + b"\n"
    write_durably(path, content, mode=0o600)


# --- learners' tokens ----------------------------------------------------------------


def checked_secret(secret: str | None) -> str | None:
    """What learner tokens are signed with. Raises `WarehouseError` where it is too
    short to be a secret."""
    if secret and len(secret) < SHORTEST_SECRET:
        raise WarehouseError(
            f"LMS_LEARNER_SECRET: too short; give at least {SHORTEST_SECRET} random "
            "characters, such as `openssl rand -hex 32` prints"
        )
    return secret


def learner_of(text: str, secret: str) -> str | None:
    """The learner that a learner token is for; None for one that is forged or over."""
    import jwt  # 0.1 s that only who has learners' tokens pays

    try:
        claims = jwt.decode(
            text, secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
        )
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        return None
    return str(claims["sub"]) or None


def learner_token(user_id: str, secret: str, *, valid_sec: int) -> str:
    """What the LMS's server signs for a browser; any JWT library does the same."""
    import jwt

    expires = int(datetime.now(UTC).timestamp()) + valid_sec
    return jwt.encode({"sub": user_id, "exp": expires}, secret, algorithm="HS256")
