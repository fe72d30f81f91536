"""What people would use instead, beside us in one run: `make bench-peers`, or

    python -m benchmarks.peers --python .venv-peers/bin/python --events 1M

Landing: the same lines, broken and repeated ones among them, by each tool as its guide
shows it (benchmarks/peer_loaders.py). Where a tool stops at a broken line, it gets the
file again without the lines that our landing rejects. What each table lacks or has too
much is counted against what our landing has accepted of the whole file.

Deriving: dbt's stock incremental model with a look-back window beside ours, on a
history whose events come up to three days late.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import duckdb
import typer

from benchmarks import measure
from benchmarks.bench import number_of
from benchmarks.children import split
from benchmarks.histories import History
from benchmarks.measure import Ended, Sample
from ingest.landing.outcomes import CONFLICT
from ingest.store import database

PROJECT = Path(__file__).parents[1]
LOADERS = ("pandas", "polars", "duckdb", "dlt", "spark")

_NEW = 100_000


@dataclass(frozen=True)
class Wrong:
    """What a table of events has, against the ids that our landing accepted."""

    rows: int
    lost: int
    doubled: int
    not_accepted: int


def main(
    python: Annotated[Path, typer.Option(help="The Python that has the peers.")],
    events: Annotated[str, typer.Option(help="How many are landed.")] = "1M",
    history: Annotated[
        str, typer.Option(help="How many there are before new ones are derived.")
    ] = "10M",
    loads: Annotated[int, typer.Option(help="How many times 100,000 more come.")] = 5,
    scratch: Annotated[Path | None, typer.Option(help="Where the files go.")] = None,
) -> None:
    """Prints two tables, as Markdown."""
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=scratch)).resolve()
    try:
        compare_landing(python.absolute(), number_of(events), folder)
        compare_deriving(number_of(history), loads, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Landing


def compare_landing(python: Path, events: int, folder: Path) -> None:
    dirty, sound = folder / "dirty.ndjson", folder / "sound.ndjson"
    History(events).write_events(dirty, 0)
    warehouse = folder / "ours.duckdb"
    ours = _child("land", folder, files=[str(dirty)], warehouse=str(warehouse))
    lines = keep_sound(dirty, sound, warehouse)
    accepted = count(warehouse, "table our.raw.lms_event", None)
    print(f"{lines:,} lines; `stops at` is what the tool says of the file as it is.\n")
    print(
        "| landed by | CPU s | s | MB | stops at | rows | lost | doubled "
        "| not accepted by us | lines it says nothing of |\n"
        "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|"
    )
    unsaid = lines - accounted_for(warehouse)
    _print_row("this project", Sample(**ours["whole"]), "", accepted, unsaid)
    for name in LOADERS:
        first = _load(python, name, dirty, folder / name)
        ended = first if not first.exit_code else None
        if ended is None:
            ended = _load(python, name, sound, folder / name)
        stops = "" if ended is first else _last_line(folder / f"{name}.dirty.log")
        if ended.exit_code:
            print(f"| {name} | | | | {stops} | | | | | |", flush=True)
            continue
        found = count(warehouse, *_table_of(folder / name))
        _print_row(name, ended.sample, stops, found, lines - found.rows)


def keep_sound(dirty: Path, sound: Path, warehouse: Path) -> int:
    """Writes all lines that were not rejected; how many there were in all."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        rejected = connection.execute(
            "select line_number from raw.dead_letter where reason != $conflict",
            {"conflict": CONFLICT},
        ).fetchall()
    left_out = {number for (number,) in rejected}
    count = 0
    with dirty.open("rb") as lines, sound.open("wb") as kept:
        for line in lines:
            count += 1
            if count not in left_out:
                kept.write(line)
    return count


