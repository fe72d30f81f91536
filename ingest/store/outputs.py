"""Files that a user asks for: never over a database, and never where ours are."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from ingest.errors import WarehouseError
from ingest.settings import Settings
from ingest.store.files import new_file

# Where a DuckDB file says that it is one: after the checksum of its first block.
_MAGIC_AT, _MAGIC = 8, b"DUCK"


@contextlib.contextmanager
def new_output(path: Path, warehouse_path: Path) -> Iterator[Path]:
    """Where to write what becomes `path`, whole, at the end of the block.

    Raises `WarehouseError`, and then leaves everything as it was.
    """
    check(path, warehouse_path)
    with new_file(path) as unfinished:
        yield unfinished


def check(path: Path, warehouse_path: Path) -> None:
    """Raises `WarehouseError` where nothing of a user's may be written: over a DuckDB
    file, what is no regular file, or anything of the warehouse's."""
    place = path.parent.resolve() / path.name
    for own in _own_folders(warehouse_path):
        if place.is_relative_to(own):
            raise WarehouseError(
                f"{path}: is inside {own}, which the warehouse keeps for its own "
                "files; give another path"
            )
    own = warehouse_path.resolve()
    if place.parent == own.parent and place.name.startswith(own.name):
        raise WarehouseError(
            f"{path}: is a file of the warehouse's own; give another path"
        )
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() or not stat.S_ISREG(path.stat().st_mode):
            raise WarehouseError(f"{path}: is no regular file; give another path")
        with path.open("rb") as file:
            if file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC:
                raise WarehouseError(
                    f"{path}: is a DuckDB file, which is never overwritten; give "
                    "another path, or remove the file"
                )


def _own_folders(warehouse_path: Path) -> list[Path]:
    settings = Settings.of(warehouse_path)
    folders = (
        *(settings.landing, settings.published, settings.sandboxes, settings.outbox),
        *(settings.collector, settings.dagster_home, *settings.spools),
    )
    return [folder.resolve() for folder in folders if folder is not None]
