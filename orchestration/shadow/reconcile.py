"""Proving that all that is derived agrees with raw, without changing anything.

Three proofs. The lines of every load are where the load says (the law of conservation).
Every table is what deriving it again, in a shadow, gives: the same hash, or else the
keys that differ. What each model says it has taken in can be, and the events that
signals name as their sources are there. A model that is behind is compared with what
deriving up to its own watermark gives: to be behind is no error.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.landing import loads
from ingest.store import conservation, database, last_runs
from ingest.store.conservation import BrokenLoad, Totals
from orchestration.derive import leftovers
from orchestration.derive.dbt_project import Relation
from orchestration.derive.leftovers import Leftover
from orchestration.shadow import shadow
from orchestration.shadow.difference import (
    DERIVED,
    Difference,
    columns,
    compare,
    definition,
    known_by,
    quoted,
)
from orchestration.shadow.shadow import LIVE
from orchestration.shadow.swap import changed_views
from orchestration.snapshot import snapshot

# How often it begins again when others change what it looks at.
ATTEMPTS = 3

LOADS = "raw.load"
_PUBLISHED = "published.snapshot"
_SIGNALS = Relation("", "signals", "lms_signal", "view", ())
_WATERMARK = Relation("", "bookkeeping", "watermark", "table", ())

# In a shadow: the keys of each table that differ.
_DIFFERING = "differing"


@dataclass(frozen=True)
class Table:
    """One table against what deriving it again gives, up to load `load_id`.

    The hashes are over all rows, in any order. `live_rows` is None where there is no
    table, `difference` where there is none.
    """

    table: str
    load_id: int
    live_rows: int | None
    live_hash: str | None
    derived_hash: str
    difference: Difference | None

    @property
    def added(self) -> int:
        return self.difference.added if self.difference else 0

    @property
    def gone(self) -> int:
        return self.difference.gone if self.difference else 0

    @property
    def changed(self) -> int:
        return self.difference.changed if self.difference else 0

    @property
    def problems(self) -> Iterator[str]:
        if self.difference is None:
            return
        if self.live_rows is None:
            yield "the table is not there"
            return
        if self.difference.other_columns:
            yield f"other columns: {', '.join(self.difference.other_columns)}"
        for count, what in (
            (self.added, "missing"),
            (self.gone, "extra"),
            (self.changed, "wrong"),
        ):
            if count:
                yield f"{_counted(count, 'row')} {what}"
        for example in self.difference.examples:
            yield _described(example.change, example.key, example.columns)


@dataclass(frozen=True)
class Gap:
    """A model with an impossible watermark, or a table with rows that are past it."""

    table: str
    model: str
    problem: str


@dataclass(frozen=True)
class MissingSource:
    """A signal that names an event which is not there, or not of its learner."""

    signal_id: str
    type: str
    user_id: str
    class_id: str | None
    course_id: str | None
    event_id: str


@dataclass(frozen=True)
class Reconciliation:
    """What agrees and what does not. `failure` says why nothing could be compared.

    `missing_sources` are the first of `missing_source_count`. `notes` are no problems:
    how far models are behind. `repaired` says what was, before this was found.
    `published` is what readers of the snapshot would get wrong.
    """

    lines: Totals
    broken_loads: tuple[BrokenLoad, ...]
    tables: tuple[Table, ...]
    changed_views: tuple[str, ...]
    leftovers: tuple[str, ...]
    gaps: tuple[Gap, ...]
    missing_sources: tuple[MissingSource, ...]
    missing_source_count: int
    failure: str | None
    notes: tuple[str, ...]
    repaired: tuple[str, ...]
    seconds: float
    published: tuple[str, ...] = ()

    @property
    def problems_by_asset(self) -> dict[str, list[str]]:
        """What does not agree, by the table or view that it is about."""
        found: dict[str, list[str]] = {}

        def add(asset: str, problem: str) -> None:
            found.setdefault(asset, []).append(problem)

        for load in self.broken_loads:
            add(LOADS, f"load {load.load_id}: {load.problem}")
        if self.lines.unaccounted:
            add(LOADS, f"in total {self.lines.unaccounted} lines are unaccounted for")
        for gap in self.gaps:
            add(gap.table, gap.problem)
        for table in self.tables:
            for problem in table.problems:
                add(table.table, problem)
        for view in self.changed_views:
            add(view, "another definition than the project's")
        for leftover in self.leftovers:
            add(
                leftover,
                "left over: the project no longer has it; "
                "`warehouse leftovers --drop` drops it",
            )
        for source in self.missing_sources:
            where = ", ".join(
                f"{name} {_spelled(value)}"
                for name, value in vars(source).items()
                if name in ("user_id", "class_id", "course_id") and value is not None
            )
            add(
                _SIGNALS.full_name,
                f"{source.type} of {where} names event {source.event_id!r}, which is "
                "not there",
            )
        if self.missing_source_count > len(self.missing_sources):
            add(_SIGNALS.full_name, f"{self.missing_source_count} such sources in all")
        for problem in self.published:
            add(_PUBLISHED, problem)
        return found

    @property
    def problems(self) -> tuple[str, ...]:
        found = [
            f"{asset}: {problem}"
            for asset, problems in self.problems_by_asset.items()
            for problem in problems
        ]
        return (*found, *([self.failure] if self.failure else []))

    @property
    def agrees(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {
            "agrees": self.agrees,
            "problems": self.problems,
            **vars(self),
            "lines": {**asdict(self.lines), "unaccounted": self.lines.unaccounted},
        }


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _described(change: str, key: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    where = ", ".join(f"{name} {_spelled(value)}" for name, value in key.items())
    if change != "changed":
        return f"{'missing' if change == 'added' else 'extra'}: {where}"
    what = ", ".join(
        f"{name} is {_spelled(live)} and should be {_spelled(derived)}"
        for name, (live, derived) in values.items()
    )
    return f"wrong: {where}: {what}"


def _spelled(value: object) -> str:
    if value is None:
        return "NULL"
    return repr(value) if isinstance(value, str | list) else str(value)


def reconcile(
    warehouse_path: Path,
    *,
    repair: bool = False,
    examples: int = 5,
    variables: Mapping[str, Any] | None = None,
) -> Reconciliation:
    """Looks at everything; at most `examples` keys of a kind are named.

    Without `repair` the warehouse is only read. With it, the rows of the keys that
    differ, changed views and impossible watermarks become, in one transaction, what
    deriving again gave, what the project no longer has is dropped, and then everything
    is looked at again; a snapshot that is damaged is published again. What is wrong in
    raw cannot be repaired from raw. `variables` are those that the warehouse was
    refreshed with. Raises `WarehouseError` when the warehouse cannot be read or
    written. How it ended is noted beside the warehouse.
    """
    with last_runs.noting_a_crash(warehouse_path, "reconcile"):
        found = _timed(warehouse_path, repair, examples, variables)
    # A failure's text may repeat learners' data; the names of tables do not.
    failures = (*found.problems_by_asset, *(["comparison"] if found.failure else []))
    run = last_runs.Run(database.utc_now(), found.agrees, failures)
    last_runs.note(warehouse_path, "reconcile", run)
    return found


def _timed(
    warehouse_path: Path,
    repair: bool,
    examples: int,
    variables: Mapping[str, Any] | None,
) -> Reconciliation:
    started = time.perf_counter()
    try:
        found = _reconcile(warehouse_path, repair, examples, variables)
        if found.repaired:
            snapshot.publish_again(warehouse_path)
            again = _reconcile(warehouse_path, False, examples, variables)
            found = replace(again, repaired=found.repaired)
        published = tuple(snapshot.problems(warehouse_path))
        if published and repair:
            snapshot.publish(warehouse_path, start_over=True)
            repaired = (*found.repaired, *(f"published again: {p}" for p in published))
            found = replace(found, repaired=repaired)
            published = tuple(snapshot.problems(warehouse_path))
        found = replace(found, published=published)
    except duckdb.Error as error:
        reason = first_line(error)
        raise WarehouseError(f"{warehouse_path}: {reason}") from error
    return replace(found, seconds=round(time.perf_counter() - started, 3))


def _reconcile(
    warehouse_path: Path,
    repair: bool,
    examples: int,
    variables: Mapping[str, Any] | None,
) -> Reconciliation:
    for _ in range(ATTEMPTS):
        with database.open_for_reading(warehouse_path) as live:
            before = _Live(live)
            found = before.look(examples)
        with shadow.folder(warehouse_path) as folder:
            rederived = _Rederivation(
                warehouse_path, folder, before, examples, variables
            )
            if before.watermarks:
                found = rederived.derive_and_compare(found)
            is_repair = repair and rederived.has_repairs
            opened = (
                database.open_for_writing if is_repair else database.open_for_reading
            )
            with opened(warehouse_path) as live:
                if _Live(live) != before:
                    continue
                if is_repair:
                    found = replace(found, repaired=rederived.repair(live))
            return found
    raise WarehouseError(
        f"{warehouse_path}: refreshed, replayed or erased from {ATTEMPTS} times in the "
        "meantime; nothing was changed: run this when it is quiet"
    )


class _Live:
    """The live state at one moment; equal as long as what was derived from it is."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        rows: list[tuple[Any, ...]] = []
        if columns(connection, "current_database()", _WATERMARK):
            rows = connection.execute(
                "from bookkeeping.watermark order by all"
            ).fetchall()
        self.watermarks: dict[str, int] = {
            model: watermark for model, watermark, *_ in rows
        }
        self.newest = loads.next_load_id(connection) - 1
        [[events]] = connection.execute(
            "select count(*) from raw.lms_event where load_id <= $1",
            [max(self.watermarks.values(), default=0)],
        ).fetchall()
        self._state = (rows, events)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Live) and self._state == other._state

    __hash__ = None  # type: ignore[assignment]

    def watermark(self, model: str) -> int:
        """Up to where the model is derived again: its watermark, if that can be."""
        return min(self.watermarks.get(model, self.newest), self.newest)

    def look(self, examples: int) -> Reconciliation:
        """All that can be seen without deriving again."""
        sources, count = _missing_sources(self._connection, examples)
        return Reconciliation(
            lines=conservation.totals(self._connection),
            broken_loads=tuple(conservation.broken_loads(self._connection)),
            tables=(),
            changed_views=(),
            leftovers=(),
            gaps=(),
            missing_sources=sources,
            missing_source_count=count,
            failure=None,
            notes=_behind(self._connection) if self.watermarks else (_NOTHING_DERIVED,),
            repaired=(),
            seconds=0,
        )


