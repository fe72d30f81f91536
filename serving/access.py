"""Who may read what: a CSV file of courses and names, and the viewer of a request.

    viewer,course_id,names
    ana@school.example,sql-first-query,yes
    ben@school.example,*,no

One row for each viewer and course; `*` is every course. `names` says whether the viewer
may see who the learners are; a viewer needs it in every row to see them at all.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import WarehouseError
from ingest.store.files import read_regular

COLUMNS = ("viewer", "course_id", "names")
EVERY_COURSE = "*"


@dataclass(frozen=True)
class Scope:
    """What is read for one viewer: `courses` is None for all of them.

    Without names no learner is named, and no number counts fewer than 5 of them.
    """

    courses: tuple[str, ...] | None = None
    sees_names: bool = True

    def only(self, course_id: str) -> "Scope":
        """Narrowed to one course; to none at all if it is not in the scope."""
        is_in = self.courses is None or course_id in self.courses
        return Scope((course_id,) if is_in else (), self.sees_names)


Rows = tuple[dict[str, str], ...]


def scope_of(path: Path | None, viewer: str | None) -> Scope:
    """The scope that the file at `path` gives `viewer`; without a file, everything.

    A viewer whom the file does not name, or a request that names none, reads nothing.
    Raises `WarehouseError` that names the line that is wrong.
    """
    return Scope() if path is None else scope_in(read(path), viewer)


def scope_in(access: Rows, viewer: str | None) -> Scope:
    """The scope that the rows of the file give `viewer`."""
    rows = [row for row in access if viewer and row["viewer"] == viewer]
    courses = tuple(sorted({row["course_id"] for row in rows}))
    return Scope(
        None if EVERY_COURSE in courses else courses,
        bool(rows) and all(row["names"] == "yes" for row in rows),
    )


def read(path: Path) -> Rows:
    """The rows of the file. Raises `WarehouseError`."""
    try:
        text = read_regular(path).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise WarehouseError(f"{path}: cannot be read ({error})") from error
    for number, row in enumerate(rows, start=2):
        if not all(row.get(name) for name in COLUMNS):
            raise WarehouseError(
                f"{path}, line {number}: give all of {', '.join(COLUMNS)}"
            )
        if row["names"] not in ("yes", "no"):
            raise WarehouseError(
                f"{path}, line {number}: names is {row['names']!r}; write yes or no"
            )
    return tuple(rows)
