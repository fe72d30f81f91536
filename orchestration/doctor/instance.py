"""Dagster: whether its daemon lives, what is switched off, which runs hang."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import first_line
from orchestration.doctor.finding import Finding, note, ok, problem, shown

if TYPE_CHECKING:
    import dagster as dg

AREA = "dagster"

# The daemon tells that it lives every 30 s.
_SILENT = timedelta(minutes=5)
# As `max_runtime_seconds` in orchestration/dagster.yaml.
_LONGEST_RUN = timedelta(hours=2)


def findings(home: Path | None) -> Iterator[Finding]:
    if home is None or not (home / "dagster.yaml").exists():
        where = (
            "DAGSTER_HOME is not set" if home is None else f"{home}: no dagster.yaml"
        )
        yield note(
            AREA,
            f"{where}: schedules, sensors and the daemon were not looked at",
            "set DAGSTER_HOME to the daemon's folder",
        )
        return
    import dagster as dg

    given = Path(__file__).parents[1] / "dagster.yaml"
    if (home / "dagster.yaml").read_bytes() != given.read_bytes():
        yield note(
            AREA,
            f"{home / 'dagster.yaml'}: differs from the project's",
            f"compare it with {given}: without its pools two steps may write at once",
        )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield from _daemon(instance)
            yield from _switched_off(instance)
            yield from _hanging(instance)
    except Exception as error:  # whatever its storage raises
        yield problem(
            AREA,
            f"{home}: cannot be read ({first_line(error)})",
            "mend its files, or begin a new DAGSTER_HOME: it has no data of ours",
        )


def _daemon(instance: "dg.DagsterInstance") -> Iterator[Finding]:
    beats = instance.get_daemon_heartbeats()
    newest = max((beat.timestamp for beat in beats.values()), default=None)
    start = "start it: `systemctl start lms-warehouse-daemon`, or `make dev`"
    if newest is None:
        yield problem(AREA, "the daemon never ran: nothing happens by itself", start)
        return
    silent = timedelta(seconds=time.time() - newest)
    if silent > _SILENT:
        yield problem(AREA, f"the daemon is silent for {shown(silent)}", start)
        return
    for name, beat in sorted(beats.items()):
        if beat.errors:
            yield problem(
                AREA,
                f"daemon {name}: {beat.errors[0].message.strip().splitlines()[0]}",
                "look into its log",
            )
    yield ok(AREA, f"the daemon lived {shown(silent)} ago")


def _switched_off(instance: "dg.DagsterInstance") -> Iterator[Finding]:
    for state in instance.all_instigator_state():
        if state.status.value == "STOPPED":
            yield problem(
                AREA,
                f"{state.instigator_type.value.lower()} {state.name} is switched off",
                "switch it on in the UI, unless that is on purpose",
            )


def _hanging(instance: "dg.DagsterInstance") -> Iterator[Finding]:
    import dagster as dg

    running = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]
    )
    for record in instance.get_run_records(running):
        began = record.start_time or record.create_timestamp.timestamp()
        lasts = timedelta(seconds=time.time() - began)
        if lasts > _LONGEST_RUN:
            run = record.dagster_run
            yield problem(
                AREA,
                f"run {run.run_id[:8]} of {run.job_name} has lasted {shown(lasts)}",
                "terminate it in the UI: it may hold the writer's place",
            )