_NOTHING_DERIVED = "Nothing is derived yet: run `warehouse refresh`."


def _behind(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    rows = connection.execute(
        """
        select model, load_id, loads_behind, events_behind
        from bookkeeping.model_lag
        where loads_behind > 0
        order by model
        """
    ).fetchall()
    return tuple(
        f"{model} is at load {watermark}: {_counted(loads, 'load')} with "
        f"{_counted(events, 'event')} behind; `warehouse refresh` takes them in"
        for model, watermark, loads, events in rows
    )


def _missing_sources(
    connection: duckdb.DuckDBPyConnection, examples: int
) -> tuple[tuple[MissingSource, ...], int]:
    if not columns(connection, "current_database()", _SIGNALS):
        return (), 0
    connection.execute(
        f"""
        create or replace temp table missing_source as
        select sources.*
        from (
            select
                signal_id, type, user_id, class_id, course_id,
                unnest(source_event_ids) as event_id
            from {_SIGNALS.full_name}
        ) as sources
        anti join raw.lms_event as events
            on
                sources.event_id = events.event_id
                and sources.user_id = events.user_id
                and coalesce(sources.class_id, events.class_id) = events.class_id
        """
    )
    rows = connection.execute(
        f"from missing_source order by all limit {examples:d}"
    ).fetchall()
    [[count]] = connection.execute("select count(*) from missing_source").fetchall()
    return tuple(MissingSource(*row) for row in rows), count


class _Rederivation:
    """Everything derived again: one shadow for each watermark that models have."""

    def __init__(
        self,
        warehouse_path: Path,
        folder: Path,
        live: _Live,
        examples: int,
        variables: Mapping[str, Any] | None,
    ) -> None:
        self._warehouse_path = warehouse_path
        self._folder = folder
        self._live = live
        self._examples = examples
        self._variables = variables
        self._differing: list[tuple[int, Relation, Table]] = []
        self._views: list[Relation] = []
        self._leftovers: list[Leftover] = []
        self._wrong_watermarks: list[tuple[int, str]] = []

    @property
    def has_repairs(self) -> bool:
        return bool(
            self._differing or self._views or self._leftovers or self._wrong_watermarks
        )

    def derive_and_compare(self, found: Reconciliation) -> Reconciliation:
        tables: list[Table] = []
        gaps: list[Gap] = []
        failures: list[str] = []
        for watermark in self._watermarks:
            path = self._path(watermark)
            with shadow.opened(path, self._warehouse_path) as connection:
                shadow.make_raw(connection, _up_to(watermark))
            # All at the lowest watermark; past it the models there and what they read,
            # so that a model which cannot get there holds up no other.
            models = sorted(
                m for m in self._live.watermarks if self._live.watermark(m) == watermark
            )
            is_first = watermark == self._watermarks[0]
            try:
                made = shadow.derive(
                    path,
                    self._warehouse_path,
                    select=[] if is_first else [f"+{model}" for model in models],
                    variables=self._variables,
                )
            except WarehouseError as error:
                failures.append(
                    f"up to load {watermark} nothing could be compared: {error}"
                )
                continue
            with shadow.opened(path, self._warehouse_path) as connection:
                for relation in made.relations:
                    if self._is_compared(relation, watermark):
                        if relation.kind == "incremental":
                            gaps += self._gaps(connection, relation, watermark)
                        tables.append(self._compare(connection, relation, watermark))
                if is_first:
                    self._views = changed_views(connection, LIVE, made)
                    own = leftovers.current_database(connection)
                    self._leftovers = leftovers.find(connection, LIVE, own)
        return replace(
            found,
            tables=tuple(sorted(tables, key=lambda table: table.table)),
            gaps=tuple(gaps),
            changed_views=tuple(view.full_name for view in self._views),
            leftovers=tuple(leftover.full_name for leftover in self._leftovers),
            failure="; ".join(failures) or None,
        )

    @property
    def _watermarks(self) -> list[int]:
        return sorted({self._live.watermark(model) for model in self._live.watermarks})

    def _is_compared(self, relation: Relation, watermark: int) -> bool:
        """Whether it is here: at its watermark or else in the lowest shadow."""
        live_watermark = self._watermarks[0]
        if relation.kind == "incremental" and _model(relation) in self._live.watermarks:
            live_watermark = self._live.watermark(_model(relation))
        return relation.kind != "view" and watermark == live_watermark

    def _path(self, watermark: int) -> Path:
        path = self._folder / str(watermark) / self._warehouse_path.name
        path.parent.mkdir(exist_ok=True)
        return path

    def _gaps(
        self, connection: duckdb.DuckDBPyConnection, relation: Relation, watermark: int
    ) -> list[Gap]:
        model, problems = _model(relation), []
        live_watermark = self._live.watermarks.get(model)
        if live_watermark is None:
            problems.append("it has no watermark: the next refresh starts it over")
        elif live_watermark > self._live.newest:
            problems.append(
                f"it is at load {live_watermark}, and the newest is "
                f"{self._live.newest}: the loads between would be skipped"
            )
        if problems:
            self._wrong_watermarks.append((watermark, model))
        if "load_id" in columns(connection, f"'{LIVE}'", relation):
            [[newest]] = connection.execute(
                f"select max(load_id) from {LIVE}.{quoted(relation)}"
            ).fetchall()
            if newest is not None and newest > watermark:
                problems.append(
                    f"it is at load {watermark} and has rows of load {newest}: that "
                    "would be taken in twice"
                )
        return [Gap(relation.full_name, model, problem) for problem in problems]

    def _compare(
        self, connection: duckdb.DuckDBPyConnection, relation: Relation, watermark: int
    ) -> Table:
        names = columns(connection, DERIVED, relation)
        live_names = columns(connection, f"'{LIVE}'", relation)
        live_rows, live_hash = None, None
        if live_names:
            live_rows, live_hash = _hash(
                connection,
                f"{LIVE}.{quoted(relation)}",
                names if names.keys() <= live_names.keys() else live_names,
            )
        _, derived_hash = _hash(connection, quoted(relation), names)
        table = Table(
            relation.full_name, watermark, live_rows, live_hash, derived_hash, None
        )
        if live_hash == derived_hash and live_names.keys() == names.keys():
            return table
        difference = compare(connection, relation, examples=self._examples)
        table = replace(table, difference=difference)
        if key := _key(relation, names, live_names):
            connection.execute(f"create schema if not exists {_DIFFERING}")
            connection.execute(
                f"""
                create table {_DIFFERING}."{relation.name}" as
                select distinct {key}
                from (from only_live union all by name from only_derived)
                """
            )
        self._differing.append((watermark, relation, table))
        return table

    def repair(self, live: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
        """Puts what was derived again in the place of what differs: all or nothing."""
        for watermark in self._watermarks:
            database.attach(live, self._path(watermark), _shadow(watermark))
        done = []
        with database.transaction(live):
            for watermark, relation, table in self._differing:
                done.append(_repair_table(live, relation, table, _shadow(watermark)))
            for relation in self._views:
                live.execute(f"drop view if exists {quoted(relation)}")
                live.execute(
                    definition(live, f"'{_shadow(self._watermarks[0])}'", relation)
                    or ""
                )
                done.append(f"{relation.full_name}: its definition")
            leftovers.remove(live, self._leftovers)
            for leftover in self._leftovers:
                done.append(f"{leftover.full_name}: dropped")
            for watermark, model in self._wrong_watermarks:
                live.execute(
                    "delete from bookkeeping.watermark where model = $1", [model]
                )
                live.execute(
                    f"""
                    insert into bookkeeping.watermark by name
                    from {_shadow(watermark)}.bookkeeping.watermark
                    where model = $1
                    """,
                    [model],
                )
                done.append(f"{model}: its watermark, load {watermark}")
            # Another state than the one that readers have.
            live.execute(
                "update bookkeeping.watermark set consumed_at = $1",
                [database.utc_now()],
            )
        return tuple(done)


def _model(relation: Relation) -> str:
    """The model's name, under which its watermark is kept."""
    return relation.unique_id.split(".")[2]


def _up_to(watermark: int) -> shadow.Cut:
    def cut(_table: str, names: Collection[str]) -> str:
        return f"load_id <= {watermark:d}" if "load_id" in names else "true"

    return cut


def _hash(
    connection: duckdb.DuckDBPyConnection, table: str, names: Collection[str]
) -> tuple[int, str]:
    """Rows, and a hash of them in any order that is the same in every process."""
    selected = ", ".join(f'"{name}"' for name in names)
    [[count, digest]] = connection.execute(
        f"""
        select
            count(*),
            left(
                md5(
                    concat(
                        count(*),
                        ' ',
                        coalesce(sum(md5_number_lower(cast(row_ as varchar))), 0)
                    )
                ),
                12
            )
        from (select {selected} from {table}) as row_
        """
    ).fetchall()
    return count, digest


def _key(
    relation: Relation, derived: Mapping[str, str], live: Mapping[str, str]
) -> str:
    """The columns that `compare` brings rows together by; empty if there are none."""
    common = [name for name in derived if derived[name] == live.get(name)]
    return ", ".join(f'"{name}"' for name in known_by(relation, common))


def _shadow(watermark: int) -> str:
    return f"_shadow_{watermark:d}_"


def _repair_table(
    live: duckdb.DuckDBPyConnection, relation: Relation, table: Table, derived: str
) -> str:
    if table.live_rows is None or (table.difference and table.difference.other_columns):
        live.execute(f"drop table if exists {quoted(relation)}")
        live.execute(definition(live, f"'{derived}'", relation) or "")
        live.execute(
            f"insert into {quoted(relation)} from {derived}.{quoted(relation)}"
        )
        return f"{table.table}: all of it"
    keys = f'{derived}.{_DIFFERING}."{relation.name}"'
    names = live.execute(f"describe {keys}").fetchall()
    same_key = " and ".join(
        f'one."{name}" is not distinct from keys."{name}"' for name, *_ in names
    )
    live.execute(
        f"delete from {quoted(relation)} as one using {keys} as keys where {same_key}"
    )
    live.execute(
        f"""
        insert into {quoted(relation)} by name
        select one.*
        from {derived}.{quoted(relation)} as one
        semi join {keys} as keys on {same_key}
        """
    )
    [[count]] = live.execute(f"select count(*) from {keys}").fetchall()
    return f"{table.table}: {_counted(count, 'key')}"
