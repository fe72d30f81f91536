"""Making a warehouse again: from a backup, from what was published, or from the files
that were landed.

    plan     what there is to take, and what cannot be had any more
    base     the tables of the backup or of the snapshot, into a new file
    loads    what was landed since, again, in the order and with the times of then
    erased   whoever has a tombstone, in any place that has one, is deleted
    check    the law of conservation, load by load
    rename   the new file takes the warehouse's place

What is derived is not restored but derived again: `warehouse refresh`. Killed at any
instant, it leaves what was there, whole.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import duckdb
import msgspec

from ingest import progress
from ingest.errors import WarehouseError, first_line
from ingest.landing import catalogue, event_files, lines, skills, zone
from ingest.settings import Settings
from ingest.store import conservation, database, erasure, journal, tombstones
from ingest.store.database import sql_name, sql_path
from ingest.store.files import FOLDER_MODE
from orchestration.backup import folder as folders
from orchestration.backup.backup import SCHEMAS, columns_of, content_of
from orchestration.backup.folder import Manifest
from serving import published

Source = Literal["backup", "published", "landing"]

_OUTBOX_IS_LOST = (
    "what was sent to others (schema outbox): the next `warehouse publish` enqueues "
    "every signal again, under its id and with a new number; move away what it wrote "
    "to LMS_OUTBOX, which has the old numbers"
)
_LETTERS_ARE_JUDGED_AGAIN = (
    "retries and discards of dead letters: each line is judged by today's contracts "
    "and quiz register"
)


@dataclass(frozen=True)
class LandedFile:
    """A load to be made again, and the file that has its content."""

    load: journal.Load
    path: Path


@dataclass(frozen=True)
class Plan:
    """What a restore takes, and what it cannot give back.

    The warehouse is what the source has through `through_load`, then the `files` that
    were landed later, and `unknown_files` of the landing zone, of which nobody knows
    when they were landed. `lost` are lines for people. `tombstones` are those of all
    places that were found.
    """

    source: Source
    taken_from: str
    through_load: int
    made_at: datetime | None
    files: tuple[LandedFile, ...] = ()
    unknown_files: tuple[Path, ...] = ()
    lost: tuple[str, ...] = ()
    tombstones: tuple[journal.Tombstone, ...] = field(default=(), repr=False)
    manifest: Manifest | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Restored:
    """A warehouse that was made again: its rows by table, how many learners who had
    been erased were deleted from it, and loads for which conservation does not hold."""

    plan: Plan
    rows: dict[str, int]
    load_id: int
    erased_again: int
    broken_loads: tuple[conservation.BrokenLoad, ...]
    seconds: float


# --- the plan ------------------------------------------------------------------------


def plan(
    settings: Settings,
    source: Source,
    *,
    folder: Path | None = None,
    number: int | None = None,
    replace: bool = False,
) -> Plan:
    """Looks at what there is, and compares a backup's bytes. Writes nothing but, to
    `replace` a warehouse, what the journal lacks of it.

    Raises `WarehouseError` where nothing can be restored from there, or a warehouse is
    in its place and it may not `replace` it.
    """
    path = settings.warehouse
    if path.exists():
        if not replace:
            raise WarehouseError(
                f"{path}: a warehouse is there; move it away, or give --replace, which "
                "puts the restored one in its place and lands again what it has landed"
            )
        with _explained(path), database.open_for_writing(path) as connection:
            journal.note_loads(connection)
            journal.note_tombstones(connection)
    known = journal.read(path)
    erased = {each.user_hash: each for each in known.tombstones}
    if source == "backup":
        assert folder is not None
        found = _of_backup(folder.resolve(), number)
        erased |= _tombstones_in(folder.resolve())
    elif source == "published":
        found, there = _of_published(settings)
        erased |= there
    else:
        found = _of_landing(settings, known)
    files, missing = _landed_since(known, found.through_load, settings.landing)
    unknown: tuple[Path, ...] = ()
    if source == "landing" and not known.loads:
        unknown = tuple(zone.files_in(settings.landing))
    if source == "landing" and not (files or unknown):
        raise WarehouseError(
            f"{settings.landing}: nothing was landed from there, and no file is in it"
        )
    return Plan(
        source=source,
        taken_from=found.taken_from,
        through_load=found.through_load,
        made_at=found.made_at,
        files=files,
        unknown_files=unknown,
        lost=(*found.lost, *missing),
        tombstones=tuple(erased[each] for each in sorted(erased)),
        manifest=found.manifest,
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A warehouse that cannot be opened is not written over: nobody knows what of it
    can be saved."""
    try:
        yield
    except WarehouseError as error:
        raise WarehouseError(
            f"{path}: cannot be opened, so it is not replaced; move it and "
            f"{path.name}.wal away, and run this again ({first_line(error)})"
        ) from error
    except OSError as error:
        raise WarehouseError(
            f"{journal.file_of(path)}: cannot be written ({error.strerror})"
        ) from error


