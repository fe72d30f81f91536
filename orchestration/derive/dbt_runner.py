"""Deriving everything from raw with dbt: the one function behind command and job.

dbt runs inside this process: it costs a third of what starting it costs. Its connection
is closed before anything is returned, so that the warehouse is free again.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ingest import progress
from ingest.errors import WarehouseError
from ingest.settings import Settings
from ingest.store import database, last_runs
from orchestration.derive import bookkeeping, dbt_project, failures, leftovers
from orchestration.derive.dbt_project import Project, Relation
from orchestration.derive.leftovers import Leftover

# The tests that scan the whole history.
FULL_SCAN_TESTS = "tag:full_scan"

# What a refresh leaves out, and who runs it instead.
_NOT_IN_A_REFRESH = (
    "--exclude",
    # They say something of the project, not of the data: `make test` runs them.
    "resource_type:unit_test",
    # They cost what there is, not what changed: the job `checks` runs them daily.
    FULL_SCAN_TESTS,
)

# What stands already when nobody edited the project: further things to exclude. A small
# refresh takes 2.1 CPU-seconds then; making views and seeds again, it takes 4.5.
_VIEWS_AND_SEEDS = (
    "config.materialized:view",
    "resource_type:seed",
    # Of the seeds' contents, which are compared with those that passed.
    "tag:of_a_seed",
    # Without it the tests of what views give would be left out, too.
    *("--indirect-selection", "empty"),
)


@dataclass(frozen=True)
class Node:
    """What happened to one dbt resource; `failures` are the rows that a test found.

    Of one that failed, `problem` says in one line what, where, and what to do.
    """

    unique_id: str
    name: str
    resource_type: str
    status: str
    message: str | None
    failures: int | None
    seconds: float
    compiled_code: str | None
    problem: str | None = None

    @property
    def failed(self) -> bool:
        return self.status in ("error", "fail", "runtime error")

    @property
    def warned(self) -> bool:
        return self.status == "warn"


@dataclass(frozen=True)
class Derivation:
    """What happened in one run of dbt, in the order in which it happened.

    `nothing_new` when dbt was not needed: all was up to date. `views_unchanged` when
    views and seeds were not made again: they are as an earlier run of the same project
    made them. `leftovers` are what the project no longer has, `dropped` what a rebuild
    has dropped of it.
    """

    nodes: tuple[Node, ...]
    seconds: float
    nothing_new: bool = False
    views_unchanged: bool = False
    leftovers: tuple[Leftover, ...] = ()
    dropped: tuple[Leftover, ...] = ()

    @property
    def succeeded(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.failed)

    def as_json(self) -> dict[str, Any]:
        return {
            "succeeded": self.succeeded,
            "nothing_new": self.nothing_new,
            "views_stand": self.views_unchanged,
            "models": sum(node.resource_type == "model" for node in self.nodes),
            "tests": sum(node.resource_type == "test" for node in self.nodes),
            "warnings": [node.name for node in self.nodes if node.warned],
            "failures": [
                {"name": node.name, "message": node.message, "problem": node.problem}
                for node in self.failures
            ],
            "skipped": [node.name for node in self.nodes if node.status == "skipped"],
            "leftovers": [leftover.full_name for leftover in self.leftovers],
            "dropped": [leftover.full_name for leftover in self.dropped],
            "seconds": self.seconds,
        }


def derive(
    warehouse_path: Path,
    *,
    rebuild: bool = False,
    select: Sequence[str] = (),
    variables: Mapping[str, Any] | None = None,
    if_needed: bool = False,
) -> Derivation:
    """Brings the models up to date, with the tests of what is derived.

    Incrementally, or with `rebuild` from all of raw. `select` are dbt selectors, all
    models if empty; `variables` override those of dbt_project.yml. With `if_needed`,
    dbt does not run when nothing came and nothing was edited since the last refresh.
    Views and seeds are made again only after an edit, or when they are not as they were
    made. What the project no longer has is named, and dropped by a `rebuild` of
    everything that succeeds. A model or a test that fails is in the result. Raises
    `WarehouseError` when dbt cannot run.
    """
    if select or variables:
        return _derive(
            warehouse_path, rebuild, select=select, variables=variables, if_needed=False
        )
    with last_runs.noting_a_crash(warehouse_path, "refresh"):
        derivation = _derive(warehouse_path, rebuild, if_needed=if_needed)
    _note(warehouse_path, "refresh", derivation)
    return derivation


def _note(warehouse_path: Path, kind: last_runs.Kind, derivation: Derivation) -> None:
    run = last_runs.Run(
        database.utc_now(),
        derivation.succeeded,
        tuple(node.name for node in derivation.failures),
        sum(node.status == "skipped" for node in derivation.nodes),
    )
    last_runs.note(warehouse_path, kind, run)


def _derive(
    warehouse_path: Path,
    rebuild: bool,
    *,
    select: Sequence[str] = (),
    variables: Mapping[str, Any] | None = None,
    if_needed: bool,
) -> Derivation:
    started = time.perf_counter()
    everything = not select and not variables
    edition = bookkeeping.project_fingerprint(dbt_project.files())
    views_unchanged = False
    with database.open_for_writing(warehouse_path) as connection:
        bookkeeping.carry_over(connection)
        if everything:
            if rebuild:
                bookkeeping.forget_checks(connection)
            elif if_needed and bookkeeping.is_up_to_date(connection, edition):
                return Derivation(
                    nodes=(),
                    seconds=round(time.perf_counter() - started, 3),
                    nothing_new=True,
                    leftovers=tuple(leftovers.find(connection)),
                )
            else:
                bookkeeping.forget_checks(connection, of_other_than=edition)
                views_unchanged = bookkeeping.views_are_unchanged(connection, edition)
    # What is kept between runs for Dagster, manifest_path() writes.
    arguments = ["build", "--no-write-json", *_NOT_IN_A_REFRESH]
    if views_unchanged:
        arguments += _VIEWS_AND_SEEDS
    if rebuild:
        arguments.append("--full-refresh")
    derivation = _run(warehouse_path, arguments, select, variables)
    # What was edited while it ran may be in it or not: the next run makes it all.
    is_what_ran = edition == bookkeeping.project_fingerprint(dbt_project.files())
    left: tuple[Leftover, ...] = ()
    dropped: tuple[Leftover, ...] = ()
    if everything and derivation.succeeded and is_what_ran:
        with database.open_for_writing(warehouse_path) as connection:
            bookkeeping.remember_success(connection, edition)
            if rebuild:
                dropped = tuple(leftovers.drop(connection))
            else:
                left = tuple(leftovers.find(connection))
    return replace(
        derivation, views_unchanged=views_unchanged, leftovers=left, dropped=dropped
    )


def check(
    warehouse_path: Path, *, variables: Mapping[str, Any] | None = None
) -> Derivation:
    """Runs every data test, those that scan the whole history too, and looks whether
    anything was landed of late; changes nothing."""
    arguments = ["test", "--exclude", "resource_type:unit_test"]
    with last_runs.noting_a_crash(warehouse_path, "check"):
        tested = _run(warehouse_path, arguments, (), variables)
        fresh = look_at_freshness(warehouse_path)
    checked = Derivation(
        (*tested.nodes, *fresh.nodes), round(tested.seconds + fresh.seconds, 3)
    )
    _note(warehouse_path, "check", checked)
    return checked


def look_at_freshness(warehouse_path: Path) -> Derivation:
    """Whether something was landed of late, as `freshness` of a source has it."""
    found = _run(warehouse_path, ["source", "freshness"], (), None)
    sources = tuple(node for node in found.nodes if node.resource_type == "source")
    return replace(found, nodes=sources)


def unit_test(warehouse_path: Path) -> Derivation:
    """Runs dbt's unit tests; the models they are about must exist. Changes nothing."""
    return _run(warehouse_path, ["test"], ("test_type:unit",), None)


