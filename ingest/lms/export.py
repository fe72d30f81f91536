"""An export of the LMS, opened so that nothing in it can do anything.

The LMS keeps its data in SQLite (Cloudflare D1). An export is that database, or the SQL
dump that `wrangler d1 export` writes of it. A database is opened for reading only and
never changed. A dump is run by SQLite itself, statement by statement, in a nameless
private database whose authorizer lets it create tables and views and insert rows: what
else it says is skipped (indexes and triggers, of which no answer depends) or refused.
"""

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ingest.errors import WarehouseError
from ingest.store.files import open_regular

EVENTS = "lms_event"
COURSES = "lms_course"
CLASSES = "lms_class"
PROGRESS = "v_user_progress"
CRM_EVENTS = "crm_event"
SIGNALS = "lms_signal"
LEADERBOARD = "v_leaderboard"

# How long one query on an export may run: a view of it can be made to run for ever.
LONGEST_QUERY_SEC = 300.0
_STEPS_BETWEEN_LOOKS = 100_000
# D1 lets a row have 2 MB; the text of one in a dump is up to twice that and more.
_LONGEST_VALUE = 16 * 1024 * 1024
# What a dump's rows may take up beyond the size of the dump.
_SPARE_BYTES = 64 * 1024 * 1024
_PAGE_BYTES = 4096

_MAGIC = b"SQLite format 3\0"
_ACTIONS = {
    getattr(sqlite3, f"SQLITE_{name.replace(' ', '_')}"): name
    for name in (
        *("ALTER TABLE", "ANALYZE", "ATTACH", "CREATE INDEX", "CREATE TABLE"),
        *("CREATE TEMP INDEX", "CREATE TEMP TABLE", "CREATE TEMP TRIGGER"),
        *("CREATE TEMP VIEW", "CREATE TRIGGER", "CREATE VIEW", "CREATE VTABLE"),
        *("DELETE", "DETACH", "DROP INDEX", "DROP TABLE", "DROP TRIGGER", "DROP VIEW"),
        *("FUNCTION", "INSERT", "PRAGMA", "READ", "RECURSIVE", "REINDEX", "SAVEPOINT"),
        *("SELECT", "TRANSACTION", "UPDATE"),
    )
}
# What a dump may compute with: how it spells line breaks, and what checks, defaults and
# generated columns of a schema usually call. None of them grows what it is given, but
# `replace`, which the longest value bounds.
_FUNCTIONS_OF_A_DUMP = frozenset(
    (
        *("replace", "char", "unistr", "json_valid", "json_extract", "json_type"),
        *("json", "->", "->>", "length", "lower", "upper", "trim", "typeof", "abs"),
        *("coalesce", "ifnull", "nullif", "iif", "instr", "substr", "like", "glob"),
        *("round", "min", "max", "date", "time", "datetime", "julianday", "strftime"),
        *("unixepoch", "hex", "current_timestamp"),
    )
)


