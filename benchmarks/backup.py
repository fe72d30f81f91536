"""What a backup and a restore cost, against a plain copy of the file.

    python -m benchmarks.backup [--events 10M] [--folder FOLDER]

So many events are landed, and then 100,000 more. Each step is a process of its own, as
from the shell; CPU seconds are of all its threads, and what the file system does later
is awaited: copies and backups are synced. FOLDER keeps the warehouse for another run.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.children import generate
from ingest.landing import event_files
from ingest.settings import Settings
from ingest.store import database
from orchestration.backup import restore
from orchestration.backup.backup import backup

SLICE = 1_000_000
NEW = 100_000


def copy(warehouse: Path, to: Path) -> None:
    """The floor: the bytes of the file, durable."""
    shutil.copyfile(warehouse, to)
    with to.open("rb") as file:
        os.fsync(file.fileno())


def _step(step: str, warehouse: Path, other: Path) -> None:
    if step == "copy":
        copy(warehouse, other)
    elif step == "backup":
        backup(warehouse, other, keep=9)
    else:
        settings = Settings.of(warehouse)
        restore.restore(settings, restore.plan(settings, "backup", folder=other))
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            print(int(line.split()[1]) // 1024)


def measure(what: str, step: str, warehouse: Path, other: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.backup", "--step", step),
            *("--warehouse", str(warehouse), "--other", str(other)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    size = _size(other if step != "restore" else warehouse)
    print(
        f"| {what} | {cpu:.1f} | {wall:.1f} | {done.stdout.strip()} "
        f"| {size / 1e6:,.0f} |",
        flush=True,
    )


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def run(events: int, folder: Path) -> None:
    warehouse = folder / "warehouse.duckdb"
    slices = max(events // SLICE, 1)
    for number in range(slices + 1):
        file = folder / f"slice-{number}.ndjson"
        if number < slices:
            generate(str(file), min(events, SLICE), slices + 1, number)
        else:
            generate(str(file), NEW, slices + 1, number)
        if number < slices:
            event_files.land([file], warehouse)
            file.unlink()
    shutil.rmtree(folder / "backups", ignore_errors=True)
    with database.open_for_reading(warehouse) as connection:
        [[count]] = connection.execute("select count(*) from raw.lms_event").fetchall()
    print(f"{count:,} events, {os.cpu_count()} cores\n")
    print("| step | CPU s | s | MB of memory | MB on disk |\n|---|---|---|---|---|")
    measure("plain copy", "copy", warehouse, folder / "copy.duckdb")
    measure("first backup", "backup", warehouse, folder / "backups")
    event_files.land([folder / f"slice-{slices}.ndjson"], warehouse)
    measure(f"backup of {NEW:,} more", "backup", warehouse, folder / "backups")
    measure("backup of nothing new", "backup", warehouse, folder / "backups")
    measure("plain copy again", "copy", warehouse, folder / "copy.duckdb")
    for path in folder.glob("warehouse.duckdb*"):
        path.unlink()
    measure("restore, before deriving", "restore", warehouse, folder / "backups")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", default="10M")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step")
    parser.add_argument("--warehouse", type=Path)
    parser.add_argument("--other", type=Path)
    given = parser.parse_args()
    if given.step:
        _step(given.step, given.warehouse, given.other)
        return
    events = int(float(given.events.upper().removesuffix("M")) * 1_000_000)
    with tempfile.TemporaryDirectory(prefix="lms-backup-") as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        run(events, folder)


if __name__ == "__main__":
    main()
