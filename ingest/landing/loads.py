"""The rows of `raw.load`: one for each file, snapshot or retry that was landed."""

from datetime import datetime
from importlib.metadata import version

import duckdb

from ingest.contracts import generated


def record_load(
    connection: duckdb.DuckDBPyConnection,
    load_id: int,
    kind: str,
    source: str,
    file_sha256: str,
    *,
    file_bytes: int = 0,
    file_mtime_ns: int = 0,
    packing: str | None = None,
    received_at: datetime,
    seconds: float,
    lines_read: int = 0,
    accepted: int = 0,
    duplicate: int = 0,
    conflict: int = 0,
    rejected: int = 0,
    erased: int = 0,
) -> None:
    """Writes the load's row: what it was made of, by which versions, and its counts.

    `source` is the file, or a name for what is none; its bytes and hash are those that
    were read, and `packing` is how they were unpacked.
    """
    row = {
        "load_id": load_id,
        "kind": kind,
        "file": source,
        "file_sha256": file_sha256,
        "file_bytes": file_bytes,
        "file_mtime_ns": file_mtime_ns,
        "lines_read": lines_read,
        "accepted": accepted,
        "duplicate": duplicate,
        "conflict": conflict,
        "rejected": rejected,
        "erased": erased,
        "received_at": received_at,
        "seconds": seconds,
        "loader_version": version("lms-warehouse"),
        "contracts_digest": generated.digest(),
        "packing": packing,
    }
    columns = ", ".join(row)
    values = ", ".join(f"${name}" for name in row)
    connection.execute(f"insert into raw.load ({columns}) values ({values})", row)


def next_load_id(connection: duckdb.DuckDBPyConnection) -> int:
    """The id of the load that is being made: they grow by one."""
    [[load_id]] = connection.execute(
        "select coalesce(max(load_id), 0) + 1 from raw.load"
    ).fetchall()
    return int(load_id)
