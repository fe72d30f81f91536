"""A folder of backups: manifests, and the Parquet files that they name.

    FOLDER/
      backup-00000012.json      what backup 12 consists of; written last, by rename
      raw.lms_event/            of a table that grows, a file for each backup's new rows
      raw.load/                 of any other table, a file for each change of it

A file is written once and belongs to every manifest that names it. A manifest says of
each file how long it is and its SHA-256, and of itself, too.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import filelock
import msgspec

from ingest.errors import WarehouseDamaged, WarehouseError
from ingest.store import database, outputs
from ingest.store.files import FOLDER_MODE, lock, sync_folder, write_durably

# Of the manifest and what it names.
FORMAT = 1


@dataclass(frozen=True)
class File:
    """A Parquet file of the backup. `content` is equal for equal rows, to the version
    of DuckDB that wrote it; `sha256` is of the file's bytes."""

    name: str
    rows: int
    content: str
    bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class Table:
    """A table: the SQL that makes it, and its rows in all of the files."""

    name: str
    sql: str
    files: tuple[File, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Manifest:
    """One backup. `newest` says, for each table that grows, up to which key it has it;
    `lineage` names its loads, and with them the warehouse, `tombstones` are the hashes
    of who was erased."""

    number: int
    made_at: datetime
    load_id: int
    tables: tuple[Table, ...]
    newest: dict[str, int]
    lineage: str
    tombstones: tuple[str, ...]
    format: int = FORMAT
    digest: str = ""

    def table(self, name: str) -> Table | None:
        return next((table for table in self.tables if table.name == name), None)

    @property
    def files(self) -> Iterator[File]:
        return (file for table in self.tables for file in table.files)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(replace(manifest, digest=""))).hexdigest()


def path_of(folder: Path, number: int) -> Path:
    return folder / f"backup-{number:08}.json"


def numbers(folder: Path) -> list[int]:
    """The backups in the folder, the oldest first."""
    found = (re.fullmatch(r"backup-(\d{8})\.json", path.name) for path in _list(folder))
    return sorted(int(match[1]) for match in found if match)


def _list(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def read(folder: Path, number: int) -> Manifest:
    """Raises `WarehouseError` for a backup that is not there, damaged, or newer."""
    path = path_of(folder, number)
    try:
        content = path.read_bytes()
        known = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        made_by = msgspec.json.decode(known["format"], type=int)
        if made_by > FORMAT:
            raise WarehouseError(
                f"{path}: a newer version made it (its format is {made_by}, this "
                f"version knows those up to {FORMAT}); use that version"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except FileNotFoundError:
        raise WarehouseError(f"{path}: no such backup") from None
    except (msgspec.MsgspecError, KeyError) as error:
        raise WarehouseDamaged(f"{path}: damaged ({error}); use another") from error
    except OSError as error:
        raise WarehouseError(f"{path}: cannot be read ({error.strerror})") from error
    if manifest.digest != _digest(manifest):
        raise WarehouseDamaged(f"{path}: damaged (its digest differs); use another")
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    """From here on the backup is there."""
    signed = replace(manifest, digest=_digest(manifest))
    write_durably(path_of(folder, manifest.number), msgspec.json.encode(signed))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problems(folder: Path, manifest: Manifest, *, read_all: bool) -> list[str]:
    """What is wrong with the files of a backup: each is looked for, and its bytes are
    compared if `read_all`."""
    found = []
    for file in manifest.files:
        path = folder / file.name
        try:
            if path.stat().st_size != file.bytes:
                found.append(f"{path}: has {path.stat().st_size} of {file.bytes} bytes")
            elif read_all and sha256_of(path) != file.sha256:
                found.append(f"{path}: damaged (its SHA-256 differs)")
        except OSError as error:
            found.append(f"{path}: cannot be read ({error.strerror})")
    return found


def remove_others(folder: Path, kept: list[Manifest]) -> None:
    """Removes every other backup, and then the files that no backup names, those that a
    killed process left among them."""
    numbers_kept = {manifest.number for manifest in kept}
    for number in numbers(folder):
        if number not in numbers_kept:
            path_of(folder, number).unlink(missing_ok=True)
    sync_folder(folder)
    named = {folder / file.name for manifest in kept for file in manifest.files}
    for pattern in ("raw.*/", "outbox.*/"):
        for inside in folder.glob(pattern):
            for path in inside.iterdir():
                is_ours = ".parquet" in path.suffixes or path.suffix == ".unfinished"
                if is_ours and path not in named:
                    path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it has files
                inside.rmdir()


@contextlib.contextmanager
def alone(folder: Path, warehouse_path: Path) -> Iterator[None]:
    """The folder, made where it is missing, as the only one who writes to it.

    Raises `WarehouseError` where it cannot be written, or another process backs up
    there for longer than one waits for the warehouse.
    """
    outputs.check(path_of(folder, 0), warehouse_path)
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        held = lock(folder / ".lock", wait_sec=database.lock_wait_sec())
        with held:
            yield
    except filelock.Timeout as error:
        raise WarehouseError(
            f"{folder}: another process makes a backup there; wait for it to end"
        ) from error
