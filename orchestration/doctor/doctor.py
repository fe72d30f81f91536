"""`warehouse doctor`: looks at everything that an operator would look at.

It changes nothing, and waits for nobody: what another process holds is said.
"""

import contextlib
import difflib
import glob
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import duckdb

from ingest.errors import WarehouseDamaged, WarehouseError, first_line
from ingest.landing import zone
from ingest.settings import (
    Settings,
    project_folder,
    unknown_variables,
    variable_names,
)
from ingest.store import database, formats, journal, last_runs, tombstones
from ingest.store.database import sql_name
from ingest.store.files import lock_open_file
from orchestration.backup import folder as backups
from orchestration.doctor import instance
from orchestration.doctor.finding import Finding, note, ok, problem, shown
from serving import published

# Older than this, what happens by itself has not happened.
_SNAPSHOT_BEHIND = timedelta(hours=1)
_FILE_WAITS = timedelta(hours=1)
_SPOOL_WAITS = timedelta(minutes=30)
_RUN_AGE = {"reconcile": timedelta(days=2), "check": timedelta(days=2)}
_BACKUP_AGE = timedelta(days=2)
_CLOCK = timedelta(minutes=2)

_PINNED = ("duckdb", "dbt-core", "dbt-duckdb", "dagster")


def look(
    settings: Settings,
    *,
    unknown: Sequence[str] | None = None,
    read_all: bool = True,
) -> list[Finding]:
    """Every finding, by area. `unknown` are the variables that no setting has, those of
    the environment if not given. With `read_all` every block of the warehouse and of
    the snapshot is read, and so compared with its checksum."""
    found: list[Finding] = []
    parts: tuple[Callable[[], Iterable[Finding]], ...] = (
        _versions,
        lambda: _configuration(unknown_variables() if unknown is None else unknown),
        lambda: _warehouse(settings, read_all),
        lambda: _snapshot(settings, read_all),
        lambda: _permissions(settings),
        lambda: _disk(settings),
        lambda: _locks(settings),
        lambda: _waiting(settings),
        lambda: _backups(settings),
        lambda: _last_runs(settings),
        lambda: instance.findings(settings.dagster_home),
    )
    for part in parts:
        try:
            found += part()
        except (WarehouseError, duckdb.Error, OSError) as error:
            found.append(
                problem("doctor", first_line(error), "mend that, and look again")
            )
    return found


# --- versions and configuration ------------------------------------------------------


def _versions() -> Iterator[Finding]:
    project = project_folder()
    locked = project / "requirements.lock" if project else None
    text = locked.read_text("utf-8") if locked and locked.exists() else ""
    wanted = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE))
    others = []
    for package in sorted(wanted.keys() & set(_PINNED)):
        try:
            there = version(package)
        except PackageNotFoundError:
            there = "none"
        if there != wanted[package]:
            others.append(f"{package} {there} instead of {wanted[package]}")
    if others:
        yield problem(
            "versions", "; ".join(others), "`make` in the project installs the lock's"
        )
        return
    pinned = ", ".join(f"{package} {version(package)}" for package in _PINNED)
    yield ok("versions", f"warehouse {version('lms-warehouse')}, {pinned}")


def _configuration(unknown: Sequence[str]) -> Iterator[Finding]:
    known = variable_names()
    for name in unknown:
        like = difflib.get_close_matches(name, known, n=1)
        yield problem(
            "configuration",
            f"{name} is set, and no setting has that name",
            f"did you mean {like[0]}?" if like else "unset it (docs/running.md)",
        )
    if not unknown:
        yield ok("configuration", "every LMS_ variable that is set is a setting")


# --- the warehouse and the snapshot --------------------------------------------------


