"""The snapshot that is being served, and the change to the next one.

Each request is answered from one snapshot, whatever is published meanwhile. The next
one is opened and prepared beside the requests, which it does not hold up.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa

from ingest.errors import WarehouseError, first_line
from serving.access import Scope
from serving.api.contracts import Model, read_models
from serving.reader import NOW, Follower, Row, Snapshot

PROGRESS = "v_user_progress"
LOOK_EVERY_SEC = 1.0


class Progress:
    """All rows of `v_user_progress`, in memory, by learner.

    Asking DuckDB for a learner's rows takes 0.5 ms and more, whatever index there is;
    this takes 0.03 ms. 500,000 rows, of 50 million events, take 35 MB.
    """

    def __init__(self, snapshot: Snapshot, model: Model) -> None:
        columns = ", ".join(column.name for column in model.columns)
        with snapshot.reader(Scope()) as reader:
            self._table: pa.Table = (
                reader.connection.sql(
                    f"select {columns} from {model.schema}.{model.name} "
                    f"order by {', '.join(model.key)}"
                )
                .to_arrow_table()
                .combine_chunks()
            )
        # Counted in the order of the rows, in which each learner's stand together.
        found = self._table["user_id"].value_counts()
        counts = found.field("counts").to_pylist()
        begins = itertools.accumulate(counts, initial=0)
        learners = found.field("values").to_pylist()
        self._places = dict(
            zip(learners, zip(begins, counts, strict=False), strict=True)
        )

    def of(self, user_id: str) -> list[Row]:
        """In the order of the class ids."""
        begin, count = self._places.get(user_id, (0, 0))
        rows: list[Row] = self._table.slice(begin, count).to_pylist()
        return rows


@dataclass(frozen=True)
class Served:
    """A snapshot with its public models, ready to be asked.

    `changed_at` is when answers changed last: when it was published, or when since then
    a catalogue came into force.
    """

    snapshot: Snapshot
    changed_at: datetime
    models: dict[str, Model]
    progress: Progress

    @classmethod
    def of(cls, snapshot: Snapshot, changed_at: datetime) -> Self:
        models = read_models(snapshot.connection)
        return cls(snapshot, changed_at, models, Progress(snapshot, models[PROGRESS]))


def changed_at(snapshot: Snapshot) -> datetime:
    with snapshot.reader(Scope()) as reader:
        row = reader.row(
            f"""
            select max(valid_from) as valid_from from catalogue.catalogue_snapshot
            where valid_from > $published_at and valid_from <= {NOW}
            """,
            published_at=snapshot.published_at,
        )
    return row["valid_from"] or snapshot.published_at


class Following:
    """Keeps the newest snapshot ready; `error` says why there is no newer one."""

    def __init__(self, path: Path, *, now: str | None = None) -> None:
        self._follower = Follower(path, now=now)
        self._served: Served | None = None
        self.error: str | None = None

    @property
    def served(self) -> Served | None:
        return self._served

    def look(self) -> None:
        """Takes the newest snapshot; the one before stays where it cannot be read."""
        try:
            snapshot = self._follower.snapshot()
            changed = changed_at(snapshot)
            if (
                self._served is None
                or snapshot is not self._served.snapshot
                or changed != self._served.changed_at
            ):
                self._served = Served.of(snapshot, changed)
            self.error = None
        except WarehouseError as error:
            self.error = str(error)
        except duckdb.Error as error:
            self.error = f"{self._follower.path}: cannot be read ({first_line(error)})"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Looks by itself, every second."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(LOOK_EVERY_SEC):
                self.look()

        self.look()
        thread = threading.Thread(target=follow, name="follow", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
