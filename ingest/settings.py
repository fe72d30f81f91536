"""What the environment sets: each variable with its default and its meaning.

The doors (the command line, Dagster, the collector) read it once and hand it on. The
table in docs/running.md is `variables_table`; a test holds them equal.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from ingest.errors import WarehouseError

_VARIABLE = "variable"


def project_folder() -> Path | None:
    """The nearest checkout of the project: this folder, or one above it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        with contextlib.suppress(OSError):
            text = (folder / "dbt_project" / "dbt_project.yml").read_text("utf-8")
            if re.search(r"^name: lms_warehouse$", text, re.MULTILINE):
                return folder
    return None


@dataclass(frozen=True)
class Variable:
    """One variable of the environment. `read` makes the field's value of its text."""

    name: str
    default: str
    meaning: str
    read: Callable[[str, str], Any]


def _text(_variable: str, text: str) -> str:
    return text


def _path(_variable: str, text: str) -> Path:
    return Path(text).resolve()


def _paths(_variable: str, text: str) -> tuple[Path, ...]:
    return tuple(Path(each) for each in text.split(os.pathsep) if each)


def _listed(_variable: str, text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _url(variable: str, text: str) -> str:
    url = text.rstrip("/")
    if not re.match(r"https?://[^/\s]", url):
        raise WarehouseError(
            f"{variable}={url}: give an address, http://... or https://..."
        )
    return url


def _moment(variable: str, text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).replace(tzinfo=None):%Y-%m-%d %H:%M:%S}"
    except ValueError as error:
        raise WarehouseError(
            f"{variable}={text}: give a time, 2026-10-23 12:00:00"
        ) from error


def _number(at_least: float) -> Callable[[str, str], float]:
    def read(variable: str, text: str) -> float:
        with contextlib.suppress(ValueError):
            if at_least <= (value := float(text)) < float("inf"):
                return value
        raise WarehouseError(f"{variable}={text}: give a number from {at_least:g} on")

    return read


def _whole_number(at_least: int) -> Callable[[str, str], int]:
    read = _number(at_least)
    return lambda variable, text: int(read(variable, text))


