"""Reading the published snapshot: questions, a shell, files of whole tables."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console

from ingest.store.database import WarehouseError, first_line, sql_path
from ingest.store.files import new_file
from orchestration.commands.terminal import print_table
from orchestration.snapshot import snapshot

_RELATIONS = """
select schema_name || '.' || table_name as name from duckdb_tables()
where not internal and database_name = current_database()
union all
select schema_name || '.' || view_name as name from duckdb_views()
where not internal and database_name = current_database()
order by name
"""


@dataclass(frozen=True)
class Answer:
    """Column names and rows, in the order of the query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    """Raises `WarehouseError` with DuckDB's own words, in one line."""
    try:
        result = connection.execute(sql)
        columns = tuple(name for name, *_ in result.description or ())
        return Answer(columns, tuple(result.fetchall()))
    except duckdb.Error as error:
        raise WarehouseError(" ".join(str(error).split())) from error


@dataclass(frozen=True)
class Export:
    path: str
    format: str
    rows: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def export(
    warehouse_path: Path, table: str, form: str, path: Path | None = None
) -> Export:
    """Writes a table or view (`schema.name`) of the snapshot as a file.

    The file is whole or not there. Raises `WarehouseError`.
    """
    path = path or Path(f"{table.rsplit('.', maxsplit=1)[-1]}.{form}")
    with snapshot.opened(warehouse_path) as connection:
        names = [name for (name,) in connection.execute(_RELATIONS).fetchall()]
        if table not in names:
            likely = difflib.get_close_matches(table, names, n=3, cutoff=0.3)
            hint = f"did you mean {' or '.join(likely)}? " if likely else ""
            raise WarehouseError(
                f"{table}: no such table is published; {hint}`.tables` in `warehouse "
                "shell` lists all"
            )
        try:
            with new_file(path) as unfinished:
                rows = _write(connection, table, form, unfinished)
        except (duckdb.Error, OSError) as error:
            reason = first_line(error)
            raise WarehouseError(f"{path}: cannot be written ({reason})") from error
    return Export(str(path), form, rows, path.stat().st_size)


def _write(
    connection: duckdb.DuckDBPyConnection, table: str, form: str, path: Path
) -> int:
    if form == "arrow":
        import pyarrow as pa

        rows = 0
        batches = connection.sql(f"from {table}").to_arrow_reader()
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, batches.schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        return rows
    options = "format csv, header true" if form == "csv" else "format parquet"
    [[count]] = connection.execute(
        f"copy (from {table}) to {sql_path(path)} ({options})"
    ).fetchall()
    return int(count)


def shell(warehouse_path: Path, output: Console, errors: Console) -> bool:
    """Answers questions until there are no more; whether all of them could be.

    On a terminal one that fails is told and asked again; from a pipe it is the last.
    """
    with snapshot.opened(warehouse_path) as connection:
        names = [name for (name,) in connection.execute(_RELATIONS).fetchall()]
        [[load_id, published_at]] = connection.execute(
            "select load_id, published_at from published.snapshot"
        ).fetchall()
        interactive = sys.stdin.isatty()
        if interactive:
            output.print(
                f"The snapshot of {published_at:%Y-%m-%d %H:%M:%S} (UTC), through load "
                f"{load_id}. End a question with a semicolon; .tables, .describe "
                "TABLE, .quit",
                markup=False,
                highlight=False,
            )
        for question in _typed(names) if interactive else _piped(sys.stdin):
            if question == ".quit":
                break
            try:
                answer = ask(connection, _as_sql(question))
            except WarehouseError as error:
                errors.print(f"error: {error}")
                if not interactive:
                    return False
                continue
            print_table("", answer.columns, answer.rows)
    return True


def _as_sql(question: str) -> str:
    if question == ".tables":
        return _RELATIONS
    if question.startswith(".describe"):
        return f"describe {question.removeprefix('.describe')}"
    if question.startswith("."):
        raise WarehouseError(f"{question}: .tables, .describe TABLE or .quit")
    return question


def _piped(lines: Iterable[str]) -> Iterator[str]:
    """Questions end with a line that ends with a semicolon; the last need not."""
    question = ""
    for line in lines:
        question += line
        if not question.strip():
            question = ""
        elif question.startswith(".") or question.rstrip().endswith(";"):
            yield question.strip()
            question = ""
    if question.strip():
        yield question.strip()


def _typed(names: list[str]) -> Iterator[str]:
    """Questions from a terminal, with completion; kept nowhere."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    words = WordCompleter(
        [*names, ".tables", ".describe", ".quit"], WORD=True, match_middle=True
    )
    session: PromptSession[str] = PromptSession(
        lexer=PygmentsLexer(SqlLexer), completer=words, complete_while_typing=False
    )

    def lines() -> Iterator[str]:
        prompt = "> "
        while True:
            try:
                line = session.prompt(prompt)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            yield line + "\n"

    yield from _piped(lines())
