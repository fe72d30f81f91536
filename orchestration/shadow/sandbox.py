"""A place to try an edit: a private copy of what is published, built with dbt.

    sandboxes/NAME/warehouse.duckdb

is a copy of the newest snapshot: `raw` is what is published, the events as a view of
its Parquet files, and all that is derived is the sandbox's own. dbt's target `sandbox`
builds into it. Its bookkeeping came with it, so a build derives again only what an edit
reaches, and takes in what was published since: what then differs from the newest
snapshot, the edit made.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import duckdb

from ingest.errors import WarehouseError, first_line
from ingest.settings import Settings
from ingest.store import database, files
from orchestration.derive import dbt_runner, leftovers
from orchestration.derive.dbt_project import Project, Relation
from orchestration.derive.dbt_runner import Derivation
from orchestration.shadow import difference
from orchestration.shadow.difference import Difference
from orchestration.shadow.shadow import LIVE
from serving import published

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")


@dataclass(frozen=True)
class Sandbox:
    """A private copy, and the load that it stands at."""

    name: str
    path: str
    load_id: int
    bytes: int


@dataclass(frozen=True)
class Diff:
    """What a sandbox has otherwise than the newest snapshot, both at `load_id`.

    `edited` are the models whose rule is another, `downstream` what is made from them:
    models, and the exposures that read them. `new` and `gone` are what only the project
    has, or only the snapshot; `moved` is from where to where. `breaking` says what the
    readers of a public model no longer find, by its name as published. `differences`
    are those of the tables and views that differ, of `compared`.
    """

    sandbox: str
    load_id: int
    edited: tuple[str, ...]
    downstream: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    moved: dict[str, str]
    breaking: dict[str, tuple[str, ...]]
    compared: int
    differences: tuple[Difference, ...]
    build: Derivation
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "build": self.build.as_json(),
        }


def folder(warehouse_path: Path) -> Path:
    """`LMS_SANDBOXES`, or else sandboxes/ beside the warehouse."""
    return Settings.of(warehouse_path).sandboxes


def sandboxes(warehouse_path: Path) -> list[Sandbox]:
    found = folder(warehouse_path).glob(f"*/{escape(warehouse_path.name)}")
    return [_described(path) for path in sorted(found)]


def make(warehouse_path: Path, name: str) -> Sandbox:
    """Copies the newest snapshot. Raises `WarehouseError` if the name is taken."""
    path = _path(warehouse_path, name)
    if path.exists():
        raise WarehouseError(
            f"{path}: is there already; `warehouse sandbox {name} --remove` removes it"
        )
    try:
        # Opened, so that it is there until it is copied, whatever is published.
        with published.opened(warehouse_path):
            newest = published.snapshot_path(warehouse_path).resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.new_file(path) as unfinished:
                shutil.copyfile(newest, unfinished)
                with contextlib.closing(duckdb.connect(str(unfinished))) as connection:
                    _complete_raw(connection)
    except OSError as error:
        raise WarehouseError(f"{path}: cannot be made ({error.strerror})") from error
    return _described(path)


def remove(warehouse_path: Path, name: str) -> None:
    """Raises `WarehouseError` if there is none of that name."""
    shutil.rmtree(_existing(warehouse_path, name).parent)


def remove_all(warehouse_path: Path) -> None:
    """Removes every sandbox: a learner is erased, and they are copies."""
    for path in folder(warehouse_path).glob(f"*/*{escape(warehouse_path.name)}*"):
        shutil.rmtree(path.parent, ignore_errors=True)


def diff(
    warehouse_path: Path, name: str, *, build: bool = True, examples: int = 3
) -> Diff:
    """Builds the sandbox with the project as it is now, and compares it.

    Without `build`, what dbt has built there is compared. Raises `WarehouseError` when
    a model or a test fails.
    """
    started = time.perf_counter()
    path = _existing(warehouse_path, name)
    with _beside_published(path, warehouse_path) as connection:
        if build:
            _take_raw(connection)
    derivation, project = dbt_runner.derive_sandbox(path, warehouse_path, build=build)
    if derivation.failures:
        failures = (str(node.problem) for node in derivation.failures)
        raise WarehouseError(f"{name}: the build failed: {'; '.join(failures)}")
    with _beside_published(path, warehouse_path) as connection:
        before = _published(connection, project)
        changes = _Changes.of(project, before)
        edited = project.first_of(
            _changed_rules(connection, project.relations, changes.moved)
        )
        differences = [
            difference.compare(
                connection,
                relation,
                examples=examples,
                place=changes.moved.get(relation.full_name),
            )
            for relation in sorted(project.relations.values(), key=_public_first)
            # Staging is views over all events.
            if relation.schema != "staging"
            # A model that is newer than the build is not there.
            and difference.columns(connection, difference.DERIVED, relation)
        ]
        [[load_id]] = connection.execute(
            f"select load_id from {LIVE}.published.snapshot"
        ).fetchall()
    return Diff(
        sandbox=name,
        load_id=load_id,
        edited=tuple(project.relations[each].full_name for each in edited),
        downstream=tuple(project.downstream_of(edited)),
        new=changes.new,
        gone=tuple(sorted(relation.full_name for relation in changes.gone)),
        moved={old.full_name: new for new, old in changes.moved.items()},
        breaking=_breaking(project, before, changes, differences),
        compared=len(differences),
        differences=tuple(each for each in differences if not each.is_empty),
        build=derivation,
        seconds=round(time.perf_counter() - started, 3),
    )


@dataclass(frozen=True)
class _Changes:
    """What came, went and moved: `moved` has, by its new full name, what was there."""

    new: tuple[str, ...]
    gone: tuple[Relation, ...]
    moved: dict[str, Relation]

    @staticmethod
    def of(project: Project, before: Sequence[Relation]) -> "_Changes":
        after = {each.full_name: each for each in project.relations.values()}
        old = {each.full_name: each for each in before}
        left = {each.name: each for each in before if each.full_name not in after}
        moved = {
            name: left[relation.name]
            for name, relation in after.items()
            if name not in old and relation.name in left
        }
        came = {*after} - {*old} - {*moved}
        went = {*old} - {*after} - {each.full_name for each in moved.values()}
        return _Changes(tuple(sorted(came)), tuple(old[each] for each in went), moved)


def _published(
    connection: duckdb.DuckDBPyConnection, project: Project
) -> list[Relation]:
    """What dbt made of the newest snapshot, and what of it was public."""
    rows = connection.execute(
        f"""
        select distinct schema_name, table_name from duckdb_columns()
        where
            database_name = '{LIVE}'
            and schema_name not in ('raw', 'bookkeeping', 'published')
        """
    ).fetchall()
    if leftovers.is_known(connection, LIVE):
        public = connection.execute(
            f"select schema_name, name from {LIVE}.bookkeeping.relation where is_public"
        ).fetchall()
    else:  # an earlier version published it
        now = project.relations.values()
        public = [(each.schema, each.name) for each in now if each.is_public]
    return [
        Relation("", schema, name, "", (), is_public=(schema, name) in public)
        for schema, name in rows
    ]


def _breaking(
    project: Project,
    before: Sequence[Relation],
    changes: _Changes,
    differences: Sequence[Difference],
) -> dict[str, tuple[str, ...]]:
    """What readers of public models no longer find, by the name that they know."""
    found: dict[str, list[str]] = {}
    public = {relation.full_name for relation in before if relation.is_public}
    moved = {new: old.full_name for new, old in changes.moved.items()}
    for relation in changes.gone:
        found.setdefault(relation.full_name, []).append("gone")
    for new, old in moved.items():
        found.setdefault(old, []).append(f"now {new}")
    for relation in project.relations.values():
        name = moved.get(relation.full_name, relation.full_name)
        if not relation.is_public:
            found.setdefault(name, []).append("no longer public")
    for each in differences:
        found.setdefault(moved.get(each.table, each.table), []).extend(
            each.missing_columns
        )
    return {
        name: tuple(found[name])
        for name in sorted(public & found.keys())
        if found[name]
    }


def _public_first(relation: Relation) -> tuple[bool, bool, str]:
    is_state = relation.kind == "incremental"
    return (is_state, not relation.is_public, relation.full_name)


def _path(warehouse_path: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise WarehouseError(
            f"{name!r}: no name for a sandbox; letters, digits, - and _, up to 41"
        )
    # dbt's manifest names the database, which is known by its file: the same, then.
    return folder(warehouse_path) / name / warehouse_path.name


def _existing(warehouse_path: Path, name: str) -> Path:
    path = _path(warehouse_path, name)
    if not path.exists():
        raise WarehouseError(
            f"{path}: no such sandbox; `warehouse sandbox {name}` makes it"
        )
    return path


def _described(path: Path) -> Sandbox:
    with _opened(path, read_only=True) as connection:
        [[load_id]] = connection.execute(
            "select coalesce(max(load_id), 0) from raw.load"
        ).fetchall()
    return Sandbox(path.parent.name, str(path), load_id, path.stat().st_size)


@contextlib.contextmanager
def _opened(path: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        connection = duckdb.connect(str(path), read_only=read_only)
    except duckdb.Error as error:
        reason = first_line(error)
        raise WarehouseError(f"{path}: cannot be opened ({reason})") from error
    with contextlib.closing(connection):
        connection.execute("set timezone = 'UTC'")
        connection.execute("set enable_progress_bar = false")
        yield connection


@contextlib.contextmanager
def _beside_published(
    path: Path, warehouse_path: Path
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The sandbox, with the newest snapshot attached under the name of the live one."""
    newest = published.snapshot_path(warehouse_path)
    if not newest.exists():
        raise WarehouseError(
            f"{newest}: nothing is published any more; run `warehouse refresh`"
        )
    with _opened(path, read_only=False) as connection:
        database.attach(connection, newest.resolve(), LIVE)
        yield connection


