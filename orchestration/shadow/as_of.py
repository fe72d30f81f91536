"""What the warehouse would have answered at a past moment."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from ingest.store import database, outputs
from orchestration.shadow import shadow
from orchestration.shadow.shadow import LIVE

# What the live state answers too, each with the order of its rows.
LIVE_ANSWERS = {
    "progress.v_user_progress": "user_id, class_id",
    "signals.lms_signal": "user_id, occurred_at, signal_id",
    "monitoring.v_leaderboard": "rank, user_id",
}

# Those below are made from state that is compared by itself, and say other things at
# another "now".
ANSWERS = {
    **LIVE_ANSWERS,
    "analytics.v_course_progress": "user_id, course_id",
    "analytics.v_learner_at_risk": "user_id, course_id, reason",
    "analytics.v_badge_award": "user_id, badge",
}


@dataclass(frozen=True)
class Answer:
    """The first rows of one answer, and how many it has."""

    table: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    row_count: int

    def as_json(self) -> dict[str, Any]:
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"row_count": self.row_count, "rows": rows}


@dataclass(frozen=True)
class AsOf:
    """What was known at `moment` (naive, in UTC), and from how much."""

    moment: datetime
    loads: int
    events: int
    answers: tuple[Answer, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "answers": {answer.table: answer.as_json() for answer in self.answers},
        }


def as_of(
    warehouse_path: Path,
    moment: datetime,
    *,
    users: Sequence[str] = (),
    classes: Sequence[str] = (),
    courses: Sequence[str] = (),
    limit: int | None = 20,
    output: Path | None = None,
    variables: Mapping[str, Any] | None = None,
) -> AsOf:
    """What progress, signals, leaderboard, courses, risks and badges would have been.

    Derived by today's rules from the events and the catalogue snapshots received by
    `moment` (naive, in UTC), with `moment` as now. `users`, `classes` and `courses`
    choose rows of the answers that have such a column; `limit` cuts them (None: all).
    `output` is a folder that gets each answer uncut, as Parquet. The warehouse is only
    read. Raises `WarehouseError`.
    """
    started = time.perf_counter()
    received = f"received_at <= timestamp '{moment}'"

    def cut(_table: str, names: Collection[str]) -> str:
        if "received_at" in names:
            return received
        if "load_id" in names:
            return f"load_id in (select load_id from {LIVE}.raw.load where {received})"
        return "true"

    with database.open_for_reading(warehouse_path):
        pass  # says what is wrong with the file
    with shadow.folder(warehouse_path) as folder:
        path = folder / warehouse_path.name
        with shadow.opened(path, warehouse_path) as connection:
            shadow.make_raw(connection, cut)
            [[loads, events]] = connection.execute(
                "select count(*), (select count(*) from raw.lms_event) from raw.load"
            ).fetchall()
        shadow.derive(
            path,
            warehouse_path,
            select=[f"+{table.split('.')[1]}" for table in ANSWERS],
            variables=variables,
            now=moment,
        )
        chosen = {"user_id": users, "class_id": classes, "course_id": courses}
        with shadow.opened(path, warehouse_path) as connection:
            answers = tuple(
                _answer(connection, table, chosen, limit, output, warehouse_path)
                for table in ANSWERS
            )
    return AsOf(moment, loads, events, answers, round(time.perf_counter() - started, 3))


def _answer(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    chosen: Mapping[str, Sequence[str]],
    limit: int | None,
    output: Path | None,
    warehouse_path: Path,
) -> Answer:
    columns = [name for name, *_ in connection.execute(f"describe {table}").fetchall()]
    wanted = {
        column: list(values)
        for column, values in chosen.items()
        if values and column in columns
    }
    condition = " and ".join(
        ["true", *(f"{column} in (select unnest(${column}))" for column in wanted)]
    )
    connection.execute(
        f"""
        create or replace temp table answer as
        select * from {table} where {condition} order by {ANSWERS[table]}
        """,
        wanted,
    )
    if output is not None:
        file = output / f"{table.split('.')[1]}.parquet"
        outputs.check(file, warehouse_path)
        output.mkdir(parents=True, exist_ok=True)
        with outputs.new_output(file, warehouse_path) as unfinished:
            connection.execute(
                f"copy answer to {database.sql_path(unfinished)} (format parquet)"
            )
    [[row_count]] = connection.execute("select count(*) from answer").fetchall()
    rows = connection.execute(
        "from answer" + ("" if limit is None else f" limit {limit:d}")
    ).fetchall()
    return Answer(table, tuple(columns), tuple(rows), row_count)