def _of_backup(folder: Path, number: int | None) -> Plan:
    there = folders.numbers(folder)
    if not there:
        raise WarehouseError(f"{folder}: no backup there")
    manifest = folders.read(folder, number or there[-1])
    with progress.step("comparing the backup's files"):
        problems = folders.problems(folder, manifest, read_all=True)
    if problems:
        others = [each for each in there if each != manifest.number]
        instead = f"; try --number {others[-1]}" if others else ""
        raise WarehouseError("; ".join(problems) + instead)
    return Plan(
        source="backup",
        taken_from=str(folders.path_of(folder, manifest.number)),
        through_load=manifest.load_id,
        made_at=manifest.made_at,
        lost=("what `warehouse replay --undo` would put back, and sandboxes",),
        manifest=manifest,
    )


def _tombstones_in(folder: Path) -> dict[str, journal.Tombstone]:
    """Of every backup that is there: the newest may be the one that is damaged."""
    found: dict[str, journal.Tombstone] = {}
    for number in folders.numbers(folder):
        with contextlib.suppress(WarehouseError, duckdb.Error):
            table = folders.read(folder, number).table("raw.tombstone")
            names = [str(folder / file.name) for file in table.files] if table else []
            for name in names:
                found |= _tombstones(f"read_parquet({sql_path(Path(name))})")
    return found


def _tombstones(
    rows: str, connection: duckdb.DuckDBPyConnection | None = None
) -> dict[str, journal.Tombstone]:
    with contextlib.ExitStack() as stack:
        if connection is None:
            connection = stack.enter_context(contextlib.closing(duckdb.connect()))
        found = connection.execute(
            f"select user_hash, key_id, erased_at, reason from {rows}"
        ).fetchall()
    return {
        user_hash: journal.Tombstone(
            user_hash=user_hash, key_id=key_id, erased_at=erased_at, reason=reason
        )
        for user_hash, key_id, erased_at, reason in found
    }


def _of_published(settings: Settings) -> tuple[Plan, dict[str, journal.Tombstone]]:
    path = settings.published_snapshot
    with published.opened(settings.warehouse) as snapshot:
        [[load_id, published_at]] = snapshot.execute(
            "select load_id, published_at from published.snapshot"
        ).fetchall()
        try:
            erased = _tombstones("published.tombstone", snapshot)
        except duckdb.CatalogException:
            raise WarehouseError(
                f"{path}: an earlier version published it, without what a restore "
                "needs; use --from-landing"
            ) from None
        [[letters, discarded]] = snapshot.execute(
            "select (select count(*) from raw.dead_letter), "
            "(select count(*) from published.discarded_letter)"
        ).fetchall()
    lost = [_OUTBOX_IS_LOST, "what `warehouse replay --undo` would put back"]
    if letters or discarded:
        lost.append(
            f"the lines of dead letters ({letters:,}) and of discarded ones "
            f"({discarded:,}), but for those whose file is where it was"
        )
    lost.append(
        "events without a contract that an import kept: import the export again"
    )
    return Plan(
        "published", str(path), int(load_id), published_at, lost=tuple(lost)
    ), erased