def derive_shadow(
    shadow: Path,
    warehouse_path: Path,
    *,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    variables: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> tuple[Derivation, dict[str, Relation]]:
    """Derives into `shadow`, a DuckDB file whose `raw` are views of the warehouse's.

    The warehouse is open for reading only: nothing can change it. `now` is the moment
    that views see as now. Also gives what the project has, by unique id. Raises
    `WarehouseError` when dbt cannot run at all.
    """

    def with_variables(arguments: list[str], variables: Mapping[str, Any]) -> list[str]:
        return [*arguments, "--vars", str(dict(variables))] if variables else arguments

    # Parsed as a refresh does, so that both have one partial parse: what is kept does
    # not depend on the target, and `now` is read when SQL is made of it.
    given = dict(variables or {})
    manifest = invoke(
        with_variables(["parse", "--no-write-json"], given), warehouse_path
    ).result
    arguments = ["build", "--target", "shadow", "--no-write-json"]
    for option, selectors in (("--select", select), ("--exclude", exclude)):
        if selectors:
            arguments += [option, *selectors]
    if now is not None:
        given["now"] = str(now)
    with database.open_for_reading(warehouse_path):
        pass  # waits for the lock, as dbt does not for what it attaches
    started = time.perf_counter()
    results = invoke(
        with_variables(arguments, given), warehouse_path, shadow, manifest
    ).result
    derivation = Derivation(
        tuple(_node(result, is_live=False) for result in results),
        round(time.perf_counter() - started, 3),
    )
    return derivation, dbt_project.relations(manifest)


def derive_sandbox(
    sandbox: Path, warehouse_path: Path, *, build: bool = True
) -> tuple[Derivation, Project]:
    """Brings the sandbox up to date with the project as it is now; the project, too.

    What no edit reaches is not derived again. Not to `build` only reads the project.
    """
    manifest = invoke(["parse", "--no-write-json"], warehouse_path).result
    started = time.perf_counter()
    results: Any = ()
    if build:
        arguments = ["build", "--target", "sandbox", "--no-write-json"]
        arguments += _NOT_IN_A_REFRESH
        results = invoke(
            arguments, warehouse_path, manifest=manifest, sandbox=sandbox
        ).result
    return (
        Derivation(
            tuple(_node(result, is_live=False) for result in results),
            round(time.perf_counter() - started, 3),
        ),
        Project.of(manifest),
    )


def _run(
    warehouse_path: Path,
    arguments: list[str],
    select: Sequence[str],
    variables: Mapping[str, Any] | None,
) -> Derivation:
    # Opening the file makes what is missing of `raw`, waits for the lock, and says in
    # one line what is wrong with a file that cannot be used.
    with database.open_for_writing(warehouse_path):
        pass
    if select:
        arguments = [*arguments, "--select", *select]
    if variables:
        arguments = [*arguments, "--vars", str(dict(variables))]
    started = time.perf_counter()
    with database.damage_is_said(warehouse_path):
        results = invoke(arguments, warehouse_path).result
        nodes = tuple(_node(result) for result in results)
        for node in nodes:
            if node.failed and database.is_damage(node.message or ""):
                raise WarehouseError(f"{node.name}: {node.message}")
    return Derivation(nodes, round(time.perf_counter() - started, 3))


def _node(result: Any, *, is_live: bool = True) -> Node:
    node = Node(
        unique_id=result.node.unique_id,
        name=result.node.name,
        resource_type=str(result.node.resource_type),
        status=str(result.status),
        message=_message(result),
        failures=result.failures,
        seconds=result.execution_time,
        compiled_code=getattr(result.node, "compiled_code", None),
    )
    if not node.failed:
        return node
    return replace(node, problem=failures.problem(result, is_live=is_live))


def _message(result: Any) -> str | None:
    if result.node.resource_type == "source" and getattr(result, "age", None):
        days = result.age / 86400
        return f"nothing came since {result.max_loaded_at:%Y-%m-%d} ({days:.0f} days)"
    return str(result.message) if result.message else None


def manifest_path() -> Path:
    """dbt's manifest, parsed again when a file of the project is newer than it."""
    path = dbt_project.target_folder() / "manifest.json"
    newest = max(file.stat().st_mtime for file in dbt_project.files())
    if not path.exists() or path.stat().st_mtime < newest:
        # Whatever the environment says of writing it.
        invoke(["parse", "--write-json"], Settings.from_environment().warehouse)
        path.touch()
    return path


def freshness_limit(source: str) -> timedelta:
    """How old the newest row of a source may be before dbt warns: `warn_after`."""
    manifest = json.loads(manifest_path().read_bytes())
    [found] = (
        each["freshness"]["warn_after"]
        for each in manifest["sources"].values()
        if f"{each['schema']}.{each['name']}" == source
    )
    return timedelta(**{f"{found['period']}s": found["count"]})


def compile_models(warehouse_path: Path) -> dict[str, str]:
    """The SQL of every model, as a rebuild runs it, by unique id."""
    arguments = ["compile", "--full-refresh", "--no-write-json"]
    arguments += ["--select", "resource_type:model", "--indirect-selection", "empty"]
    results = invoke(arguments, warehouse_path).result
    return {
        node.unique_id: node.compiled_code
        for node in map(_node, results)
        if node.compiled_code
    }


def invoke(
    arguments: list[str],
    warehouse_path: Path,
    shadow: Path | None = None,
    manifest: Any = None,
    sandbox: Path | None = None,
) -> Any:
    """What dbt gives back for the arguments; it runs inside this process.

    Raises `WarehouseError` when it cannot run; a model that fails is in the result.
    """
    from dbt.cli.main import dbtRunner
    from dbt_common.exceptions import DbtBaseException

    paths = {
        "LMS_WAREHOUSE": warehouse_path,
        "LMS_SHADOW": shadow,
        "LMS_SANDBOX": sandbox,
    }
    with (
        _own_run_folder() as run_folder,
        _environment(paths),
        progress.step("dbt reads the project") as tell,
    ):

        def tell_of_node(event: Any) -> None:
            if event.info.name == "NodeStart":
                tell(f"dbt: {event.data.node_info.node_name}")

        result = dbtRunner(manifest, [tell_of_node]).invoke(
            [
                # What went wrong is in the result, and said once.
                *("--log-level", "none", "--log-level-file", "none"),
                *("--no-send-anonymous-usage-stats", "--no-version-check"),
                *arguments,
                *("--project-dir", str(dbt_project.DBT_PROJECT)),
                *("--profiles-dir", str(dbt_project.DBT_PROJECT)),
                *("--target-path", str(run_folder)),
            ]
        )
        _close_connection()
    if result.exception is not None:
        # Frames of dbt have its cursors, and with them the file, for as long as
        # somebody keeps the error.
        traceback.clear_frames(result.exception.__traceback__)
        if isinstance(result.exception, DbtBaseException):
            text = failures.one_line(str(result.exception))
            raise WarehouseError(f"dbt: {text}") from result.exception
        raise result.exception
    return result


@contextlib.contextmanager
def _own_run_folder() -> Iterator[Path]:
    """A target folder of this run's own, started from the manifest that is kept.

    dbt leaves about 2 MB a run, and two processes that share a target folder read each
    other's half-written manifests. What is kept is replaced by rename.
    """
    kept = dbt_project.target_folder()
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=kept) as name:
        folder = Path(name)
        if (kept / "partial_parse.msgpack").exists():
            shutil.copy2(kept / "partial_parse.msgpack", folder)
        yield folder
        for file in ("partial_parse.msgpack", "manifest.json"):
            if (folder / file).exists():
                os.replace(folder / file, kept / file)


@contextlib.contextmanager
def _environment(paths: Mapping[str, Path | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in paths}
    os.environ.update({name: str(path or "") for name, path in paths.items()})
    os.environ["DO_NOT_TRACK"] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _close_connection() -> None:
    """dbt-duckdb keeps the file open, and locked, for as long as the process lives."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.adapters.factory import reset_adapters

    from orchestration.derive.dbt_plugin import Plugin

    Plugin.let_go()
    reset_adapters()
    DuckDBConnectionManager.close_all_connections()
