"""What a measurement runs in a process of its own, so that nothing is shared.

    python -m benchmarks.children TASK ARGUMENTS RESULT

ARGUMENTS is a JSON object, RESULT the file that gets the answer as JSON. `cpu` and
`wall` are seconds of the call alone, over all threads: starting Python and importing
are outside. `peak_mb` is the most memory that the whole process has had.
"""

import contextlib
import itertools
import json
import linecache
import os
import shutil
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb

from benchmarks.service import peak_mb

Answer = dict[str, Any]

_PROJECT = Path(__file__).parents[1]
_SAMPLE_SEC = 0.004

# Modules of dbt whose innermost function names what it is busy with.
_PHASES_OF_DBT = ("/dbt/task/", "/dbt/parser/manifest", "/dbt/compilation", "/dbt/cli/")


@contextlib.contextmanager
def _clock(answer: Answer) -> Iterator[None]:
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    answer["cpu"] = time.process_time() - cpu
    answer["wall"] = time.perf_counter() - wall


def generate(
    file: str,
    events: int,
    slices: int,
    number: int,
    clean: bool = False,
    append_to: str = "",
    catalogue: str = "",
) -> Answer:
    """Writes a slice (and the catalogue), perhaps to the end of another file."""
    from benchmarks.histories import History

    history = History(events, slices)
    history.write_events(Path(file), number, clean=clean)
    if catalogue:
        history.write_catalogue(Path(catalogue))
    if append_to:
        with Path(file).open("rb") as source, Path(append_to).open("ab") as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
        Path(file).unlink()
    return {}


def split(file: str, lines: int, parts: list[str]) -> Answer:
    """Cuts the beginning of a file into parts of so many lines."""
    with Path(file).open("rb") as source:
        for part in parts:
            with Path(part).open("wb") as target:
                target.writelines(itertools.islice(source, lines))
    return {}


def land(files: list[str], warehouse: str, profiled: bool = False) -> Answer:
    # They are imported by the first load of a process, not by each.
    import pyarrow.compute  # noqa: F401

    from ingest.landing import event_files

    answer: Answer = {}
    paths = [Path(file) for file in files]
    with _sampled(answer) if profiled else contextlib.nullcontext(), _clock(answer):
        result = event_files.land(paths, Path(warehouse))
    totals = result.totals()
    if totals["files_failed"]:
        raise RuntimeError(str(result.failures))
    return answer | {"totals": totals}


def naive(file: str, database: str) -> Answer:
    from benchmarks import floors

    answer: Answer = {}
    with _clock(answer):
        answer["rows"] = floors.create_naive_table(Path(file), Path(database))
    return answer


def read_gzip(file: str) -> Answer:
    from benchmarks import floors

    answer: Answer = {}
    with _clock(answer):
        answer["bytes"] = floors.read_gzip(Path(file))
    return answer


def read_gzip_in_python(file: str) -> Answer:
    import gzip

    answer: Answer = {}
    with _clock(answer), gzip.open(file) as stream:
        while stream.read(1024 * 1024):
            pass
    return answer


def hash_file(file: str) -> Answer:
    from benchmarks import floors

    answer: Answer = {}
    with _clock(answer):
        floors.hash_file(Path(file))
    return answer


def place(warehouse: str) -> Answer:
    """The last load before the newest: from where a merge has to begin."""
    from ingest.store.database import open_for_reading

    with open_for_reading(Path(warehouse)) as connection:
        [[newest]] = connection.execute("select max(load_id) from raw.load").fetchall()
    return {"place": newest - 1}


@dataclass(frozen=True)
class Statement:
    """What dbt sent: on which connection, for which node, in how many seconds.

    `sql` is also `rollback` or `close`, which dbt asks of the connection itself.
    """

    connection: int
    node: str
    resource_type: str
    sql: str
    has_values: bool
    seconds: float
    cpu: float


def derive(warehouse: str, without: Sequence[str] = ()) -> Answer:
    """What a refresh derives and tests, perhaps without what dbt selects so."""
    from orchestration.derive import dbt_runner

    left_out = dbt_runner._NOT_IN_A_REFRESH  # noqa: SLF001
    dbt_runner._NOT_IN_A_REFRESH = (*left_out, *without)  # noqa: SLF001
    answer: Answer = {}
    with _clock(answer):
        derivation = dbt_runner.derive(Path(warehouse))
    if not derivation.succeeded:
        raise RuntimeError(str(derivation.failures))
    return answer | {"nodes": [node.name for node in derivation.nodes]}


