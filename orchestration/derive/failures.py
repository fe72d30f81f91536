"""What dbt says of a failed model or test, as one line: what, where, what to do.

DuckDB names a line of the SQL that ran, which nobody wrote: it is found again in the
model's file, or else in a copy of that SQL, kept in the folder `failed` beside dbt's
manifest.
"""

import contextlib
import re
from pathlib import Path
from typing import Any

from orchestration.derive import dbt_project

_MENDING = "mend it and run the same again"

# Where DuckDB stopped: the line's number and its text, cut short if it is long.
_LINE = re.compile(r"^ *LINE (\d+): (.*)$", re.MULTILINE)

# Of dbt's messages, what only repeats who asked.
_FRAME = re.compile(r"\w+ Error in \w+ \S+ \(\S+\)$")
_HOOK = re.compile(r"\w+ Error in operation \S+ \(\S+\)$")
_NOISE = re.compile(r"> (in|called by) |\d+ +\||-{9}")

# What dbt puts before the SQL of a model is at most so many lines.
_LINES_BEFORE = 6


def problem(result: Any, *, is_live: bool = True) -> str:
    """One line on a failed result of dbt's, in the warehouse or elsewhere."""
    node = result.node
    file = _shown(dbt_project.DBT_PROJECT / node.original_file_path)
    message = str(result.message or "no message")
    kept = _keep(node)
    if result.failures:
        rows = f"{result.failures} row{'s' * (result.failures != 1)}"
        text = f"{file}: {rows} of it should not be there"
        shows = (
            f'`warehouse query --live "$(cat {kept})"` shows them'
            if is_live
            else f"{kept} is the SQL that finds them"
        )
        return f"{node.name}: {text}; {shows}" if kept else f"{node.name}: {text}"
    stopped = _LINE.search(message)
    what = one_line(message[: stopped.start()] if stopped else message, _FRAME)
    if "enforced contract" in what:
        return f"{node.name}: {file}: {_contract(message, node)}"
    # A unit test has none.
    compiled_code = getattr(node, "compiled_code", None)
    if not stopped or not compiled_code:
        return f"{node.name}: {file}: {what}; {_MENDING}"
    line = _line(compiled_code, int(stopped[1]), stopped[2])
    source = node.raw_code.splitlines()
    compiled = compiled_code.splitlines()
    found = [
        number
        for number, text in enumerate(source, 1)
        if line and text.strip() == compiled[line - 1].strip()
    ]
    if len(found) == 1:
        return f"{node.name}: {file}:{found[0]}: {what}; {_MENDING}"
    where = f" (line {line} of {kept})" if line and kept else ""
    return f"{node.name}: {file}: {what}{where}; {_MENDING}"


def _line(compiled: str, number: int, text: str) -> int | None:
    """The line of the model's SQL that is this one of the statement around it."""
    fragment = text.removeprefix("...").removesuffix("...").strip()
    lines = compiled.splitlines()
    for before in range(_LINES_BEFORE):
        at = number - before
        if 0 < at <= len(lines) and fragment and fragment in lines[at - 1]:
            return at
    return None


def one_line(message: str, frame: re.Pattern[str] = _HOOK) -> str:
    """What dbt says, without a first line that only says of what it is, without
    excerpts of YAML, numbered between two rules, and the macros on the way."""
    lines = [line.strip() for line in message.strip().splitlines()]
    if len(lines) > 1 and frame.match(lines[0]):
        lines = lines[1:]
    return " ".join(line for line in lines if line and not _NOISE.match(line))


def _contract(message: str, node: Any) -> str:
    """Which columns are not as the YAML says."""
    rows = re.findall(r"^ *\| *(\S+) *\|(.*)\|(.*)\|(.*)\|$", message, re.MULTILINE)
    wrong = ", ".join(
        f"{name} ({reason.strip()}"
        + (
            f": {has.strip()}, {said.strip()} there)"
            if has.strip() and said.strip()
            else ")"
        )
        for name, has, said, reason in rows
        if name != "column_name" and not name.startswith("---")
    )
    patch = (node.patch_path or "").rpartition("://")[2]
    yaml = _shown(dbt_project.DBT_PROJECT / patch) if patch else "its YAML"
    return (
        f"other columns than its contract in {yaml}: {wrong}; put one of the two right "
        "or, if others read it, make a new version beside the old"
    )


def _keep(node: Any) -> str | None:
    """Keeps the SQL that ran; where."""
    if not getattr(node, "compiled_code", None):
        return None
    path = dbt_project.target_folder() / "failed" / f"{node.name}.sql"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(node.compiled_code.strip() + "\n", encoding="utf-8")
        return _shown(path)
    return None


def _shown(path: Path) -> str:
    """As it is typed here: relative to the working directory, if it is inside."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
