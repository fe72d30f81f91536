"""Deriving again: what would change, the swap, and the way back.

A replay derives in a shadow (orchestration/shadow/shadow.py) from the loads that the
live state has taken in, compares the two and, on demand, swaps.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from ingest.errors import WarehouseError
from ingest.store import database
from orchestration.derive import leftovers
from orchestration.derive.dbt_project import Relation
from orchestration.shadow import shadow
from orchestration.shadow.as_of import LIVE_ANSWERS
from orchestration.shadow.difference import (
    DERIVED,
    Difference,
    columns,
    compare,
)
from orchestration.shadow.shadow import LIVE, Shadow
from orchestration.shadow.swap import LEARNERS, PREVIOUS, changed_views, state_of, swap
from orchestration.snapshot import snapshot

PROGRESS = "progress.v_user_progress"
LEADERBOARD = "monitoring.v_leaderboard"

# The state, and those answers that are a learner's own.
_NEEDED_BY_A_PART = (
    "+config.materialized:incremental",
    "+v_user_progress",
    "+lms_signal",
)

# How often a replay is begun again when others change what it derived from.
ATTEMPTS = 3


@dataclass(frozen=True)
class Scope:
    """Whose state to derive again: that of each learner with an event that matches.

    No restriction means everything. Values of one kind are alternatives, and all kinds
    given must match. `since` (inclusive) and `until` (exclusive) are event time, naive
    and in UTC. A class is in the courses that any catalogue snapshot, or the event
    itself, puts it in.
    """

    users: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    courses: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_part(self) -> bool:
        return self != Scope()

    def __str__(self) -> str:
        parts = [
            *(f"user {value}" for value in self.users),
            *(f"class {value}" for value in self.classes),
            *(f"course {value}" for value in self.courses),
            *([f"from {self.since.isoformat()}Z"] if self.since else []),
            *([f"to {self.until.isoformat()}Z"] if self.until else []),
        ]
        return ", ".join(parts) or "everything"


class NothingMatches(WarehouseError):
    """The scope is of no learner: most likely a wrong id."""


@dataclass(frozen=True)
class Replay:
    """What a replay found, and whether it was swapped in.

    `through_load` is the newest load that the live state has taken in; nothing past it
    is derived from. `learners` is None for everything. `changed_rules` are the models
    whose live state another rule made, `changed_views` the views with another
    definition, `leftovers` what the project no longer has.
    """

    scope: str
    through_load: int
    learners: int | None
    differences: tuple[Difference, ...]
    changed_rules: tuple[str, ...]
    changed_views: tuple[str, ...]
    leftovers: tuple[str, ...]
    notes: tuple[str, ...]
    applied: bool
    seconds: float

    @property
    def is_same(self) -> bool:
        """Whether deriving again gives the rows that are there."""
        return all(difference.is_empty for difference in self.differences)

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "is_same": self.is_same,
        }


@dataclass(frozen=True)
class _Plan:
    """What to derive from; `live_state` is what must not change until the swap."""

    scope: Scope
    through_load: int
    live_state: tuple[Any, ...]


def replay(
    warehouse_path: Path,
    scope: Scope | None = None,
    *,
    apply: bool = False,
    examples: int = 3,
    variables: Mapping[str, Any] | None = None,
) -> Replay:
    """Derives the scope again, compares it with the live state and, to `apply`, swaps.

    Derived is from what the live state has taken in, not from what has landed since: a
    difference comes from a rule or from damage, never from what is new. The swap is one
    transaction, and happens only where something differs; `undo` puts back what it
    replaced, until the next. Raises `WarehouseError`, and has then changed nothing.
    """
    scope = scope or Scope()
    started = time.perf_counter()
    for _ in range(ATTEMPTS):
        plan = _plan(warehouse_path, scope)
        with shadow.folder(warehouse_path) as folder:
            path = folder / warehouse_path.name
            found = _attempt(warehouse_path, path, plan, apply, examples, variables)
        if found:
            if found.applied:
                snapshot.publish_again(warehouse_path)
            return replace(found, seconds=round(time.perf_counter() - started, 3))
    raise WarehouseError(
        f"{warehouse_path}: refreshed, replayed or erased from {ATTEMPTS} times in the "
        "meantime; nothing was changed: run this when it is quiet"
    )


def _attempt(
    warehouse_path: Path,
    path: Path,
    plan: _Plan,
    apply: bool,
    examples: int,
    variables: Mapping[str, Any] | None,
) -> Replay | None:
    """None when the live state is no longer what was derived beside."""
    scope = plan.scope
    with shadow.opened(path, warehouse_path) as connection:
        _make_raw(connection, plan)
    made = shadow.derive(
        path,
        warehouse_path,
        select=_NEEDED_BY_A_PART if scope.is_part else (),
        # A part fails the tests that compare what is derived with the loads.
        tested=apply and not scope.is_part,
        variables=variables,
    )
    with shadow.opened(path, warehouse_path) as connection:
        if not _is_as_planned(connection, plan, f"{LIVE}."):
            return None
        found = _compare(connection, plan, made, examples)
        if not apply or not _is_worth_a_swap(connection, plan, made, found):
            return found
    with database.open_for_writing(warehouse_path) as live:
        if not _is_as_planned(live, plan):
            return None
        swap(live, made, str(scope), is_part=scope.is_part)
    return replace(found, applied=True)


# --------------------------------------------------------------------------------------
# What is derived from
# --------------------------------------------------------------------------------------


def _plan(warehouse_path: Path, scope: Scope) -> _Plan:
    with database.open_for_reading(warehouse_path) as live:
        through_load = None
        if columns(live, "current_database()", _WATERMARK):
            [[through_load]] = live.execute(
                "select max(load_id) from bookkeeping.watermark"
            ).fetchall()
        if through_load is None:
            raise WarehouseError(
                f"{warehouse_path}: nothing is derived yet, so there is nothing to "
                "derive again; run `warehouse refresh`"
            )
        return _Plan(scope, through_load, _live_state(live, through_load))


_WATERMARK = Relation("", "bookkeeping", "watermark", "table", ())


def _live_state(
    connection: duckdb.DuckDBPyConnection, through_load: int, live: str = ""
) -> tuple[Any, ...]:
    """Another one after a refresh, a replay or an erasure; not after a load."""
    [[events]] = connection.execute(
        f"select count(*) from {live}raw.lms_event where load_id <= ?", [through_load]
    ).fetchall()
    consumed = connection.execute(
        f"from {live}bookkeeping.watermark order by all"
    ).fetchall()
    return events, consumed


def _is_as_planned(
    connection: duckdb.DuckDBPyConnection, plan: _Plan, live: str = ""
) -> bool:
    return _live_state(connection, plan.through_load, live) == plan.live_state


def _make_raw(connection: duckdb.DuckDBPyConnection, plan: _Plan) -> None:
    def cut(table: str, names: Collection[str]) -> str:
        conditions = ["true"]
        if "load_id" in names:
            conditions.append(f"load_id <= {plan.through_load:d}")
        if table == "lms_event" and plan.scope.is_part:
            conditions.append(f"user_id in (select user_id from {LEARNERS})")
        return " and ".join(conditions)

    if plan.scope.is_part:
        _choose_learners(connection, plan)
    shadow.make_raw(connection, cut)


def _choose_learners(connection: duckdb.DuckDBPyConnection, plan: _Plan) -> None:
    """Whole learners: what is derived for one reads all of that learner's events."""
    conditions = {
        "users": "user_id in (select unnest($users))",
        "classes": "class_id in (select unnest($classes))",
        "courses": f"""(
            course_id in (select unnest($courses))
            or class_id in (
                select class_id from {LIVE}.raw.catalogue
                where course_id in (select unnest($courses))
            )
        )""",
        "since": "occurred_at >= $since",
        "until": "occurred_at < $until",
    }
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(plan.scope).items()
        if value
    }
    connection.execute("create schema replay")
    connection.execute(
        f"""
        create table {LEARNERS} as
        select distinct user_id
        from {LIVE}.raw.lms_event
        where
            load_id <= {plan.through_load:d}
            and {" and ".join(conditions[name] for name in given)}
        """,
        given,
    )
    if set(given) == {"users"}:
        _choose_learners_without_events(connection, plan.scope)
    if not connection.execute(f"from {LEARNERS} limit 1").fetchall():
        raise NothingMatches(
            f"no event that the live state has taken in matches {plan.scope}; ids must "
            "be exact, and times are those of the events"
        )