def _set_by(
    variable: str,
    default: str,
    meaning: str,
    read: Callable[[str, str], Any] = _text,
    *,
    is_secret: bool = False,
) -> Any:
    return dataclasses.field(
        metadata={_VARIABLE: Variable(variable, default, meaning, read)},
        repr=not is_secret,
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, read and checked; paths are absolute. Secrets are not shown."""

    warehouse: Path = _set_by(
        "LMS_WAREHOUSE",
        "data/warehouse.duckdb",
        "the warehouse, one DuckDB file; a relative default is in the project that one "
        "stands in, or else in this folder",
        _path,
    )
    landing: Path = _set_by(
        "LMS_LANDING",
        "data/landing",
        "the landing zone: `events/` and `catalogue/`; the collector hands files into "
        "its `events/`",
        _path,
    )
    published: Path = _set_by(
        "LMS_PUBLISHED",
        "`published/` beside the warehouse",
        "where snapshots for readers are",
        _path,
    )
    sandboxes: Path = _set_by(
        "LMS_SANDBOXES",
        "`sandboxes/` beside the warehouse",
        "where analysts' sandboxes are",
        _path,
    )
    outbox: Path = _set_by(
        "LMS_OUTBOX",
        "`outbox/` beside the warehouse",
        "where integration events are written",
        _path,
    )
    publish_url: str = _set_by(
        "LMS_PUBLISH_URL",
        "none",
        "receivers of integration events as POSTs, with spaces between them; [how they "
        "are written](runbooks/publish.md#settings)",
        is_secret=True,
    )
    xapi_url: str = _set_by(
        "LMS_XAPI_URL",
        "none",
        "record stores that get the same as xAPI statements",
        is_secret=True,
    )
    publish_cron: str = _set_by(
        "LMS_PUBLISH_CRON", "*/5 * * * *", "when receivers are told"
    )
    publish_batch_events: int = _set_by(
        "LMS_PUBLISH_BATCH_EVENTS",
        "1000",
        "events in a file or a POST, at most",
        _whole_number(at_least=1),
    )
    publish_timeout_sec: float = _set_by(
        "LMS_PUBLISH_TIMEOUT_SEC",
        "30",
        "how long a receiver may take for a batch",
        _number(at_least=0.1),
    )
    publish_give_up_sec: float = _set_by(
        "LMS_PUBLISH_GIVE_UP_SEC",
        "120",
        "for how long a batch is tried in one run",
        _number(at_least=0),
    )
    base_url: str = _set_by(
        "LMS_BASE_URL",
        "https://lms.example",
        "the LMS's address, a part of every integration event; set it once",
        _url,
    )
    dagster_home: Path | None = _set_by(
        "DAGSTER_HOME",
        "none (`data/dagster` by `make dev`)",
        "Dagster's own files; has `dagster.yaml`",
        _path,
    )
    dbt_target: Path | None = _set_by(
        "DBT_TARGET_PATH",
        "dbt_project/target",
        "where dbt's manifest is kept between runs",
        _path,
    )
    refresh_cron: str = _set_by(
        "LMS_REFRESH_CRON", "*/5 * * * *", "when a refresh is due"
    )
    checks_cron: str = _set_by(
        "LMS_CHECKS_CRON", "30 3 * * *", "when the whole history is checked"
    )
    kpis_cron: str = _set_by(
        "LMS_KPIS_CRON", "0 6 * * *", "when key figures past their level are reported"
    )
    reconcile_cron: str = _set_by(
        "LMS_RECONCILE_CRON",
        "0 4 * * *",
        "when all that is derived is compared with raw",
    )
    lock_wait_sec: float = _set_by(
        "LMS_LOCK_WAIT_SEC",
        "60",
        "how long to wait for another process to let the warehouse go",
        _number(at_least=0),
    )
    memory_limit: str = _set_by(
        "LMS_MEMORY_LIMIT",
        "3GB",
        "what DuckDB may hold in memory to derive and to publish; beyond it, it uses "
        "the disk beside the file",
    )
    spools: tuple[Path, ...] = _set_by(
        "LMS_SPOOL",
        "`spool/` beside the landing zone",
        "folders of producers' spools, with `:` between them, which an erasure looks "
        "through, too; the first is the collector's own, on the landing zone's file "
        "system",
        _paths,
    )
    erasure_key: str | None = _set_by(
        "LMS_ERASURE_KEY",
        "the file `<warehouse>.erasure-key`",
        "keys the tombstones of erased learners: at least 32 characters, and never "
        "changed; [runbook](runbooks/erase.md)",
        is_secret=True,
    )
    quiz_register: Path = _set_by(
        "LMS_QUIZ_REGISTER",
        "`quiz_register.csv` in the landing zone",
        "what Tally's forms are worth; [how it is written](collector.md)",
        _path,
    )
    collector: Path = _set_by(
        "LMS_COLLECTOR",
        "`collector/` beside the warehouse",
        "the collector's folder; has `tokens.json`",
        _path,
    )
    cors_origins: tuple[str, ...] = _set_by(
        "LMS_CORS_ORIGINS",
        "none",
        "origins of pages that may post to the collector and ask the read API, with "
        "commas: `https://lms.example`",
        _listed,
    )
    tally_secrets: tuple[str, ...] = _set_by(
        "LMS_TALLY_SECRET",
        "none",
        "Tally's signing secrets, with commas",
        _listed,
        is_secret=True,
    )
    learner_secret: str | None = _set_by(
        "LMS_LEARNER_SECRET",
        "none",
        "what learner tokens are signed with; 32 characters or more",
        is_secret=True,
    )
    dashboard_access: Path | None = _set_by(
        "LMS_DASHBOARD_ACCESS",
        "none",
        "who may see which courses and names in the dashboard and [over "
        "HTTP](read-api.md#who-may-read-what), [a CSV file](dashboard.md#sharing); "
        "without it everyone sees everything",
        _path,
    )
    dashboard_user_header: str = _set_by(
        "LMS_DASHBOARD_USER_HEADER",
        "X-Forwarded-User",
        "the header in which the reverse proxy names the dashboard's user",
    )
    reports: Path = _set_by(
        "LMS_REPORTS",
        "`reports/` beside the warehouse",
        "where the job `weekly_report` writes; an erasure empties it",
        _path,
    )
    report_smtp: str = _set_by(
        "LMS_REPORT_SMTP",
        "none",
        "where the weekly report is handed in as mail: `smtp://user:password@host:587` "
        "or `smtps://...`; [how](report.md#by-mail)",
        is_secret=True,
    )
    report_from: str = _set_by(
        "LMS_REPORT_FROM", "lms-warehouse@localhost", "who the mail is from"
    )
    report_to: tuple[str, ...] = _set_by(
        "LMS_REPORT_TO", "none", "who gets the mail, with commas", _listed
    )
    report_cron: str = _set_by(
        "LMS_REPORT_CRON",
        "0 6 * * 1",
        "when the weekly report is written, once its schedule is switched on",
    )
    backup: Path | None = _set_by(
        "LMS_BACKUP",
        "none",
        "the folder that backups go to, on another disk; `warehouse backup`, the job "
        "`backup`, and an erasure, which makes it anew, use it",
        _path,
    )
    backups_kept: int = _set_by(
        "LMS_BACKUPS_KEPT",
        "7",
        "how many backups are kept in it",
        _whole_number(at_least=1),
    )
    backup_cron: str = _set_by(
        "LMS_BACKUP_CRON",
        "0 2 * * *",
        "when a backup is made, once its schedule is switched on",
    )
    now: str = _set_by(
        "LMS_NOW",
        "none",
        "the moment that the dashboard takes for the current time, in UTC: "
        "`2026-10-23 12:00:00`",
        _moment,
    )
    alert_url: str | None = _set_by(
        "LMS_ALERT_URL",
        "none",
        "gets a POST when a run fails: JSON with `text`, which Slack and its likes "
        "show, and its parts `job`, `run_id`, `error`, `url`",
        is_secret=True,
    )
    dagster_url: str = _set_by(
        "LMS_DAGSTER_URL",
        "http://127.0.0.1:3000",
        "where people open the Dagster UI: the link in an alert",
        _url,
    )

    @property
    def published_snapshot(self) -> Path:
        """The file that readers open."""
        return self.published / self.warehouse.name

    @property
    def tokens(self) -> Path:
        """Who may send to the collector, and read over HTTP."""
        return self.collector / "tokens.json"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """An empty variable is one that is not set.

        Raises `WarehouseError`, one line that names the variable.
        """
        found: dict[str, Any] = {}
        in_project = project_folder() or Path()
        for field in dataclasses.fields(cls):
            variable: Variable = field.metadata[_VARIABLE]
            if text := environment.get(variable.name):
                found[field.name] = variable.read(variable.name, text)
            elif field.name not in _OTHER_DEFAULTS:
                default = variable.default
                if variable.read is _path:
                    default = str(in_project / default)
                found[field.name] = variable.read(variable.name, default)
        warehouse, landing = found["warehouse"], found["landing"]
        others = {
            name: default(warehouse, landing)
            for name, default in _OTHER_DEFAULTS.items()
        }
        return cls(**others | found)

    @classmethod
    def of(cls, warehouse_path: Path) -> Self:
        """For a warehouse that may be another than `LMS_WAREHOUSE`: what no variable
        places elsewhere is beside it."""
        return cls.from_environment(
            {**os.environ, "LMS_WAREHOUSE": str(warehouse_path)}
        )


# Defaults that are beside the warehouse or in the landing zone, or none at all.
_OTHER_DEFAULTS: dict[str, Callable[[Path, Path], Any]] = {
    "published": lambda warehouse, _: warehouse.parent / "published",
    "sandboxes": lambda warehouse, _: warehouse.parent / "sandboxes",
    "outbox": lambda warehouse, _: warehouse.parent / "outbox",
    "collector": lambda warehouse, _: warehouse.parent / "collector",
    "reports": lambda warehouse, _: warehouse.parent / "reports",
    "spools": lambda _, landing: (landing.parent / "spool",),
    "quiz_register": lambda _, landing: landing / "quiz_register.csv",
    "publish_url": lambda *_: "",
    "xapi_url": lambda *_: "",
    "report_smtp": lambda *_: "",
    "report_to": lambda *_: (),
    "cors_origins": lambda *_: (),
    "tally_secrets": lambda *_: (),
    "dagster_home": lambda *_: None,
    "dbt_target": lambda *_: None,
    "erasure_key": lambda *_: None,
    "learner_secret": lambda *_: None,
    "alert_url": lambda *_: None,
    "dashboard_access": lambda *_: None,
    "backup": lambda *_: None,
    "now": lambda *_: "",
}


def variable_names() -> frozenset[str]:
    """The names of all variables."""
    return frozenset(
        field.metadata[_VARIABLE].name for field in dataclasses.fields(Settings)
    )


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What is set under our prefix, and no setting has that name."""
    known = variable_names()
    return sorted(
        name for name in environment if name.startswith("LMS_") and name not in known
    )


def variables_table() -> str:
    """All variables as a table in Markdown."""
    rows = ["| variable | default | what |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        variable: Variable = field.metadata[_VARIABLE]
        is_prose = "`" in variable.default or variable.default == "none"
        default = variable.default if is_prose else f"`{variable.default}`"
        rows.append(f"| `{variable.name}` | {default} | {variable.meaning} |")
    return "\n".join(rows) + "\n"