def _warehouse(settings: Settings, read_all: bool) -> Iterator[Finding]:
    path = settings.warehouse
    if not path.exists():
        yield problem(
            "warehouse",
            f"{path}: no warehouse there",
            "land events first, or `warehouse restore`; or set LMS_WAREHOUSE",
        )
        return
    try:
        # Not by `database`, which would carry an older file over.
        with (
            database.damage_is_said(path),
            contextlib.closing(duckdb.connect(str(path), read_only=True)) as opened,
        ):
            opened.execute("set timezone = 'UTC'")
            yield from _in_warehouse(opened, path, read_all)
    except duckdb.IOException as error:
        if not database.is_locked(error):
            raise
        holder = database.lock_holder(error).removeprefix(": ") or "another process"
        yield note(
            "warehouse",
            f"{path}: held by {holder}; its content was not looked at",
            "wait for it to end, and look again",
        )
    except WarehouseDamaged as error:
        yield problem("warehouse", first_line(error), "see docs/runbooks/restore.md")


def _in_warehouse(
    opened: duckdb.DuckDBPyConnection, path: Path, read_all: bool
) -> Iterator[Finding]:
    if reason := formats.newer(opened):
        yield problem("warehouse", f"{path}: {reason}", "use the version that made it")
        return
    number = formats.numbers(opened).get("raw", 1)
    if number < formats.FORMATS["raw"]:
        yield note(
            "warehouse",
            f"{path}: format {number}; this version has {formats.FORMATS['raw']}",
            "the next command that opens it carries it over",
        )
    if read_all:
        count = _read_everything(opened)
        yield ok("warehouse", f"{path}: every block of {count} tables is as written")
    [[erased, newest, received_at]] = opened.execute(
        "select (select count(*) from raw.tombstone), "
        "coalesce(max(load_id), 0), max(received_at) from raw.load"
    ).fetchall()
    if received_at and received_at - database.utc_now() > _CLOCK:
        yield problem(
            "clock",
            f"the newest load was received at {received_at:%Y-%m-%d %H:%M:%S} (UTC), "
            "which is to come",
            "set the clock; events of today count as late until then",
        )
    else:
        yield ok("clock", f"{database.utc_now():%Y-%m-%d %H:%M:%S} (UTC)")
    key = tombstones.key_file(path)
    if erased and not key.exists() and not Settings.from_environment().erasure_key:
        yield problem(
            "secrets",
            f"learners were erased ({erased:,}), and the key of their tombstones is "
            "missing",
            f"put back {key}, or set {tombstones.KEY_VARIABLE}: nothing can be landed",
        )
    known = journal.read(path)
    last = known.loads[-1].load_id if known.loads else 0
    if last < newest:
        yield note(
            "warehouse",
            f"{journal.file_of(path)}: has loads through {last} of {newest}",
            "the next load appends them",
        )


def _read_everything(opened: duckdb.DuckDBPyConnection) -> int:
    """DuckDB compares each block that it reads with its checksum."""
    tables = opened.execute(
        "select schema_name, table_name from duckdb_tables() "
        "where database_name = current_database() and not temporary"
    ).fetchall()
    for names in tables:
        opened.execute(
            f"select sum(hash(found)) from {sql_name(*names)} as found"
        ).fetchall()
    return len(tables)


def _snapshot(settings: Settings, read_all: bool) -> Iterator[Finding]:
    path = published.snapshot_path(settings.warehouse)
    if not path.exists():
        yield note("snapshot", "nothing was published yet", "run `warehouse refresh`")
        return
    with published.opened(settings.warehouse) as opened:
        [[load_id, published_at]] = opened.execute(
            "select load_id, published_at from published.snapshot"
        ).fetchall()
        if read_all:
            _read_everything(opened)
            opened.execute(
                "select sum(hash(event)) from raw.lms_event as event"
            ).fetchall()
    age = database.utc_now() - published_at
    known = journal.read(settings.warehouse).loads
    waiting = [each for each in known if each.load_id > load_id]
    if waiting and database.utc_now() - waiting[0].received_at > _SNAPSHOT_BEHIND:
        yield problem(
            "snapshot",
            f"{path}: through load {load_id}, published {shown(age)} ago; load "
            f"{waiting[0].load_id} waits for {shown(_since(waiting[0].received_at))}",
            "`warehouse refresh` says why",
        )
    else:
        yield ok("snapshot", f"{path}: through load {load_id}, {shown(age)} old")