def _choose_learners_without_events(
    connection: duckdb.DuckDBPyConnection, scope: Scope
) -> None:
    """Named learners may have live rows that no event explains: those are to go."""
    tables = connection.execute(
        f"""
        select columns.schema_name, columns.table_name
        from duckdb_columns() as columns
        inner join {LIVE}.bookkeeping.watermark as consumed
            on columns.table_name = consumed.model
        where
            columns.database_name = '{LIVE}'
            and columns.schema_name != '{PREVIOUS}'
            and columns.column_name = 'user_id'
        """
    ).fetchall()
    for schema, table in tables:
        connection.execute(
            f"""
            insert into {LEARNERS}
            select distinct user_id from {LIVE}."{schema}"."{table}"
            where
                user_id in (select unnest($users))
                and user_id not in (select user_id from {LEARNERS})
            """,
            {"users": list(scope.users)},
        )


# --------------------------------------------------------------------------------------
# The difference
# --------------------------------------------------------------------------------------


def _compare(
    connection: duckdb.DuckDBPyConnection, plan: _Plan, made: Shadow, examples: int
) -> Replay:
    is_part = plan.scope.is_part
    behind = _behind(connection, plan)
    if is_part and behind:
        raise WarehouseError(
            f"load {plan.through_load} is not taken in by every model: "
            f"{', '.join(behind)} stand behind; run `warehouse refresh` first, or "
            "replay everything"
        )
    compared = state_of(made, is_part=is_part)
    notes = []
    for relation in made.relations:
        name = relation.full_name
        if name not in LIVE_ANSWERS or (is_part and name == LEADERBOARD):
            continue  # the leaderboard ranks a learner among all, whom a part lacks
        if name == PROGRESS and _has_newer_catalogue(connection, plan):
            notes.append(
                f"{PROGRESS} is not compared: it shows a catalogue snapshot that the "
                "state has yet to take in (`warehouse refresh`)"
            )
            continue
        compared.append(relation)
    changed_rules = _changed_rules(connection)
    learners = None
    only = "true"
    if is_part:
        only = f"user_id in (select user_id from {LEARNERS})"
        [[learners]] = connection.execute(f"select count(*) from {LEARNERS}").fetchall()
        for relation in compared:
            if "user_id" not in columns(connection, DERIVED, relation):
                raise WarehouseError(
                    f"{relation.full_name} has no user_id, so it cannot be derived for "
                    "some learners; replay everything"
                )
        if changed_rules:
            notes.append(
                f"another rule made the live state of {', '.join(changed_rules)}: the "
                "next refresh derives every learner by today's"
            )
    return Replay(
        scope=str(plan.scope),
        through_load=plan.through_load,
        learners=learners,
        differences=tuple(
            compare(connection, relation, only=only, examples=examples)
            for relation in compared
        ),
        changed_rules=changed_rules,
        changed_views=tuple(
            relation.full_name for relation in changed_views(connection, LIVE, made)
        ),
        leftovers=()
        if is_part
        else tuple(
            leftover.full_name
            for leftover in leftovers.find(
                connection, LIVE, leftovers.current_database(connection)
            )
        ),
        notes=tuple(notes),
        applied=False,
        seconds=0,
    )


