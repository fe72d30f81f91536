"""Mutants of SQL: a model of dbt, or the texts in a Python file.

Found in the text, without parsing: a model is Jinja, and the SQL of the loader stands
in f-strings. Comments, Jinja and what stands in quotes are no SQL, except for the
variable that is a threshold.
"""

import ast
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.mutation.workshop import Mutant

_LIST = r"([\w.]+(?:\s+desc)?(?:,\s*[\w.]+(?:\s+desc)?)*)"
_COMPARED = {
    **{">=": ">", ">": ">=", "<=": "<", "<": "<="},
    **{"=": "<>", "<>": "=", "!=": "="},
}
_LEAST_OR_GREATEST = {"min": "max", "max": "min", "lag": "lead", "lead": "lag"}


def _without_last(found: re.Match[str]) -> str | None:
    """The list without its last name; None if it is the only one."""
    names = found[1].split(",")
    return found[0].replace(found[1], ",".join(names[:-1])) if names[1:] else None


def _reversed(found: re.Match[str]) -> str:
    *others, last = found[1].split(",")
    last = last.removesuffix(" desc") if last.endswith(" desc") else f"{last} desc"
    return found[0].replace(found[1], ",".join([*others, last]))


# What is looked for, and what stands there then.
RULES: list[tuple[str, str, Callable[[re.Match[str]], str | None]]] = [
    ("comparison", r"(?<=\s)(>=|<=|<>|!=|=|<|>)(?=\s)", lambda m: _COMPARED[m[0]]),
    (
        "threshold",
        r"(?<![\w.'$\[-])\d+(\.\d+)?(?![\w.'\]])",
        lambda m: str(float(m[0]) + 1 if m[1] else int(m[0]) + 1),
    ),
    ("tie-break", rf"\border by {_LIST}", _without_last),
    ("tie-break", rf"\border by {_LIST}", _reversed),
    (
        "tie-break",
        r"\b(min|max|lag|lead)(?=\()",
        lambda m: _LEAST_OR_GREATEST[m[0]],
    ),
    ("join", r"\bleft join\b", lambda _: "inner join"),
    ("join", r"\binner join\b", lambda _: "left join"),
    ("join", r"\bunion all\b", lambda _: "union"),
    ("window", rf"\bpartition by {_LIST}", _without_last),
    ("window", rf"\bpartition by {_LIST}(?=\s)", lambda _: ""),
]
# In Jinja, which is not looked at otherwise.
_THRESHOLD = re.compile(r"\{\{ var\('completion_threshold'\) \}\}")
_NO_SQL = re.compile(
    r"--[^\n]*|\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}|'[^'\n]*'|decimal\([^)]*\)", re.DOTALL
)
_NO_SQL_IN_A_TEXT = re.compile(
    r"--[^\n]*|\{\{|\}\}|(?<!\{)\{[^{}]*\}(?!\})|'[^'\n]*'|decimal\([^)]*\)"
)
_IS_SQL = re.compile(r"\b(select|from|case|coalesce|where|and|is null)\b")


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "_", found[0])


def _sql(text: str, file: str) -> str:
    """The text with all that is no SQL as `_`, at the places where it stands."""
    if not file.endswith(".py"):
        return _NO_SQL.sub(_blank, text)
    lines = text.splitlines(keepends=True)

    def place(line: int, byte: int) -> int:
        inside = lines[line - 1].encode()[:byte].decode()
        return sum(map(len, lines[: line - 1])) + len(inside)

    sql = re.sub(r"[^\n]", "_", text)
    tree = ast.parse(text)
    no_sql = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr | ast.Constant) or id(node) in no_sql:
            continue
        start = place(node.lineno, node.col_offset)
        end = place(node.end_lineno or 0, node.end_col_offset or 0)
        if text[end - 1] in "'\"" and _IS_SQL.search(text, start, end):
            literal = _NO_SQL_IN_A_TEXT.sub(_blank, text[start:end])
            sql = sql[:start] + literal + sql[end:]
    return sql


def _first_of_coalesce(text: str, sql: str) -> Iterator[tuple[int, int, str]]:
    for found in re.finditer(r"\bcoalesce\(", sql):
        depth, comma = 1, None
        for place in range(found.end(), len(sql)):
            depth += {"(": 1, ")": -1}.get(sql[place], 0)
            if sql[place] == "," and depth == 1 and comma is None:
                comma = place
            if depth == 0:
                yield found.start(), place + 1, f"({text[found.end() : comma]})"
                break


def mutants(text: str, file: str) -> list[Mutant]:
    """All mutants of one file's SQL, each once."""
    sql = _sql(text, file)
    found = {
        (m.start(), m.end(), new): name
        for name, pattern, change in RULES
        for m in re.finditer(pattern, sql)
        if (new := change(m)) is not None
    }
    for start, end, new in _first_of_coalesce(text, sql):
        found[start, end, new] = "coalesce"
    for m in _THRESHOLD.finditer(text):
        found[m.start(), m.end(), f"({m[0]} + 0.05)"] = "threshold"
    return [Mutant(file, name, *place) for place, name in sorted(found.items())]


def sample(root: Path, files: list[str], seed: int, count: int) -> list[Mutant]:
    every = [m for file in files for m in mutants((root / file).read_text(), file)]
    random.Random(seed).shuffle(every)
    return every[: count or None]