# --- who may read, and what room there is --------------------------------------------


def _permissions(settings: Settings) -> Iterator[Finding]:
    warehouse = settings.warehouse
    env = Path("/etc/lms-warehouse.env")
    secrets = [tombstones.key_file(warehouse), settings.tokens, env]
    data = [
        *(warehouse, journal.file_of(warehouse), settings.published),
        *(settings.landing, settings.outbox, settings.reports, *settings.spools),
        *((settings.backup,) if settings.backup else ()),
    ]
    wrong = 0
    for path in secrets:
        if (mode := _mode(path)) is not None and mode & 0o077 & ~_GROUP_OF.get(path, 0):
            wrong += 1
            yield problem(
                "secrets",
                f"{path}: others can read it ({stat.filemode(mode)})",
                f"chmod go= {path}",
            )
    for path in data:
        mode = _mode(path)
        if mode is None:
            continue
        if mode & 0o007:
            # A folder that strangers cannot enter closes what is in it.
            parent = _mode(path.parent)
            if parent is not None and not parent & 0o001:
                continue
            wrong += 1
            yield problem(
                "permissions",
                f"{path}: anybody can read it ({stat.filemode(mode)})",
                f"chmod -R o= {path}",
            )
        if not os.access(path, os.R_OK | os.W_OK):
            wrong += 1
            yield problem(
                "permissions",
                f"{path}: this user cannot write it ({stat.filemode(mode)})",
                "run as the user of the services",
            )
    if not wrong:
        yield ok("permissions", "nobody else can read data or secrets")


# systemd reads it as root; the services' group may read it.
_GROUP_OF = {Path("/etc/lms-warehouse.env"): 0o040}


def _mode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_mode
    return None


def _disk(settings: Settings) -> Iterator[Finding]:
    """An erasure and a rebuild write the file anew beside it, and then the snapshot."""
    warehouse = settings.warehouse
    if not warehouse.exists():
        return
    needed: dict[int, tuple[Path, int]] = {}

    def add(folder: Path, size: int) -> None:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        device = there.stat().st_dev
        before = needed.get(device, (there, 0))
        needed[device] = (before[0], before[1] + size)

    add(warehouse.parent, warehouse.stat().st_size)
    add(settings.published, _size_of(settings.published))
    if settings.backup and (there := backups.numbers(settings.backup)):
        with contextlib.suppress(WarehouseError):
            add(settings.backup, backups.read(settings.backup, there[-1]).bytes)
    for folder, size in needed.values():
        free = shutil.disk_usage(folder).free
        said = (
            f"{folder}: {_bytes(free)} free; a rebuild, an erasure need {_bytes(size)}"
        )
        if free < size:
            yield problem("disk", said, "make room, or move the warehouse")
        else:
            yield ok("disk", said)


def _size_of(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if not path.is_symlink())


# --- who holds what ------------------------------------------------------------------


def _locks(settings: Settings) -> Iterator[Finding]:
    warehouse = settings.warehouse
    files = [
        settings.published / warehouse.stem / "lock",
        *warehouse.parent.glob(f".{glob.escape(warehouse.name)}.publish-*.lock"),
        database.replacing_lock(warehouse),
        *((settings.backup / ".lock",) if settings.backup else ()),
    ]
    held = [file for file in files if _is_held(file)]
    for file in held:
        yield note("locks", f"{file}: held by {_holder(file)}", "wait for it to end")
    if not held:
        yield ok("locks", "nobody publishes, sends, backs up or replaces the file")


def _is_held(file: Path) -> bool:
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return not lock_open_file(opened.fileno())
    return False