def _complete_raw(connection: duckdb.DuckDBPyConnection) -> None:
    """Empty tables for what of `raw` is not published: dbt knows them as sources."""
    connection.execute("attach ':memory:' as empty_")
    connection.execute("use empty_")
    connection.execute(database.raw_schema())
    own = connection.execute(
        "select database_name from duckdb_databases() "
        "where not internal and database_name != 'empty_'"
    ).fetchall()[0][0]
    connection.execute(f"use {database.sql_name(own)}")
    missing = connection.execute(
        """
        select table_name from duckdb_tables() where database_name = 'empty_'
        except
        select table_name from information_schema.tables
        where table_catalog = $1 and table_schema = 'raw'
        """,
        [own],
    ).fetchall()
    for (table,) in missing:
        connection.execute(f"create table raw.{table} as from empty_.raw.{table}")


def _take_raw(connection: duckdb.DuckDBPyConnection) -> None:
    """Takes in what was published since: small tables, and a view of more files."""
    with database.transaction(connection):
        for (table,) in connection.execute(
            "select table_name from duckdb_tables() "
            f"where database_name = '{LIVE}' and schema_name = 'raw'"
        ).fetchall():
            connection.execute(f"drop table if exists raw.{table}")
            connection.execute(f"create table raw.{table} as from {LIVE}.raw.{table}")
        events = connection.execute(
            "select sql from duckdb_views() "
            f"where database_name = '{LIVE}' and schema_name = 'raw'"
        ).fetchall()
        for (sql,) in events:
            connection.execute("drop view if exists raw.lms_event")
            connection.execute(sql)
        connection.execute(
            "create or replace table published.snapshot as "
            f"from {LIVE}.published.snapshot"
        )