def _of_landing(settings: Settings, known: journal.Journal) -> Plan:
    lost = [_OUTBOX_IS_LOST, "what `warehouse replay --undo` would put back"]
    lost.append(
        "events without a contract that an import kept: import the export again"
    )
    if any(load.kind == "retry" for load in known.loads):
        lost.append(_LETTERS_ARE_JUDGED_AGAIN)
    if not known.loads:
        lost.append(
            "when and in which order files were landed, since "
            f"{journal.file_of(settings.warehouse)} is not there: they are taken in "
            "the order of their names, and a catalogue without a time in its name "
            "holds from when its file was changed"
        )
    return Plan("landing", str(settings.landing), 0, None, lost=tuple(lost))


def _landed_since(
    known: journal.Journal, load_id: int, landing: Path
) -> tuple[tuple[LandedFile, ...], list[str]]:
    """The loads past this one with the files that have their content, and what is not
    to be found."""
    since = [load for load in known.loads if load.load_id > load_id]
    files, missing = [], []
    in_zone: dict[int, list[Path]] = {}
    for path in zone.files_in(landing) if landing.is_dir() else []:
        in_zone.setdefault(path.stat().st_size, []).append(path)
    for load in since:
        if load.kind == "retry":
            if load_id:
                missing.append(
                    f"load {load.load_id}, a retry of dead letters: run `warehouse "
                    "dead-letters retry` again"
                )
            continue
        for path in (Path(load.file), *in_zone.get(load.file_bytes, ())):
            if _has_content(path, load):
                files.append(LandedFile(load, path))
                break
        else:
            missing.append(
                f"load {load.load_id}: {load.file} ({load.lines_read:,} lines, SHA-256 "
                f"{load.file_sha256[:12]}...) is not there any more"
            )
    return tuple(files), missing


def _has_content(path: Path, load: journal.Load) -> bool:
    with contextlib.suppress(OSError):
        stat = path.stat()
        if stat.st_size != load.file_bytes:
            return False
        return lines.sha256_of(path) == load.file_sha256
    return False


# --- carrying it out -----------------------------------------------------------------


