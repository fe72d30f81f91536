"""The published snapshot for Python: each answer is a pandas data frame."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.settings import Settings
from serving import published

if TYPE_CHECKING:
    import pandas as pd


class LmsWarehouse:
    """What a warehouse has published; each call reads the newest snapshot.

    `path` is the warehouse's, by default that of `LMS_WAREHOUSE`. Nothing is written,
    and no refresh is waited for. Every call raises `WarehouseError` when nothing was
    published yet.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path or Settings.from_environment().warehouse)

    def progress(
        self, *, user_id: str | None = None, class_id: str | None = None
    ) -> "pd.DataFrame":
        """`progress.v_user_progress`: a row per learner and class."""
        return self._select(
            "progress.v_user_progress", {"user_id": user_id, "class_id": class_id}
        )

    def signals(
        self, *, user_id: str | None = None, signal_type: str | None = None
    ) -> "pd.DataFrame":
        """`signals.lms_signal`: a row per signal, `occurred_at` in UTC."""
        return self._select(
            "signals.lms_signal", {"user_id": user_id, "type": signal_type}
        )

    def leaderboard(self) -> "pd.DataFrame":
        """`monitoring.v_leaderboard`, the first rank first."""
        return self.query("from monitoring.v_leaderboard order by rank, user_id")

    def events(self, row: "Mapping[str, Any] | pd.Series[Any]") -> "pd.DataFrame":
        """The events behind a row of `progress()` or `signals()`, the oldest first.

        A signal's are those that it names, a row of progress has all of its learner
        and class. The row is a mapping or a `pandas.Series`.
        """
        if "source_event_ids" in row:
            condition = "list_contains($1, event_id)"
            parameters: list[Any] = [list(row["source_event_ids"])]
        else:
            condition = "user_id = $1 and class_id = $2"
            parameters = [row["user_id"], row["class_id"]]
        return self.query(
            f"from raw.lms_event where {condition} order by occurred_at, event_id",
            parameters,
        )

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> "pd.DataFrame":
        """The answer to one SQL query; `$1`, `$2` in it stand for the parameters.

        Raises `WarehouseError` with DuckDB's own words, in one line.
        """
        with published.opened(self.path) as connection:
            try:
                published.check_question(connection, sql)
                return connection.execute(sql, list(parameters)).df()
            except duckdb.Error as error:
                raise WarehouseError(first_line(error)) from error

    def _select(self, table: str, only: Mapping[str, str | None]) -> "pd.DataFrame":
        given = {name: value for name, value in only.items() if value is not None}
        conditions = "".join(
            f" and {name} = ${number}" for number, name in enumerate(given, start=1)
        )
        return self.query(
            f"from {table} where true{conditions} order by all", list(given.values())
        )