def _holder(file: Path) -> str:
    """The process that Linux says has the lock."""
    with contextlib.suppress(OSError):
        inode = file.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            parts = line.split()
            if len(parts) > 5 and parts[5].split(":")[-1] == str(inode):
                command = Path(f"/proc/{parts[4]}/cmdline").read_bytes()
                words = command.replace(bytes(1), b" ").decode(errors="replace")
                return f"process {parts[4]} ({words.strip()[:80]})"
    return "another process"


# --- what waits, and what ran --------------------------------------------------------


def _waiting(settings: Settings) -> Iterator[Finding]:
    waits = 0
    for spool in settings.spools:
        for file in sorted(spool.glob("*.part")):
            age = _age_of(file)
            if age > _SPOOL_WAITS and not _is_held(file):
                waits += 1
                yield problem(
                    "spool",
                    f"{file}: left by a writer that is gone, {shown(age)} ago",
                    "start its writer again (the collector, the producer): it hands "
                    "the file on",
                )
    if not waits:
        yield ok("spool", "no file was left behind")
    known = journal.read(settings.warehouse).loads
    landed = {(each.file, each.file_bytes, each.file_mtime_ns) for each in known}
    unread = [
        file
        for file in (
            zone.files_in(settings.landing) if settings.landing.is_dir() else []
        )
        if (str(file), file.stat().st_size, file.stat().st_mtime_ns) not in landed
    ]
    old = [file for file in unread if _age_of(file) > _FILE_WAITS]
    if old:
        yield note(
            "landing",
            f"{len(old):,} files of the landing zone may not be landed, {old[0]} first",
            "`warehouse status` compares them by content",
        )
    else:
        yield ok("landing", f"{len(unread):,} files wait in {settings.landing}")


def _backups(settings: Settings) -> Iterator[Finding]:
    known = journal.read(settings.warehouse).backups
    if not known:
        yield note(
            "backup", "no backup was ever made", "set LMS_BACKUP, `warehouse backup`"
        )
        return
    newest = known[-1]
    age = _since(newest.made_at)
    folder = Path(newest.folder)
    try:
        manifest = backups.read(folder, newest.number)
        wrong = backups.problems(folder, manifest, read_all=False)
    except WarehouseError as error:
        wrong = [first_line(error)]
    for line in wrong:
        yield problem("backup", line, "make it reachable, or `warehouse backup` again")
    if age > _BACKUP_AGE:
        yield problem(
            "backup",
            f"the newest is {shown(age)} old ({folder}, number {newest.number})",
            "`warehouse backup`; the job `backup` does it by a schedule",
        )
    elif not wrong:
        yield ok("backup", f"number {newest.number} in {folder}, {shown(age)} old")


def _last_runs(settings: Settings) -> Iterator[Finding]:
    runs = last_runs.read(settings.warehouse)
    for kind, run in runs.items():
        age = _since(run.ended_at)
        if not run.succeeded:
            yield problem(
                kind,
                f"the last one, {shown(age)} ago, {run.outcome}",
                f"`warehouse {_COMMANDS[kind]}` says more",
            )
        elif age > _RUN_AGE.get(kind, timedelta.max):
            yield problem(
                kind,
                f"the last one is {shown(age)} old",
                f"`warehouse {_COMMANDS[kind]}`",
            )
        else:
            yield ok(kind, f"succeeded {shown(age)} ago")
    if "reconcile" not in runs:
        yield note("reconcile", "never ran", "`warehouse reconcile`")


_COMMANDS: dict[last_runs.Kind, str] = {
    "refresh": "refresh",
    "publication": "refresh",
    "check": "check",
    "reconcile": "reconcile",
    "backup": "backup",
}


def _age_of(file: Path) -> timedelta:
    changed = datetime.fromtimestamp(file.stat().st_mtime, UTC).replace(tzinfo=None)
    return _since(changed)


def _since(moment: datetime) -> timedelta:
    """`moment` is naive, in UTC."""
    return database.utc_now() - moment


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
