"""Erasing learners: from every table, from the files of the warehouse, from its bytes.

    tombstone   committed first: from here on nothing of them is taken in
    rows        of raw, derived, kept and outbox tables, in one transaction
    files       of the outbox and of spools, each replaced by rename
    logs        of Dagster: rows and lines that name them
    bytes       the warehouse copied into a fresh file, which takes its place
    snapshots   all published again, events too; none from before is left, no sandbox
                and no weekly report
    backups     made anew in every folder that ever got one; none from before is left

Each step can be done again and finds less to do. Whoever is killed anywhere runs the
same again, and ends where an unbroken run ends.
"""

import contextlib
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb

from ingest.errors import WarehouseError
from ingest.settings import Settings
from ingest.store import database, erasure, tombstones
from ingest.store.files import lock_open_file, read_regular, sync_folder, write_durably
from orchestration.backup import backup
from orchestration.erasure.logs import Names, erase_logs
from orchestration.outbox import delivery, outbox, receivers
from orchestration.outbox.integration_events import FORMATS
from orchestration.shadow import sandbox, shadow
from orchestration.shadow.swap import PREVIOUS
from orchestration.snapshot import snapshot
from serving.report import remove_reports

# What `previous.replay` says a replay was of, once one of its learners is erased.
ERASED_SCOPE = "learners of whom some are erased"

LONGEST_ID = 256


@dataclass(frozen=True)
class Erasure:
    """What was erased, or with `dry_run` what would be.

    `rows` are by table, `lines` by file of the warehouse's own. `mentions` are rows, by
    table, that are of other learners and have one of the ids in them: they stay. `left`
    are files that are not the warehouse's and have one of the ids in them, for their
    owners to delete; `in_use` are files of a spool that their writer has open.
    `backups` are the folders in which the backup was made anew, `backups_missing` those
    that are not there now and may still have the learners.
    """

    dry_run: bool
    learners: int
    new_tombstones: int
    rows: dict[str, int]
    lines: dict[str, int]
    mentions: dict[str, int]
    left: tuple[str, ...]
    in_use: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    seconds: float
    backups: tuple[str, ...] = ()
    backups_missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """Folders to erase from, and those only to look through (`of_others`).

    `logs` is Dagster's; `reports` are written again every week. Folders that got a
    backup are known by the journal; `backups` is where it goes now.
    """

    outbox: Path
    spools: tuple[Path, ...] = ()
    logs: Path | None = None
    reports: Path | None = None
    backups: Path | None = None
    of_others: tuple[Path, ...] = ()

    @classmethod
    def of(cls, settings: Settings, spools: Sequence[Path] = ()) -> "Places":
        """`spools` are those of producers; the landing zone is of others."""
        return cls(
            outbox=settings.outbox,
            spools=tuple(spools),
            logs=settings.dagster_home,
            reports=settings.reports,
            backups=settings.backup,
            of_others=(settings.landing,),
        )