def _behind(connection: duckdb.DuckDBPyConnection, plan: _Plan) -> list[str]:
    """The models that have not taken in what the others have."""
    return _models_where(
        connection, f"live.load_id is distinct from {plan.through_load}"
    )


def _changed_rules(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    return tuple(
        _models_where(
            connection,
            "live.rule_fingerprint is distinct from derived.rule_fingerprint",
        )
    )


def _models_where(connection: duckdb.DuckDBPyConnection, condition: str) -> list[str]:
    rows = connection.execute(
        f"""
        select derived.model
        from bookkeeping.watermark as derived
        left join {LIVE}.bookkeeping.watermark as live on derived.model = live.model
        where {condition}
        order by derived.model
        """
    ).fetchall()
    return [model for (model,) in rows]


def _has_newer_catalogue(connection: duckdb.DuckDBPyConnection, plan: _Plan) -> bool:
    rows = connection.execute(
        f"""
        from {LIVE}.raw.load
        where kind = 'catalogue' and load_id > {plan.through_load} limit 1
        """
    ).fetchall()
    return bool(rows)


def _is_worth_a_swap(
    connection: duckdb.DuckDBPyConnection, plan: _Plan, made: Shadow, found: Replay
) -> bool:
    """Where a swap would make no difference, what the last one replaced is kept."""
    is_part = plan.scope.is_part
    state = {relation.full_name for relation in state_of(made, is_part=is_part)}
    differing = [each for each in found.differences if not each.is_empty]
    if is_part:
        for difference in differing:
            if difference.is_new or difference.other_columns:
                what = ", ".join(difference.column_changes) or "new"
                raise WarehouseError(
                    f"{difference.table} has other columns now ({what}), which only a "
                    "replay of everything can swap; nothing was changed"
                )
        return any(difference.table in state for difference in differing)
    return bool(
        differing
        or found.changed_views
        or found.changed_rules
        or found.leftovers
        or _behind(connection, plan)
    )