def accounted_for(warehouse: Path) -> int:
    """Lines that are an event, a dead letter or, by the load's count, a repeat."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        [[lines]] = connection.execute(
            """
            select
                (select count(*) from raw.lms_event)
                + (select count(*) from raw.dead_letter)
                + (select sum(duplicate) from raw.load)
            """
        ).fetchall()
    return int(lines)


def _load(python: Path, name: str, file: Path, to: Path) -> Ended:
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    loader = Path(__file__).with_name("peer_loaders.py")
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    return measure.run(
        [str(python), str(loader), name, str(file), str(to)],
        to,
        environment,
        to.with_name(f"{name}.{file.stem}.log"),
    )


def _table_of(folder: Path) -> tuple[str, Path | None]:
    """The query of what a loader has left, and the file that it is in."""
    if (file := folder / "table.duckdb").exists():
        table = "landed.lms_event" if folder.name == "dlt" else "lms_event"
        return f"table their.{table}", file
    if (file := folder / "table.sqlite").exists():
        # DuckDB needs an extension for it: the ids are copied.
        copy = folder / "ids.duckdb"
        _copy_ids(file, copy)
        return "table their.lms_event", copy
    file = folder / "table.parquet"
    files = f"{file}/*.parquet" if file.is_dir() else str(file)
    return f"select event_id from read_parquet('{files}')", None


def _copy_ids(sqlite: Path, copy: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(sqlite)) as source, duckdb.connect(str(copy)) as to:
        ids = [each for (each,) in source.execute("select event_id from lms_event")]
        to.execute(
            "create table lms_event as select unnest($ids::varchar[]) as event_id",
            {"ids": ids},
        )


def count(warehouse: Path, query: str, file: Path | None) -> Wrong:
    """By the ids; `query` gives the rows, from the file as `their` or by itself."""
    with duckdb.connect() as connection:
        for name, path in (("our", warehouse), ("their", file)):
            if path is not None:
                connection.execute(
                    f"attach {database.sql_path(path)} as {name} (read_only)"
                )
        [row] = connection.execute(
            f"""
            with

            theirs as (

                select event_id, count(*) as times from ({query}) group by event_id

            )

            select
                coalesce(sum(times), 0)::bigint,
                (
                    select count(*) from our.raw.lms_event as ours
                    anti join theirs on theirs.event_id = ours.event_id
                ),
                coalesce(sum(times - 1), 0)::bigint,
                count(*) filter (
                    where event_id is null
                    or event_id not in (select event_id from our.raw.lms_event)
                )
            from theirs
            """
        ).fetchall()
    return Wrong(*row)


def _print_row(
    name: str, sample: Sample, stops: str, found: Wrong, unsaid: int
) -> None:
    cells = (
        *(name, f"{sample.cpu:.1f}", f"{sample.wall:.1f}", f"{sample.peak_mb:,.0f}"),
        *(stops, f"{found.rows:,}", f"{found.lost:,}", f"{found.doubled:,}"),
        *(f"{found.not_accepted:,}", f"{unsaid:,}"),
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip().replace("|", "\\|")[:90]


# Deriving


def compare_deriving(events: int, loads: int, folder: Path) -> None:
    warehouse = folder / "history" / "warehouse.duckdb"
    warehouse.parent.mkdir()
    slices = max(events // 1_000_000, 1)
    history = History(events // slices, slices + 1)
    for number in range(slices):
        _land(history, number, folder, warehouse)
    following = folder / "following.ndjson"
    history.write_events(following, slices)
    size = min(_NEW, history.events // (loads + 1))
    parts = [folder / f"new-{number}.ndjson" for number in range(loads)]
    split(str(following), size, [str(part) for part in parts])

    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "this project": lambda: _child(
            "derive_model",
            folder,
            warehouse,
            warehouse=str(warehouse),
            model="prj_video_progress",
        )
    }
    stocks: dict[str, Path] = {}
    for hours in (24, 72):
        way = f"look-back of {hours} hours"
        stocks[way] = stock = folder / f"stock-{hours}.duckdb"
        ways[way] = lambda stock=stock, hours=hours: _child(
            "derive_stock", folder, warehouse, stock=stock, look_back_hours=hours
        )
    # The first makes the views that the stock model reads.
    _warehouse(folder, warehouse, "refresh")
    for derive in ways.values():
        derive()
    spent: dict[str, list[Any]] = {way: [] for way in ways}
    for part in parts:
        _child("land", folder, files=[str(part)], warehouse=str(warehouse))
        for way, derive in ways.items():
            spent[way].append(derive())
    print(
        f"\n{events:,} events, then {loads} times {size:,} new lines; the SQL of one "
        "model, `video_progress`, with dbt's own beside it.\n"
    )
    print("| derived by | CPU s a load | s a load | rows that are wrong |")
    print("|---|--:|--:|--:|")
    for way, costs in spent.items():
        wrong = count_wrong(warehouse, stocks.get(way))
        cpu, wall = (
            sum(cost[name] for cost in costs) / loads for name in ("cpu", "wall")
        )
        print(f"| {way} | {cpu:.2f} | {wall:.2f} | {wrong:,} |", flush=True)


def _land(history: History, number: int, folder: Path, warehouse: Path) -> None:
    file = folder / f"slice-{number}.ndjson"
    history.write_events(file, number)
    if number == 0:
        catalogue = folder / "catalogue.csv"
        history.write_catalogue(catalogue)
        _warehouse(folder, warehouse, "catalogue", str(catalogue))
    _child("land", folder, files=[str(file)], warehouse=str(warehouse))
    file.unlink()


def count_wrong(warehouse: Path, stock: Path | None) -> int:
    """Learners' classes of which the number of pings or the largest position is not
    that of all pings: in the stock model's file, or in ours when that is None."""
    with duckdb.connect() as connection:
        connection.execute(f"attach {database.sql_path(warehouse)} as ours (read_only)")
        table = "ours.projections.prj_video_progress"
        if stock is not None:
            connection.execute(
                f"attach {database.sql_path(stock)} as stock (read_only)"
            )
            table = "stock.main.video_progress"
        [[wrong]] = connection.execute(
            f"""
            with

            truth as (

                select
                    user_id,
                    class_id,
                    count(*) as ping_count,
                    max(position_sec) as max_position_sec
                from ours.staging.stg_video_ping
                group by all

            )

            select count(*)
            from truth
            full join {table} as derived
                on
                    derived.user_id = truth.user_id
                    and derived.class_id = truth.class_id
            where
                (derived.ping_count, derived.max_position_sec)
                is distinct from (truth.ping_count, truth.max_position_sec)
            """
        ).fetchall()
    return int(wrong)