def _changed_rules(
    connection: duckdb.DuckDBPyConnection,
    relations: dict[str, Relation],
    moved: dict[str, Relation],
) -> list[str]:
    """The models whose rule, or definition, is another than the published one's: those
    that were edited, and those whose rule has theirs in it."""
    rules = {
        model
        for (model,) in connection.execute(
            f"""
            select here.model
            from bookkeeping.watermark as here
            left join {LIVE}.bookkeeping.watermark as there using (model)
            where here.rule_fingerprint is distinct from there.rule_fingerprint
            """
        ).fetchall()
    }
    found = []
    for unique_id, relation in relations.items():
        place = moved.get(relation.full_name, relation)
        if relation.kind == "incremental":
            changed = unique_id.split(".")[2] in rules
        else:
            there = difference.definition(connection, f"'{LIVE}'", relation)
            # A seed, or a view that the snapshot has as a table: by its rows.
            if relation.kind == "seed" or (there or "").startswith("CREATE TABLE"):
                changed = not difference.compare(
                    connection, relation, examples=0, place=place
                ).is_empty
            else:
                here = difference.definition(connection, difference.DERIVED, relation)
                changed = here != there
        if changed:
            found.append(unique_id)
    return found


def summary_rows(differences: Sequence[Difference]) -> list[tuple[Any, ...]]:
    """For people: of each table, and of each column, what changed."""
    return [
        (
            f"{each.table} (new)" if each.is_new else each.table,
            each.rows,
            each.added,
            each.gone,
            each.changed,
            ", ".join(
                [
                    *each.column_changes,
                    *(f"{name} {n:,}" for name, n in each.columns_changed.items()),
                ]
            ),
        )
        for each in differences
    ]
