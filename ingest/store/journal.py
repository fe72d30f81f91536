"""The journal beside the warehouse: what a restore has to know that is in no backup.

`<warehouse>.journal` has a line of JSON for each load (which file, when it was
received, from when a catalogue holds), each tombstone and each backup. It is only ever
appended to, after the warehouse has committed; what a killed process did not append,
the next one does. A load's line names a file, and nothing that is in it.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import msgspec

from ingest.store import database
from ingest.store.files import FILE_MODE, sync_folder

# Of the journal's lines. A reader passes over what it does not know.
FORMAT = 1

# The last load is looked for in the end of the file first.
_TAIL_BYTES = 256 * 1024


class NewWarehouse(
    msgspec.Struct, frozen=True, tag_field="what", tag="warehouse", kw_only=True
):
    """From here on loads are those of a warehouse that begins with load 1."""

    format: int = FORMAT


class Load(msgspec.Struct, frozen=True, tag_field="what", tag="load", kw_only=True):
    """A load; times are naive, in UTC. `effective_from` is a catalogue's."""

    load_id: int
    kind: str
    file: str
    file_sha256: str
    file_bytes: int
    file_mtime_ns: int
    received_at: datetime
    effective_from: datetime | None = None
    lines_read: int = 0


class Tombstone(
    msgspec.Struct, frozen=True, tag_field="what", tag="tombstone", kw_only=True
):
    """A row of `raw.tombstone`."""

    user_hash: str
    key_id: str
    erased_at: datetime
    reason: str


class Backup(msgspec.Struct, frozen=True, tag_field="what", tag="backup", kw_only=True):
    """A backup that was made and verified."""

    folder: str
    number: int
    load_id: int
    made_at: datetime


_Line = NewWarehouse | Load | Tombstone | Backup
_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True)
class Journal:
    """What the journal says: the loads of the warehouse that is there now, in order,
    and every tombstone and backup of it and of those before."""

    loads: tuple[Load, ...]
    tombstones: tuple[Tombstone, ...]
    backups: tuple[Backup, ...]

    def backup_folders(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(Path(each.folder) for each in self.backups))


def file_of(warehouse_path: Path) -> Path:
    return warehouse_path.with_name(f"{warehouse_path.name}.journal")


def read(warehouse_path: Path) -> Journal:
    """All that can be read of it; nothing where there is none."""
    loads: dict[int, Load] = {}
    tombstones: dict[str, Tombstone] = {}
    backups = []
    for line in _lines(file_of(warehouse_path)):
        match line:
            case NewWarehouse():
                loads.clear()
            case Load():
                loads[line.load_id] = line
            case Tombstone():
                tombstones[line.user_hash] = line
            case Backup():
                backups.append(line)
    in_order = tuple(loads[load_id] for load_id in sorted(loads))
    return Journal(in_order, tuple(tombstones.values()), tuple(backups))


def note_loads(connection: duckdb.DuckDBPyConnection) -> None:
    """Appends the loads that the journal does not have. For whoever has landed.

    What was landed is as good without: a journal that cannot be written is behind, and
    the next load tries again.
    """
    path = file_of(database.path_of(connection))
    with contextlib.suppress(OSError):
        last = _last_load(path)
        new: list[_Line] = []
        since = 0
        if last is not None:
            [[is_ours]] = connection.execute(
                "select count(*) from raw.load where load_id = $1 and file_sha256 = $2",
                [last.load_id, last.file_sha256],
            ).fetchall()
            since = last.load_id if is_ours else 0
        if not since:
            new.append(NewWarehouse())
        rows = connection.execute(
            """
            select
                load.load_id,
                load.kind,
                load.file,
                load.file_sha256,
                load.file_bytes,
                load.file_mtime_ns,
                load.received_at,
                (
                    select any_value(effective_from)
                    from raw.catalogue
                    where catalogue.load_id = load.load_id
                ) as effective_from,
                load.lines_read
            from raw.load
            where load.load_id > $1
            order by load.load_id
            """,
            [since],
        ).fetchall()
        names = Load.__struct_fields__
        new += [Load(**dict(zip(names, row, strict=True))) for row in rows]
        if rows:
            _append(path, new)


def note_tombstones(connection: duckdb.DuckDBPyConnection) -> None:
    """Appends the tombstones that the journal does not have. Raises `OSError`: a
    restore that does not know them would bring learners back."""
    warehouse_path = database.path_of(connection)
    known = {each.user_hash for each in read(warehouse_path).tombstones}
    rows = connection.execute(
        "select user_hash, key_id, erased_at, reason from raw.tombstone order by all"
    ).fetchall()
    new = [
        Tombstone(user_hash=row[0], key_id=row[1], erased_at=row[2], reason=row[3])
        for row in rows
        if row[0] not in known
    ]
    _append(file_of(warehouse_path), new)


def note_backup(warehouse_path: Path, backup: Backup) -> None:
    """Raises `OSError`."""
    _append(file_of(warehouse_path), [backup])


def _append(path: Path, lines: Sequence[_Line]) -> None:
    if not lines:
        return
    is_new = not path.exists()
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    # A buffered file writes all of it or raises; `os.write` may write a part.
    with open(path, "a+b", opener=_private) as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            if file.read(1) != b"\n":
                content = b"\n" + content  # a killed process left half a line
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def _lines(path: Path) -> Iterator[_Line]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        yield from _decoded(file)


def _decoded(lines: Iterable[bytes]) -> Iterator[_Line]:
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError):
            yield _decoder.decode(line)


def _last_load(path: Path) -> Load | None:
    """The last load of the warehouse that is there now."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        size = path.stat().st_size
        for start in (max(0, size - _TAIL_BYTES), 0):
            file.seek(start)
            for line in reversed(list(_decoded(file))):
                if isinstance(line, Load):
                    return line
                if isinstance(line, NewWarehouse):
                    return None
    return None
