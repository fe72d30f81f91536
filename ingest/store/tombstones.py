"""Tombstones: that a learner was erased, without saying who it was.

A tombstone is an HMAC-SHA256 of the user id. Its key stands outside of the warehouse's
file: in `LMS_ERASURE_KEY`, or else in a file beside it that the first erasure makes.
Who has the warehouse without the key cannot find out who was erased by trying ids.
"""

import hmac
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError
from ingest.settings import Settings
from ingest.store import database, journal
from ingest.store.files import read_regular, write_durably

KEY_VARIABLE = "LMS_ERASURE_KEY"
SHORTEST_KEY = 32


@dataclass(frozen=True)
class Key:
    """What ids are hashed with; `key_id` tells two keys apart and gives neither away.

    `source` is where it comes from, for messages.
    """

    value: bytes = field(repr=False)
    source: str

    def hash_of(self, user_id: str) -> str:
        return hmac.digest(self.value, user_id.encode(), "sha256").hex()

    @property
    def key_id(self) -> str:
        # 257 characters: no user id has as many.
        return self.hash_of("key".ljust(257))[:16]


@dataclass(frozen=True)
class Tombstones:
    """Those of all erased learners."""

    hashes: frozenset[str]
    key: Key

    def erased(self, user_ids: Iterable[str]) -> list[str]:
        """Those of the ids that are of an erased learner."""
        return [each for each in user_ids if self.key.hash_of(each) in self.hashes]


def read(connection: duckdb.DuckDBPyConnection) -> Tombstones | None:
    """None if nobody was erased. Raises `WarehouseError` without the right key:
    whoever was erased would come back unnoticed."""
    rows = connection.execute("select user_hash, key_id from raw.tombstone").fetchall()
    if not rows:
        return None
    path = database.path_of(connection)
    key = _known_key(path)
    if key is None:
        raise WarehouseError(
            f"{path}: learners were erased from it, and the key of their tombstones is "
            f"missing; put back {key_file(path)}, or set {KEY_VARIABLE}"
        )
    if {key_id for _, key_id in rows} != {key.key_id}:
        raise WarehouseError(
            f"{key.source}: not the key that the tombstones in {path} were made with; "
            "use that one"
        )
    return Tombstones(frozenset(user_hash for user_hash, _ in rows), key)


def put(
    connection: duckdb.DuckDBPyConnection,
    user_ids: Sequence[str],
    *,
    reason: str,
    erased_at: datetime,
) -> int:
    """Leaves a tombstone for each id that has none; how many. Makes the key first.

    Raises `WarehouseError` where the key is wrong or cannot be made.
    """
    tombstones = read(connection)
    if tombstones:
        known, key = tombstones.hashes, tombstones.key
    else:
        path = database.path_of(connection)
        known, key = frozenset[str](), _known_key(path) or _make_key(path)
    new = sorted({key.hash_of(user_id) for user_id in user_ids} - known)
    if new:
        connection.execute(
            """
            insert into raw.tombstone by name
            select
                unnest($user_hash) as user_hash,
                $key_id as key_id,
                $erased_at::timestamp as erased_at,
                $reason as reason
            """,
            {
                "user_hash": new,
                "key_id": key.key_id,
                "erased_at": erased_at,
                "reason": reason,
            },
        )
    try:
        journal.note_tombstones(connection)
    except OSError as error:
        raise WarehouseError(
            f"{journal.file_of(database.path_of(connection))}: cannot be written "
            f"({error.strerror}); mend that and run the same again: a restore reads "
            "there who was erased"
        ) from error
    return len(new)


def key_file(warehouse_path: Path) -> Path:
    return warehouse_path.with_name(f"{warehouse_path.name}.erasure-key")


def _known_key(warehouse_path: Path) -> Key | None:
    text = Settings.from_environment().erasure_key
    source = KEY_VARIABLE
    if not text:
        path = key_file(warehouse_path)
        source = str(path)
        try:
            text = read_regular(path).decode("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise WarehouseError(f"{path}: cannot be read ({error})") from error
    if len(text) < SHORTEST_KEY:
        raise WarehouseError(
            f"{source}: too short for a key; give at least {SHORTEST_KEY} random "
            "characters, such as `openssl rand -hex 32` prints"
        )
    return Key(text.encode(), source)


def _make_key(warehouse_path: Path) -> Key:
    path = key_file(warehouse_path)
    text = secrets.token_hex(32)
    try:
        write_durably(path, f"{text}\n".encode(), mode=0o600)
    except OSError as error:
        raise WarehouseError(
            f"{path}: the key cannot be written ({error.strerror}); make the folder "
            f"writable, or set {KEY_VARIABLE}"
        ) from error
    return Key(text.encode(), str(path))


# --- whom a line is about ------------------------------------------------------------

_TEXT = r'"((?:[^"\\]|\\.)*)(?:"|$)'  # a torn line may end within one
_USER_ID = re.compile(rf'"user_id"\s*:\s*{_TEXT}')
_ANY_TEXT = re.compile(_TEXT)
# Ids of usual make that stand in no quotes: with dots, @ and + in them, and without.
_WORDS = (re.compile(r"[\w.@+-]+"), re.compile(r"[\w-]+"))


def learners_of(line: bytes) -> set[str]:
    """The ids of whom a line that no contract accepts may be about.

    It is about whom its `user_id` names, once or several times. Where it names nobody
    (broken JSON, say), every text and every word in it may be an id.
    """
    text = line.decode(errors="replace")
    named = {_unescaped(found) for found in _USER_ID.findall(text)}
    if named:
        return named
    found = {_unescaped(quoted) for quoted in _ANY_TEXT.findall(text)}
    return found.union(*(words.findall(text) for words in _WORDS))


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text