def capture(warehouse: str, statements: str) -> Answer:
    """Refreshes, and writes down all SQL that dbt sends meanwhile."""
    from orchestration.derive.dbt_runner import derive

    sent: list[Statement] = []
    with _watched_sql(sent.append):
        derivation = derive(Path(warehouse))
    if not derivation.succeeded:
        raise RuntimeError(str(derivation.failures))
    Path(statements).write_text(json.dumps([asdict(each) for each in sent]))
    return {"statements": len(sent)}


def derive_model(warehouse: str, model: str) -> Answer:
    """`cpu` is of the SQL that dbt sends for this one model, brought up to date."""
    from orchestration.derive.dbt_runner import derive

    answer: Answer = {}
    with _cost_of_models(answer):
        derivation = derive(Path(warehouse), select=[model])
    if not derivation.succeeded:
        raise RuntimeError(str(derivation.failures))
    return answer


def derive_stock(look_back_hours: int) -> Answer:
    """The same of benchmarks/stock_incremental, in `$STOCK_DATABASE`."""
    from dbt.cli.main import dbtRunner

    project = str(Path(__file__).with_name("stock_incremental"))
    answer: Answer = {}
    with _cost_of_models(answer):
        ended = dbtRunner().invoke(
            [
                *("--quiet", "--log-level-file", "none", "run"),
                *("--project-dir", project, "--profiles-dir", project),
                *("--vars", json.dumps({"look_back_hours": look_back_hours})),
            ]
        )
    if not ended.success:
        raise RuntimeError(str(ended.exception or ended.result))
    return answer


@contextlib.contextmanager
def _cost_of_models(answer: Answer) -> Iterator[None]:
    sent: list[Statement] = []
    with _watched_sql(sent.append):
        yield
    of_models = [each for each in sent if each.resource_type == "model"]
    answer["cpu"] = sum(each.cpu for each in of_models)
    answer["wall"] = sum(each.seconds for each in of_models)


@contextlib.contextmanager
def _watched_sql(note: Callable[[Statement], None]) -> Iterator[None]:
    from dbt.adapters.duckdb.environments import local
    from dbt_common.events.contextvars import get_node_info

    connections = itertools.count()

    class Watched(local.DuckDBCursorWrapper):  # type: ignore[misc]
        def __init__(self, cursor: Any) -> None:
            super().__init__(cursor)
            self._number = next(connections)

        def execute(self, sql: str, bindings: Any = None) -> Any:
            execute = super().execute
            return self._noted(sql, bindings, lambda: execute(sql, bindings))

        def rollback(self) -> Any:
            return self._noted("rollback", None, self._cursor.rollback)

        def close(self) -> Any:
            return self._noted("close", None, self._cursor.close)

        def _noted(self, sql: str, bindings: Any, call: Callable[[], Any]) -> Any:
            info = get_node_info()
            started, cpu = time.perf_counter(), time.process_time()
            try:
                return call()
            finally:
                note(
                    Statement(
                        connection=self._number,
                        node=info.get("unique_id", ""),
                        resource_type=str(info.get("resource_type", "")),
                        sql=sql,
                        has_values=bindings is not None,
                        seconds=time.perf_counter() - started,
                        cpu=time.process_time() - cpu,
                    )
                )

    original = local.DuckDBCursorWrapper
    local.DuckDBCursorWrapper = Watched
    try:
        yield
    finally:
        local.DuckDBCursorWrapper = original


def replay(warehouse: str, statements: str) -> Answer:
    """Sends again what dbt sent for the models, without dbt.

    What it sends for tests and seeds is left out. `seconds_by_node` are CPU seconds.
    """
    from benchmarks import floors

    sent = [
        statement
        for each in json.loads(Path(statements).read_text())
        if (statement := Statement(**each)).resource_type
        not in ("test", "seed", "unit_test")
    ]
    answer: Answer = {}
    by_node: defaultdict[str, float] = defaultdict(float)
    with _clock(answer):
        database = floors.connect(Path(warehouse))
        cursors: dict[int, duckdb.DuckDBPyConnection] = {}
        for statement in sent:
            started = time.process_time()
            if statement.sql == "close":
                if closing := cursors.pop(statement.connection, None):
                    closing.close()
                continue
            if statement.connection not in cursors:
                cursors[statement.connection] = database.cursor()
            cursor = cursors[statement.connection]
            cursor.execute(statement.sql)
            if cursor.description:
                cursor.fetchall()
            name = statement.node.split(".", 2)[-1] or "before all models"
            by_node[name] += time.process_time() - started
        started = time.process_time()
        for cursor in cursors.values():
            cursor.close()
        database.close()
        by_node["closing the file"] = time.process_time() - started
    answer["seconds_by_node"] = dict(by_node)
    answer["statements"] = len(sent)
    return answer


