"""The landing zone: the folder where files arrive, and what of it is still to be taken.

`catalogue/*.csv` are catalogue snapshots, `events/` (with folders below it) has event
files. Files stay where they are; each is taken once, by its content and the load table,
whatever its name: a file that arrives late sorts where it likes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import WarehouseError
from ingest.landing import catalogue, event_files, lines
from ingest.landing.catalogue import CatalogueLoad
from ingest.landing.event_files import PACKING, Landing
from ingest.store import database


@dataclass(frozen=True)
class ZoneLanding:
    """What was taken: snapshots, event files, and snapshots that could not be read.

    `passed_over` are files of the zone that are neither, and that nobody will take.
    """

    snapshots: tuple[CatalogueLoad, ...]
    events: Landing
    snapshot_failures: tuple[str, ...]
    passed_over: tuple[Path, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each file of which nothing could be landed."""
        failed = (load.failed for load in self.events.failures)
        return (*self.snapshot_failures, *(line for line in failed if line))

    def load_ids(self) -> list[int]:
        """The loads that were made, snapshots and events."""
        events = (load.load_id for load in self.events.loads)
        return [
            *(snapshot.load_id for snapshot in self.snapshots if not snapshot.known),
            *(load_id for load_id in events if load_id is not None),
        ]


def files_in(zone: Path) -> list[Path]:
    """Every file of the zone that could be landed: snapshots first, then events."""
    snapshots = zone / "catalogue"
    found = []
    if any(snapshots.glob("*.csv")):
        found += catalogue.snapshot_files(snapshots)
    return [*found, *event_files.files_below(zone / "events")[0]]


def passed_over(zone: Path) -> list[Path]:
    """What is there and never taken: another kind of file, or in another folder."""
    _, found = event_files.files_below(zone / "events")
    elsewhere, _ = event_files.files_below(zone)
    folders = [zone / "events", zone / "catalogue"]
    return found + [
        path for path in elsewhere if not any(map(path.is_relative_to, folders))
    ]


def pending(
    files: Sequence[Path],
    warehouse_path: Path,
    *,
    wait_sec: float | None = None,
) -> list[Path]:
    """Those of `files` whose content no load has.

    A file that stands under the path, with the size and the time of change that a load
    noted is not read again; of others those are hashed whose size a load has. A
    snapshot's path counts, too: an earlier catalogue may come into force again in a
    file of another name. Raises `WarehouseError`.
    """
    if not warehouse_path.exists():
        return list(files)
    with database.open_for_reading(warehouse_path, wait_sec=wait_sec) as connection:
        loads = connection.execute(
            f"""
            select kind, file, file_bytes, file_mtime_ns, file_sha256, {PACKING}
            from raw.load
            """
        ).fetchall()
    unchanged = {(file, size, mtime_ns) for _, file, size, mtime_ns, _, _ in loads}
    sizes = {size for _, _, size, *_ in loads}
    events = {
        (sha256, packing) for kind, *_, sha256, packing in loads if kind == "events"
    }
    snapshots = {
        (file, sha256) for kind, file, *_, sha256, _ in loads if kind == "catalogue"
    }

    def is_pending(file: Path) -> bool:
        name, stat = lines.name_of(file), file.stat()
        if (name, stat.st_size, stat.st_mtime_ns) in unchanged:
            return False
        if stat.st_size not in sizes:
            return True
        try:
            sha256 = lines.sha256_of(file)
            if file.suffix == ".csv":
                return (name, sha256) not in snapshots
            return (sha256, lines.packing_of(file)) not in events
        except OSError:
            return True  # landing says why it cannot be read

    return [file for file in files if is_pending(file)]


def land_zone(zone: Path, warehouse_path: Path) -> ZoneLanding:
    """Takes every file still to be taken; one that fails does not stop the rest.

    Raises `WarehouseError` when the warehouse itself cannot be written.
    """
    with database.open_for_writing(warehouse_path, make=True):
        pass
    to_take = pending(files_in(zone), warehouse_path)
    snapshots, failures = [], []
    for file in to_take:
        if file.suffix == ".csv":
            try:
                snapshots.append(catalogue.land_catalogue(file, warehouse_path))
            except WarehouseError as error:
                failures.append(str(error))
    events = [file for file in to_take if file.suffix != ".csv"]
    return ZoneLanding(
        tuple(snapshots),
        event_files.land(events, warehouse_path) if events else Landing(()),
        tuple(failures),
        tuple(passed_over(zone)),
    )