# Processes


def _environment(folder: Path, warehouse: Path | None, stock: Path | None) -> Any:
    return os.environ | {
        "LMS_WAREHOUSE": str(warehouse or folder / "none.duckdb"),
        "LMS_LANDING": str(folder / "landing"),
        "STOCK_DATABASE": str(stock or ""),
        "DBT_TARGET_PATH": str(folder / "target" / (stock.stem if stock else "ours")),
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(PROJECT),
    }


def _child(
    task: str,
    folder: Path,
    environment_warehouse: Path | None = None,
    *,
    stock: Path | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """A task of benchmarks/children.py; `whole` is the cost of its whole process."""
    answer_file = folder / "answer.json"
    command = [sys.executable, "-m", "benchmarks.children", task]
    ended = _run(
        [*command, json.dumps(arguments), str(answer_file)],
        folder,
        _environment(folder, environment_warehouse, stock),
    )
    answer: dict[str, Any] = json.loads(answer_file.read_text())
    return answer | {"whole": vars(ended.sample)}


def _warehouse(folder: Path, warehouse: Path, *arguments: str) -> None:
    command = str(Path(sys.executable).with_name("warehouse"))
    _run([command, *arguments], folder, _environment(folder, warehouse, None))


def _run(command: list[str], folder: Path, environment: Any) -> Ended:
    log = folder / "log.txt"
    ended = measure.run(command, folder, environment, log)
    if ended.exit_code:
        raise SystemExit(f"error: {command[-3:]}: {ended.printed}{log.read_text()}")
    return ended


if __name__ == "__main__":
    typer.run(main)