def restore(settings: Settings, planned: Plan) -> Restored:
    """Makes the warehouse that was planned. Raises `WarehouseError`, and then leaves
    what was there as it was."""
    started = time.perf_counter()
    path = settings.warehouse
    aside = path.with_name(f".{path.name}.restoring")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=FOLDER_MODE, parents=True)
        new = aside / path.name
        if (key := tombstones.key_file(path)).exists():
            tombstones.key_file(new).symlink_to(key.resolve())
        with progress.step("restoring"):
            expected = _newest_load(path)
            _make_base(planned, settings, new)
            _put_tombstones(planned, new)
            _land_again(planned, new)
            erased_again = _delete_the_erased(new)
            result = _describe(planned, new, erased_again, started)
            database.put_in_place(
                new, path, lambda old: _newest_load_in(old, "old.") == expected
            )
    except (duckdb.Error, OSError) as error:
        raise WarehouseError(
            f"{path}: cannot be restored ({first_line(error)}); what was there is as "
            "it was"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    with database.open_for_writing(path) as connection:
        journal.note_loads(connection)
        with contextlib.suppress(OSError):
            journal.note_tombstones(connection)
    return result


def _newest_load(path: Path) -> tuple[int, int] | None:
    if not path.exists():
        return None
    with database.open_for_reading(path) as connection:
        return _newest_load_in(connection)


def _newest_load_in(
    connection: duckdb.DuckDBPyConnection, prefix: str = ""
) -> tuple[int, int]:
    [row] = connection.execute(
        f"select (select coalesce(max(load_id), 0) from {prefix}raw.load), "
        f"(select count(*) from {prefix}raw.tombstone)"
    ).fetchall()
    return int(row[0]), int(row[1])


def _make_base(planned: Plan, settings: Settings, new: Path) -> None:
    if planned.manifest is not None:
        _load_backup(planned, planned.manifest, new)
    elif planned.source == "published":
        with database.open_for_writing(new, make=True):
            pass
        _load_published(settings, new)
    else:
        with database.open_for_writing(new, make=True):
            pass


def _configured(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("set timezone = 'UTC'")
    connection.execute("set enable_progress_bar = false")
    connection.execute("set preserve_insertion_order = false")
    memory = Settings.from_environment().memory_limit
    connection.execute("set memory_limit = $1", [memory])


def _load_backup(planned: Plan, manifest: Manifest, new: Path) -> None:
    """The tables as they were made, by the version that backed them up; an older
    format is carried over when the file is opened."""
    folder = Path(planned.taken_from).parent
    with contextlib.closing(duckdb.connect(str(new))) as connection:
        _configured(connection)
        for schema in SCHEMAS:
            if any(table.name.startswith(f"{schema}.") for table in manifest.tables):
                connection.execute(f"create schema {schema}")
        for table in manifest.tables:
            connection.execute(table.sql)
            if not table.files:
                continue
            columns = columns_of(connection, table.name)
            names = ", ".join(sql_path(folder / file.name) for file in table.files)
            saved = f"(select {columns} from read_parquet([{names}]))"
            connection.execute(f"insert into {table.name} by name from {saved}")
            kept = content_of(connection, f"(select {columns} from {table.name})")
            if kept != content_of(connection, saved):
                raise WarehouseError(
                    f"{new}: {table.name} has other rows than the backup; the disk may "
                    "be faulty"
                )
        connection.execute("checkpoint")


# What a snapshot has of raw, and under which name.
_PUBLISHED = {
    "load": "raw.load",
    "catalogue": "raw.catalogue",
    "class_skill": "raw.class_skill",
    "lms_event": "raw.lms_event",
    "dead_letter": "raw.dead_letter",
    "retried_letter": "published.retried_letter",
    "discarded_letter": "published.discarded_letter",
    "tombstone": "published.tombstone",
}
_LETTERS = ("dead_letter", "discarded_letter")


def _load_published(settings: Settings, new: Path) -> None:
    with database.open_for_writing(new) as connection:
        _configured(connection)
        database.attach(connection, settings.published_snapshot.resolve(), "snapshot")
        for table, source in _PUBLISHED.items():
            columns = columns_of(connection, f"raw.{table}")
            # A letter's line is not published: as if it had been too long to keep.
            no_line = "''::blob as line, " if table in _LETTERS else ""
            rows = f"(select {no_line}* from snapshot.{source})"
            connection.execute(
                f"insert into raw.{table} by name select {columns} from {rows}"
            )
            kept = content_of(connection, f"(select {columns} from raw.{table})")
            if kept != content_of(connection, f"(select {columns} from {rows})"):
                raise WarehouseError(
                    f"{new}: raw.{table} has other rows than were published"
                )
        connection.execute("detach snapshot")
        _find_letters(connection)
        connection.execute("checkpoint")


def _find_letters(connection: duckdb.DuckDBPyConnection) -> None:
    """Puts back the lines of dead letters whose file is still where it was."""
    for table in ("raw.dead_letter", "raw.discarded_letter"):
        wanted: dict[tuple[str, str], dict[int, str]] = {}
        for file, sha256, number, line_sha256 in connection.execute(
            f"""
            select letter.file, load.file_sha256, line_number, line_sha256
            from {table} as letter
            inner join raw.load as load using (load_id)
            where load.kind = 'events'
            """
        ).fetchall():
            wanted.setdefault((file, sha256), {})[number] = line_sha256
        for (file, sha256), letters in wanted.items():
            if found := _lines_of(Path(file), sha256, letters):
                connection.execute(
                    f"""
                    update {table} as letter set line = found.line
                    from (
                        select unnest($1) as line_number, unnest($2::blob[]) as line
                    ) as found
                    where letter.file = $3 and letter.line_number = found.line_number
                    """,
                    [[*found.keys()], [*found.values()], file],
                )


def _lines_of(path: Path, sha256: str, wanted: Mapping[int, str]) -> dict[int, bytes]:
    """The lines with these numbers and hashes, if the file is still that of its hash;
    of one that is too long, the start that is kept."""
    found: dict[int, bytes] = {}
    with contextlib.suppress(OSError):
        if lines.sha256_of(path) != sha256:
            return {}
        with contextlib.closing(lines.EventFile(path)) as file:
            for chunk in file.chunks(lines.CHUNK_BYTES):
                first = chunk.first_line_number
                for number in wanted.keys() & range(first, first + len(chunk.lines)):
                    line = chunk.lines[number - first].as_py().encode()
                    line_sha256 = lines.sha256_hex(line)
                    if bad := chunk.bad_lines.get(number):
                        line, line_sha256 = bad.content, bad.sha256
                    if line_sha256 == wanted[number]:
                        found[number] = line
    return found


def _put_tombstones(planned: Plan, new: Path) -> None:
    """Before anything is landed: who was erased is not taken in again."""
    with database.open_for_writing(new) as connection:
        for each in planned.tombstones:
            connection.execute(
                """
                insert into raw.tombstone by name
                select
                    $user_hash as user_hash,
                    $key_id as key_id,
                    $erased_at::timestamp as erased_at,
                    $reason as reason
                where $user_hash not in (select user_hash from raw.tombstone)
                """,
                msgspec.structs.asdict(each),
            )
        tombstones.read(connection)  # raises where their key is missing


def _land_again(planned: Plan, new: Path) -> None:
    for each in planned.files:
        load = each.load
        if load.kind == "catalogue":
            catalogue.land_catalogue(
                each.path,
                new,
                effective_from=load.effective_from,
                received_at=load.received_at,
            )
        elif load.kind == "skills":
            skills.land_skills(each.path, new, received_at=load.received_at)
        else:
            _land_events(each.path, new, load.received_at)
    for path in planned.unknown_files:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(tzinfo=None)
        if path.suffix == ".csv":
            catalogue.land_catalogue(path, new, received_at=changed)
        else:
            # Not when the file was changed: a clock that is wrong, or a copy, would
            # make events of it ones to come.
            _land_events(path, new, database.utc_now())


def _land_events(path: Path, new: Path, received_at: datetime) -> None:
    for load in event_files.land([path], new, received_at=received_at).failures:
        raise WarehouseError(f"{load.failed}")


def _delete_the_erased(new: Path) -> int:
    with database.open_for_writing(new) as connection:
        count = erasure.delete_the_erased(connection)
    if count:
        database.rewrite(new)
    return count


def _describe(planned: Plan, new: Path, erased_again: int, started: float) -> Restored:
    with database.open_for_writing(new) as connection:
        names = connection.execute(
            "select schema_name, table_name from duckdb_tables() "
            "where schema_name in $1 order by all",
            [list(SCHEMAS)],
        ).fetchall()
        rows = {
            f"{schema}.{name}": int(
                connection.execute(
                    f"select count(*) from {sql_name(schema, name)}"
                ).fetchall()[0][0]
            )
            for schema, name in names
        }
        [[load_id]] = connection.execute(
            "select coalesce(max(load_id), 0) from raw.load"
        ).fetchall()
        broken = tuple(conservation.broken_loads(connection))
        connection.execute("force checkpoint")
    return Restored(
        plan=planned,
        rows=rows,
        load_id=int(load_id),
        erased_again=erased_again,
        broken_loads=broken,
        seconds=round(time.perf_counter() - started, 3),
    )