def erase(
    warehouse_path: Path,
    user_ids: Sequence[str],
    places: Places,
    *,
    reason: str,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Erasure:
    """Erases the learners, wherever an earlier run of it may have been killed.

    Raises `WarehouseError`; the same again goes on from there.
    """
    started = time.perf_counter()
    user_ids = sorted(set(user_ids))
    _check(user_ids, reason, places)
    if not warehouse_path.exists():
        raise WarehouseError(f"{warehouse_path}: no warehouse there; set LMS_WAREHOUSE")
    bytes_before = warehouse_path.stat().st_size
    # Whoever publishes may have set another folder than whoever erases.
    with database.open_for_reading(warehouse_path) as connection:
        ever_written_to = receivers.folders_of(outbox.targets(connection))
    folders = sorted({places.outbox, *ever_written_to})
    # Nobody writes to the outbox what was read of it before.
    with contextlib.ExitStack() as stack:
        if dry_run:
            with database.open_for_reading(warehouse_path) as connection:
                found = _look(connection, user_ids, dry_run=True)
        else:
            for folder in folders:
                for event_format in FORMATS:
                    target = receivers.folder_target(event_format, folder)
                    stack.enter_context(delivery.paused(warehouse_path, target.key))
            found = _erase_rows(warehouse_path, user_ids, reason, now)
        erased_lines, in_use = _erase_files(
            user_ids, folders, places.spools, dry_run=dry_run
        )
    names = Names.of(user_ids)
    erased_logs = erase_logs(places.logs, names, dry_run=dry_run) if places.logs else {}
    if not dry_run:
        shadow.remove_left_behind(warehouse_path)
        database.rewrite(warehouse_path)
        sandbox.remove_all(warehouse_path)
        if places.reports:
            # All of them: how a page spells an id is up to HTML.
            remove_reports(places.reports)
        snapshot.publish_again(warehouse_path, start_over=True)
        made, missing = backup.start_over_everywhere(warehouse_path, places.backups)
        found = replace(found, backups=made, backups_missing=missing)
    with database.open_for_reading(warehouse_path) as connection:
        landed = connection.execute("select distinct file from raw.load").fetchall()
    own = {Path(name) for name in (*erased_lines, *in_use)}
    logs = [places.logs] if places.logs and not dry_run else []
    left = _files_that_name(
        names, (*logs, *places.of_others, *(Path(file) for (file,) in landed)), own
    )
    return replace(
        found,
        lines=erased_lines | erased_logs,
        in_use=in_use,
        left=left,
        bytes_before=bytes_before,
        bytes_after=warehouse_path.stat().st_size,
        seconds=round(time.perf_counter() - started, 3),
    )


def read_users_file(path: Path) -> list[str]:
    """One id a line, as it is; blank lines are none. Raises `WarehouseError`."""
    try:
        text = read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WarehouseError(f"{path}: cannot be read ({error})") from error
    users = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not users:
        raise WarehouseError(f"{path}: no ids in it; write one a line")
    return users


def _check(user_ids: Sequence[str], reason: str, places: Places) -> None:
    if not user_ids:
        raise WarehouseError("nobody to erase: give --user or --users-file")
    for user_id in user_ids:
        if not user_id.strip() or len(user_id) > LONGEST_ID:
            raise WarehouseError(
                f"{user_id[:40]!r}: no user id; one has 1 to {LONGEST_ID} characters"
            )
        if re.search(rf"(?<![\w-]){re.escape(user_id)}(?![\w-])", reason):
            raise WarehouseError(
                "--reason: names a learner; it is kept, so say why without the id"
            )
    if not reason.strip():
        raise WarehouseError("--reason: say why")
    for spool in places.spools:
        if not spool.is_dir():
            raise WarehouseError(f"--spool {spool}: no such folder")


# --- rows ----------------------------------------------------------------------------


def _erase_rows(
    warehouse_path: Path, user_ids: Sequence[str], reason: str, now: datetime | None
) -> Erasure:
    with database.open_for_writing(warehouse_path) as connection:
        new = tombstones.put(
            connection,
            user_ids,
            reason=reason.strip(),
            erased_at=now or database.utc_now(),
        )
        with database.transaction(connection):
            found = _look(connection, user_ids, dry_run=False)
    return replace(found, new_tombstones=new)


def _look(
    connection: duckdb.DuckDBPyConnection, user_ids: Sequence[str], *, dry_run: bool
) -> Erasure:
    """Counts the learners' rows in every table; not on a `dry_run` deletes them."""
    if dry_run:
        rows = {
            letters.table: len(letters.ids)
            for letters in erasure.letters_of(connection, user_ids)
        }
    else:
        rows = erasure.delete(connection, user_ids)
    what = "select count(*)" if dry_run else "delete"
    for schema, table in erasure.tables_by_learner(connection):
        [[count]] = connection.execute(
            f"{what} from {database.sql_name(schema, table)} "
            "where user_id in (select unnest($1))",
            [list(user_ids)],
        ).fetchall()
        name = f"{schema}.{table}"
        rows[name] = rows.get(name, 0) + count
    if not dry_run:
        _forget_scope(connection, user_ids)
    others = erasure.mentions(connection, user_ids)
    if dry_run:
        # The letters that would go are still there.
        others = {
            table: count - (rows[table] if table.endswith("letter") else 0)
            for table, count in others.items()
        }
    return Erasure(
        dry_run=dry_run,
        learners=len(user_ids),
        new_tombstones=0,
        rows={name: count for name, count in sorted(rows.items()) if count},
        lines={},
        mentions={name: count for name, count in others.items() if count > 0},
        left=(),
        in_use=(),
        bytes_before=0,
        bytes_after=0,
        seconds=0,
    )


def _forget_scope(
    connection: duckdb.DuckDBPyConnection, user_ids: Sequence[str]
) -> None:
    """What a replay was of may name a learner; `replay --undo` shows it."""
    if connection.execute(
        "from duckdb_tables() where database_name = current_database() "
        f"and schema_name = '{PREVIOUS}' and table_name = 'replay'"
    ).fetchall():
        for user_id in user_ids:
            connection.execute(
                f"update {PREVIOUS}.replay set scope = $1 where contains(scope, $2)",
                [ERASED_SCOPE, f"user {user_id}"],
            )


# --- files ---------------------------------------------------------------------------


def _erase_files(
    user_ids: Sequence[str],
    outboxes: Sequence[Path],
    spools: Sequence[Path],
    *,
    dry_run: bool,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The lines that are gone, by file, and the spool files that are in use."""
    users = frozenset(user_ids)
    gone = Counter[str]()
    in_use = []
    for folder in (parent / each for parent in outboxes for each in FORMATS):
        for file in sorted(folder.glob("*.ndjson")):
            gone[str(file)] = _erase_lines(file, users, _published_for, dry_run)
        if not dry_run:
            # A killed `publish` left them; it writes them again, without the learner.
            for unfinished in folder.glob(".*.unfinished"):
                unfinished.unlink(missing_ok=True)
    for spool in spools:
        if not dry_run:
            for unfinished in spool.glob(".*.unfinished"):
                unfinished.unlink(missing_ok=True)
        for file in sorted(spool.glob("*.part")):
            with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
                if not lock_open_file(opened.fileno()):
                    if _erase_lines(file, users, _learner_of, dry_run=True):
                        in_use.append(str(file))
                    continue
                gone[str(file)] = _erase_lines(file, users, _learner_of, dry_run)
    return {name: count for name, count in gone.items() if count}, tuple(in_use)


def _erase_lines(
    path: Path,
    users: frozenset[str],
    learners_of: Callable[[bytes], Iterable[str]],
    dry_run: bool,
) -> int:
    """How many lines of the file are about the learners; not on a `dry_run` they go.

    A file with no other line goes too.
    """
    content = path.read_bytes()
    all_lines = io.BytesIO(content).readlines()
    kept = [line for line in all_lines if users.isdisjoint(learners_of(line))]
    gone = len(all_lines) - len(kept)
    if gone and not dry_run:
        if kept:
            write_durably(path, b"".join(kept))
        else:
            path.unlink()
            sync_folder(path.parent)
    return gone


def _published_for(line: bytes) -> Iterable[str]:
    """Whom an integration event or an xAPI statement is about."""
    event = json.loads(line)
    if "actor" in event:
        return (event["actor"]["account"]["name"],)
    return (event["data"]["user_id"],)


def _learner_of(line: bytes) -> Iterable[str]:
    with contextlib.suppress(ValueError, RecursionError):
        event = json.loads(line)
        if isinstance(event, dict) and isinstance(event.get("user_id"), str):
            return (event["user_id"],)
    return tombstones.learners_of(line)


def _files_that_name(
    names: Names, paths: Iterable[Path], own: set[Path]
) -> tuple[str, ...]:
    """Files at or under the paths with one of the ids in them, as a word of its own."""
    found = set()
    for path in paths:
        files = path.rglob("*") if path.is_dir() else (path,)
        for file in map(Path.resolve, files):
            if file.is_file() and file not in own and str(file) not in found:
                with contextlib.suppress(OSError):
                    if names.are_in_file(file):
                        found.add(str(file))
    return tuple(sorted(found))
