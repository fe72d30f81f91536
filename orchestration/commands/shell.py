"""`warehouse shell`: questions from a terminal or a pipe, one after the other.

DuckDB's own shell cannot take its place yet: on PyPI `duckdb-cli` ends at 1.5.6, and
1.5 refuses files of DuckDB 2.0, which snapshots are. It would replace some 70 lines.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ingest.errors import WarehouseError
from orchestration.commands.terminal import (
    ROWS_SHOWN,
    errors,
    output,
    print_answer,
)
from serving import published
from serving.query import RELATIONS, ask


def answer_questions(warehouse_path: Path) -> bool:
    """Answers questions until there are no more; whether all of them could be.

    On a terminal one that fails is told and asked again; from a pipe it is the last.
    """
    with published.opened(warehouse_path) as connection:
        names = [name for (name,) in connection.execute(RELATIONS).fetchall()]
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
                is_long = interactive and not question.startswith(".")
                most = ROWS_SHOWN if is_long else None
                answer = ask(connection, _as_sql(question), most)
            except WarehouseError as error:
                errors.print(f"error: {error}")
                if not interactive:
                    return False
                continue
            print_answer(answer.columns, answer.rows)
            if answer.is_cut:
                errors.print(
                    f"note: the first {ROWS_SHOWN} rows; `warehouse query --all` shows "
                    "all"
                )
    return True


def _as_sql(question: str) -> str:
    if question == ".tables":
        return RELATIONS
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