@dataclass(frozen=True)
class Export:
    """An export that is open; `columns` are those of each table or view that it has."""

    path: Path
    connection: sqlite3.Connection
    columns: dict[str, tuple[str, ...]]

    def has(self, table: str) -> bool:
        return table in self.columns

    def rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Of a query on the export. Raises `WarehouseError` where it cannot be run."""
        deadline = time.monotonic() + LONGEST_QUERY_SEC
        self.connection.set_progress_handler(
            lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS
        )
        try:
            yield from self.connection.execute(query)
        except sqlite3.Error as error:
            reason = str(error)
            if reason == "interrupted":
                reason = f"a query took longer than {LONGEST_QUERY_SEC:g} s"
            raise WarehouseError(
                f"{self.path}: cannot be read ({reason}); export it again"
            ) from error

    def require(self, table: str, names: Sequence[str]) -> None:
        """Raises `WarehouseError` unless the table is there with these columns."""
        if not self.has(table):
            raise WarehouseError(
                f"{self.path}: no table {table}; expected an export of the LMS's "
                "database (`wrangler d1 export NAME --remote --output FILE`)"
            )
        missing = [name for name in names if name not in self.columns[table]]
        if missing:
            raise WarehouseError(
                f"{self.path}: {table} has no column {', '.join(missing)}; "
                "export the whole database again"
            )

    def column(self, table: str, name: str) -> str:
        """SQL for a column that may not be there: then NULL."""
        return f'"{name}"' if name in self.columns[table] else "null"


@contextlib.contextmanager
def open_export(path: Path) -> Iterator[Export]:
    """The export at `path`. Raises `WarehouseError`; nothing there is ever changed."""
    try:
        with open_regular(path) as file:
            is_database = file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise WarehouseError(
            f"{path}: cannot be read ({error.strerror}); expected a SQLite database, "
            "or the SQL dump of one"
        ) from error
    with contextlib.ExitStack() as stack:
        if is_database:
            connection = stack.enter_context(_opened_database(path))
        else:
            connection = stack.enter_context(contextlib.closing(_loaded_dump(path)))
        yield _export(path, connection)


def _export(path: Path, connection: sqlite3.Connection) -> Export:
    # What is no UTF-8 is carried on, so that its row alone is refused.
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    connection.execute("pragma trusted_schema = off")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    connection.set_authorizer(_reading)
    export = Export(path, connection, {})
    tables = {
        name
        for (name,) in export.rows(
            "select name from sqlite_master where type in ('table', 'view')"
        )
    }
    known = {EVENTS, COURSES, CLASSES, PROGRESS, CRM_EVENTS, SIGNALS, LEADERBOARD}
    for table in known & tables:
        try:
            cursor = connection.execute(f'select * from "{table}" limit 0')
        except sqlite3.Error as error:
            if table == LEADERBOARD:
                continue  # a view, of tables that may not be in the export
            raise WarehouseError(
                f"{path}: {table} cannot be read ({error}); export the whole database"
            ) from error
        export.columns[table] = tuple(name for name, *_ in cursor.description)
    return export


def _reading(action: int, _about: str | None, name: str | None, *_: str | None) -> int:
    """The authorizer while an export is read."""
    allowed = (
        *(sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE),
        sqlite3.SQLITE_FUNCTION,
    )
    if action in allowed and name != "load_extension":
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


# --- a database ----------------------------------------------------------------------


@contextlib.contextmanager
def _opened_database(path: Path) -> Iterator[sqlite3.Connection]:
    logs = [path.with_name(path.name + end) for end in ("-wal", "-journal")]
    with contextlib.ExitStack() as stack:
        if any(log.exists() and log.stat().st_size for log in logs):
            # Part of it is still in its log, and SQLite reads a log by writing beside
            # it: a copy is read.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lms-"))
            for file in (path, *logs):
                if file.exists():
                    shutil.copy2(file, folder)
            uri = f"file:{quote(f'{folder}/{path.name}')}"
        else:
            uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        stack.enter_context(contextlib.closing(connection))
        try:
            connection.execute("select count(*) from sqlite_master")
        except sqlite3.Error as error:
            raise WarehouseError(
                f"{path}: a damaged SQLite database ({error}); export it again"
            ) from error
        yield connection


# --- a dump --------------------------------------------------------------------------


class _Loading:
    """The authorizer while a dump is run; remembers what it refused."""

    def __init__(self) -> None:
        self.refused: str | None = None

    def __call__(
        self, action: int, first: str | None, second: str | None, *_where: str | None
    ) -> int:
        name = _ACTIONS.get(action, "what it says")
        match name:
            case "CREATE TABLE" | "CREATE VIEW" | "INSERT" | "READ":
                return sqlite3.SQLITE_OK
            case "UPDATE" if first in ("sqlite_master", "sqlite_schema"):
                # SQLite's own, within CREATE; a dump cannot write there.
                return sqlite3.SQLITE_OK
            case "CREATE INDEX" if str(first).startswith("sqlite_autoindex_"):
                return sqlite3.SQLITE_OK  # of a primary key
            case "CREATE INDEX" | "CREATE TRIGGER" | "TRANSACTION":
                return sqlite3.SQLITE_IGNORE
            case "DELETE" if first == "sqlite_sequence":
                return sqlite3.SQLITE_OK
            case "PRAGMA" if first in ("defer_foreign_keys", "foreign_keys"):
                return sqlite3.SQLITE_IGNORE
            case "FUNCTION" if str(second).lower() in _FUNCTIONS_OF_A_DUMP:
                return sqlite3.SQLITE_OK
        about = second if name == "FUNCTION" else first
        self.refused = f"{name} {about}" if about else name
        return sqlite3.SQLITE_DENY


def _loaded_dump(path: Path) -> sqlite3.Connection:
    # Nameless: SQLite keeps it in memory, and past its cache in a deleted file.
    connection = sqlite3.connect("", isolation_level=None)
    try:
        pages = (4 * path.stat().st_size + _SPARE_BYTES) // _PAGE_BYTES
        connection.execute(f"pragma page_size = {_PAGE_BYTES}")
        connection.execute(f"pragma max_page_count = {pages}")
        connection.execute("pragma journal_mode = off")
        connection.execute("pragma trusted_schema = off")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        # Leaves sqlite_sequence behind: a dump speaks of it without any such table.
        connection.execute("create table t (id integer primary key autoincrement)")
        connection.execute("drop table t")
        # One transaction over all: the dump's own BEGIN and COMMIT are skipped.
        connection.execute("begin")
        _run_dump(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _run_dump(path: Path, connection: sqlite3.Connection) -> None:
    loading = _Loading()
    connection.set_authorizer(loading)
    deadline = time.monotonic() + LONGEST_QUERY_SEC

    def is_late() -> bool:
        return time.monotonic() > deadline

    connection.set_progress_handler(is_late, _STEPS_BETWEEN_LOOKS)
    begins_at = 1
    try:
        for begins_at, statements in _statements(path):  # noqa: B007
            if statements.strip() == "ANALYZE sqlite_schema;":
                # What `wrangler` writes before the rows of sqlite_stat1.
                connection.set_authorizer(None)
                connection.execute("analyze sqlite_schema")
                connection.set_authorizer(loading)
                continue
            deadline = time.monotonic() + LONGEST_QUERY_SEC
            connection.executescript(statements)
    except (sqlite3.Error, ValueError) as error:
        raise WarehouseError(
            f"{path}: line {begins_at}: {_why_not(error, loading)}"
        ) from error
    connection.set_authorizer(None)
    connection.execute("commit")


def _why_not(error: Exception, loading: _Loading) -> str:
    if loading.refused:
        return (
            f"{loading.refused} is refused: a dump of `wrangler d1 export` creates "
            "tables and inserts rows, and nothing else; nothing was imported"
        )
    if isinstance(error, UnicodeError):
        return "not UTF-8; expected a SQLite database, or the SQL dump of one"
    if "full" in str(error):
        return "its rows take up far more room than the dump; nothing was imported"
    return (
        f"not SQL that SQLite can run ({error}); export it again "
        "(`wrangler d1 export NAME --remote --output FILE`)"
    )


def _statements(path: Path) -> Iterator[tuple[int, str]]:
    """The dump in pieces of whole statements, mostly one, and where each begins.

    Where a statement ends is for SQLite to say. It is asked where a line ends in `;`;
    after a no, only once the piece has doubled, so that a long text is not read over
    and over.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        piece: list[str] = []
        first, size, ask_at = 1, 0, 0
        for number, line in enumerate(file, 1):
            if not piece and line.isspace():
                first = number + 1
                continue
            piece.append(line)
            size += len(line)
            if size > _LONGEST_VALUE:
                raise ValueError(f"a statement of more than {_LONGEST_VALUE} bytes")
            if size > ask_at and line.rstrip().endswith(";"):
                statements = "".join(piece)
                if sqlite3.complete_statement(statements):
                    yield first, statements
                    piece, first, size, ask_at = [], number + 1, 0, 0
                else:
                    ask_at = 2 * size
        if piece:
            yield first, "".join(piece)
