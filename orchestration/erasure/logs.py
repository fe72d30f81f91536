"""Erasing learners from Dagster's folder: its logs show sample rows, and runs name ids.

Dagster keeps SQLite files and text there. What names a learner goes by the row and by
the line, whatever else it says: it is a log, and the warehouse keeps its own place.
"""

import contextlib
import json
import re
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ingest.landing import lines
from ingest.store import database
from ingest.store.files import write_durably

_SCANNED_BYTES = 16 * 1024 * 1024

# Tables that Dagster reads its own state from are left alone, and so is the row of a
# run that is under way: its file is then among those that the caller lists.
_LOG_TABLES = {
    "event_logs": "true",
    "asset_keys": "true",
    "asset_event_tags": "true",
    "asset_check_executions": "true",
    "runs": "status in ('SUCCESS', 'FAILURE', 'CANCELED')",
    "run_tags": "true",
    "job_ticks": "true",
}

_LOG_SUFFIXES = (".err", ".out", ".log")


@dataclass(frozen=True)
class Names:
    """Learners' ids as they may stand in a file: as a word, plain or escaped."""

    spellings: tuple[str, ...]

    @classmethod
    def of(cls, user_ids: Collection[str]) -> "Names":
        plain = {
            spelling
            for user_id in user_ids
            for spelling in (user_id, repr(user_id)[1:-1])
        }
        once = {json.dumps(spelling)[1:-1] for spelling in plain}
        twice = {json.dumps(spelling)[1:-1] for spelling in once}
        return cls(tuple(sorted(plain | once | twice)))

    @property
    def _pattern(self) -> re.Pattern[bytes]:
        words = b"|".join(re.escape(each.encode()) for each in self.spellings)
        return re.compile(rb"(?<![\w-])(?:%s)(?![\w-])" % words)

    def are_in(self, content: bytes) -> bool:
        return bool(self._pattern.search(content))

    def are_in_file(self, file: Path) -> bool:
        """Reads packed event files unpacked. Plain search first: it is faster."""
        plain = [each.encode() for each in self.spellings]
        pattern = self._pattern
        overlap = 2 * max(map(len, plain))
        buffer = b""
        part = bytearray(_SCANNED_BYTES)
        with contextlib.closing(lines.EventFile(file)) as opened:
            source = opened.source()
            while count := source.readinto(memoryview(part)):
                buffer = buffer[-overlap:] + part[:count]
                if any(each in buffer for each in plain) and pattern.search(buffer):
                    return True
        return False


def erase_logs(folder: Path, names: Names, *, dry_run: bool) -> dict[str, int]:
    """The rows and lines that are gone (on a `dry_run`, would be), by file.

    What Dagster holds open stays and still names the learners: look again afterwards.
    """
    gone = {}
    for file in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError, sqlite3.Error):
            if file.is_symlink() or not file.is_file():
                continue
            if file.suffix == ".db":
                gone[str(file)] = _erase_rows(file, names, dry_run)
            elif file.suffix in _LOG_SUFFIXES:
                gone[str(file)] = _erase_lines(file, names, dry_run)
    return {name: count for name, count in gone.items() if count}


def _erase_lines(file: Path, names: Names, dry_run: bool) -> int:
    if not names.are_in_file(file):
        return 0
    all_lines = file.read_bytes().splitlines(keepends=True)
    kept = [line for line in all_lines if not names.are_in(line)]
    if not dry_run:
        write_durably(file, b"".join(kept))
    return len(all_lines) - len(kept)


def _erase_rows(file: Path, names: Names, dry_run: bool) -> int:
    """Also rewrites the file, whose free pages may hold what was deleted before."""
    wal = file.with_name(f"{file.name}-wal")
    if not any(names.are_in_file(path) for path in (file, wal) if path.exists()):
        return 0
    with contextlib.closing(_opened(file)) as connection:
        connection.create_function(
            "names_learner", 1, lambda text: names.are_in(str(text).encode())
        )
        count = 0
        for table, text_columns, condition in _log_tables(connection):
            named = " or ".join(f'names_learner("{name}")' for name in text_columns)
            where = f'"{table}" where ({named}) and {condition}'
            [found] = connection.execute(f"select count(*) from {where}").fetchone()
            count += found
            if found and not dry_run:
                connection.execute(f"delete from {where}")
        if not dry_run:
            connection.execute("vacuum")
            connection.execute("pragma wal_checkpoint(truncate)")
    return count


def _opened(file: Path) -> sqlite3.Connection:
    """For writing, also to read: a reader would leave its lock files behind."""
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=database.lock_wait_sec(),
        isolation_level=None,
    )
    connection.execute("pragma secure_delete = on")
    return connection


def _log_tables(
    connection: sqlite3.Connection,
) -> Iterator[tuple[str, list[str], str]]:
    """The tables of Dagster's that are logs: name, text columns, which rows may go."""
    there = connection.execute(
        "select name from sqlite_master where type = 'table'"
    ).fetchall()
    for (table,) in there:
        if condition := _LOG_TABLES.get(table):
            columns = connection.execute(f"pragma table_info('{table}')").fetchall()
            text = [
                name
                for _, name, kind, *_ in columns
                if kind.upper().startswith(("TEXT", "VARCHAR"))
            ]
            if text:
                yield table, text, condition
