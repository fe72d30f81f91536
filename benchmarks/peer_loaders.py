"""How others land a file of lines: one function a tool, as its own guide shows it.

    .venv-peers/bin/python benchmarks/peer_loaders.py pandas events.ndjson FOLDER

It stands alone, because it runs in the environment of requirements-peers.txt. Each
leaves its table in the folder, and raises what the tool raises: what a tool does with a
broken line is part of what is measured.
"""

import sys
from pathlib import Path

COLUMNS = {
    "event_id": "varchar",
    "type": "varchar",
    "schema_version": "integer",
    "user_id": "varchar",
    "class_id": "varchar",
    "course_id": "varchar",
    "occurred_at": "timestamp",
    "payload": "json",
}


def pandas(file: Path, folder: Path) -> None:
    """The loader of the platform's first design."""
    import json
    import sqlite3

    import pandas as pd

    events = pd.read_json(file, lines=True)
    events = events.drop_duplicates(subset="event_id")
    events["payload"] = events["payload"].map(json.dumps)
    with sqlite3.connect(folder / "table.sqlite") as connection:
        events.to_sql("lms_event", connection, if_exists="append", index=False)


def polars(file: Path, folder: Path) -> None:
    """What can't be read is null: the tool's way to go on past a broken line."""
    import polars as pl

    events = pl.read_ndjson(file, ignore_errors=True, infer_schema_length=10_000)
    events.unique(subset="event_id", keep="first").write_parquet(
        folder / "table.parquet"
    )


def duckdb(file: Path, folder: Path) -> None:
    """Its own reader, which skips what it can't read, into a table with a key."""
    import duckdb as database

    types = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    with database.connect(folder / "table.duckdb") as connection:
        connection.execute(f"create table lms_event ({types}, primary key (event_id))")
        connection.execute(
            "insert or ignore into lms_event select * from read_json($file, "
            "format = 'newline_delimited', ignore_errors = true, columns = $columns)",
            {"file": str(file), "columns": COLUMNS},
        )
        connection.execute("checkpoint")


def dlt(file: Path, folder: Path) -> None:
    """A resource merged on its key, into DuckDB."""
    import json
    import os
    from collections.abc import Iterator
    from typing import Any

    os.environ["DLT_DATA_DIR"] = str(folder / "dlt")
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    import dlt as tool

    @tool.resource(
        name="lms_event",
        primary_key="event_id",
        write_disposition="merge",
        columns={"payload": {"data_type": "json"}},
    )
    def events() -> Iterator[list[dict[str, Any]]]:
        with file.open() as lines:
            batch = []
            for line in lines:
                batch.append(json.loads(line))
                if len(batch) == 10_000:
                    yield batch
                    batch = []
            yield batch

    tool.pipeline(
        "peers",
        pipelines_dir=str(folder / "pipelines"),
        destination=tool.destinations.duckdb(str(folder / "table.duckdb")),
        dataset_name="landed",
    ).run(events())


def spark(file: Path, folder: Path) -> None:
    """Reads what it can, and takes repeats out; one process, all cores."""
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[*]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.driver.memory", "3g")
        .getOrCreate()
    )
    kinds = {"varchar": "string", "json": "string"}
    schema = ", ".join(f"{name} {kinds.get(of, of)}" for name, of in COLUMNS.items())
    events = session.read.schema(schema).json(str(file))
    events.dropDuplicates(["event_id"]).write.parquet(str(folder / "table.parquet"))
    # Waited for, so that what the JVM used counts as this process's.
    gateway = session.sparkContext._gateway  # noqa: SLF001
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


LOADERS = {load.__name__: load for load in (pandas, polars, duckdb, dlt, spark)}

if __name__ == "__main__":
    _, name, events_file, to_folder = sys.argv
    LOADERS[name](Path(events_file), Path(to_folder))