def merge_delta(warehouse: str, place: int) -> Answer:
    from benchmarks import floors

    answer: Answer = {}
    with _clock(answer):
        floors.merge_delta(Path(warehouse), place)
    return answer


def rebuild(warehouse: str, fresh: str) -> Answer:
    from benchmarks import floors

    answer: Answer = {}
    with _clock(answer):
        floors.rebuild(Path(warehouse), Path(fresh))
    return answer


def compare(derived: str, floor: str) -> Answer:
    from benchmarks import floors

    return {
        "tables": {
            difference.table: {
                "rows": difference.rows,
                "missing": difference.missing,
                "surplus": difference.surplus,
            }
            for difference in floors.differences(Path(derived), Path(floor))
        }
    }


def keep_tables(warehouse: str, fresh: str) -> Answer:
    """Copies the derived tables into a small file, to compare with later."""
    from benchmarks import floors

    with contextlib.closing(floors.connect(Path(fresh))) as connection:
        connection.execute(f"attach '{warehouse}' as live (read_only)")
        for schema in dict.fromkeys(t.split(".")[0] for t in floors.TABLES):
            connection.execute(f"create schema {schema}")
        for table in floors.TABLES:
            connection.execute(f"create table {table} as from live.{table}")
    return {}


def dagster_job(job: str) -> Answer:
    """Executes a job as a run of the daemon: in a fork of a process that has imported
    what it needs."""
    import dagster as dg

    from orchestration.runs import fork_server

    fork_server.import_all("orchestration.definitions")
    from orchestration.definitions import defs

    answer: Answer = {}
    with _clock(answer):
        process = os.fork()
        if process == 0:
            with dg.DagsterInstance.get() as instance:
                result = defs.resolve_job_def(job).execute_in_process(
                    instance=instance, raise_on_error=False
                )
            os._exit(not result.success)
        _, status, used = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"the job {job} failed")
    answer["cpu"] = used.ru_utime + used.ru_stime
    answer["run_peak_mb"] = used.ru_maxrss / 1024
    return answer


def profile_command(arguments: list[str]) -> Answer:
    """Where a command's time goes: by the project's own code, and in dbt's SQL."""
    answer: Answer = {}
    in_sql: defaultdict[str, float] = defaultdict(float)

    def note(sent: Statement) -> None:
        in_sql[sent.resource_type or "run"] += sent.seconds

    with _sampled(answer), _clock(answer):
        from orchestration import cli

        sys.argv = ["warehouse", *arguments]
        with _watched_sql(note), contextlib.suppress(SystemExit):
            cli.main()
    answer["sql_seconds"] = dict(in_sql)
    return answer


@contextlib.contextmanager
def _sampled(answer: Answer) -> Iterator[None]:
    """Samples where the main thread is; DuckDB and hashing work without the lock.

    `profile` has wall seconds by the innermost line of the project.
    """
    main = threading.main_thread().ident or 0
    seen: Counter[str] = Counter()
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_SEC):
            frame = sys._current_frames().get(main)  # noqa: SLF001
            seen[_where(frame)] += 1

    sampler = threading.Thread(target=sample, daemon=True)
    started = time.perf_counter()
    sampler.start()
    try:
        yield
    finally:
        ended.set()
        sampler.join()
        seconds = time.perf_counter() - started
        total = max(seen.total(), 1)
        answer["profile"] = {
            where: count * seconds / total for where, count in seen.most_common(12)
        }


def _where(frame: FrameType | None) -> str:
    importing = in_dbt = ""
    while frame is not None:
        code = frame.f_code
        if not in_dbt and any(part in code.co_filename for part in _PHASES_OF_DBT):
            in_dbt = f" [dbt: {Path(code.co_filename).stem}.{code.co_name}]"
        if code.co_filename.startswith("<frozen importlib"):
            importing = "imports"
        path = Path(code.co_filename)
        if path.is_relative_to(_PROJECT) and path.parent.name != "benchmarks":
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            return importing or f"{path.stem}.{code.co_name}: {line[:48]}{in_dbt}"
        frame = frame.f_back
    return importing or "before and after"


TASKS: dict[str, Callable[..., Answer]] = {
    task.__name__: task
    for task in (
        *(generate, split, land, naive, read_gzip, read_gzip_in_python, hash_file),
        *(place, derive, capture, replay, merge_delta, rebuild, compare, keep_tables),
        *(dagster_job, profile_command, derive_model, derive_stock),
    )
}


def main() -> None:
    task, arguments, result = sys.argv[1:]
    answer = TASKS[task](**json.loads(arguments))
    # Not `ru_maxrss`: on Linux a child begins with that of the process it came from.
    answer["peak_mb"] = peak_mb(os.getpid())
    Path(result).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
