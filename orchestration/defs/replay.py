"""Replay and the past as jobs.

What to ask is typed into the launchpad; the run's log and metadata have the answer.
"""

from datetime import datetime
from typing import Any

import dagster as dg

from ingest.landing.catalogue import parse_moment
from ingest.store import database
from orchestration.defs.metadata import sample_table
from orchestration.defs.resources import POOL, one_line_failures
from orchestration.shadow import difference
from orchestration.shadow.as_of import as_of
from orchestration.shadow.replay import Replay, Scope, replay
from orchestration.shadow.swap import Undone, undo

_TIME = "2026-10-01 or 2026-10-01T08:00:00Z; empty for none."


def _ids(description: str) -> dg.Field:
    return dg.Field([str], default_value=[], description=description)


def _time(description: str) -> dg.Field:
    return dg.Field(str, default_value="", description=f"{description} {_TIME}")


def _moment(text: str, option: str) -> datetime | None:
    return parse_moment(text, option) if text else None


@dg.op(
    name="replay_scope",
    pool=POOL,
    config_schema={
        "user": _ids("Of these learners."),
        "class": _ids("Of learners with an event of one of these classes."),
        "course": _ids("Of learners with an event of one of these courses."),
        "from": _time("Of learners with an event that happened then or later."),
        "to": _time("... and before."),
        "apply": dg.Field(bool, default_value=False, description="Swap it in."),
        "undo": dg.Field(
            bool,
            default_value=False,
            description="Instead of all else: put back what the last apply replaced.",
        ),
        "examples": dg.Field(int, default_value=3, description="Of each change."),
    },
)
def replay_op(context: dg.OpExecutionContext) -> None:
    """Derives again beside the live state, shows what differs, and perhaps swaps."""
    config: dict[str, Any] = context.op_config
    path = database.warehouse_path()
    found: Replay | Undone
    with one_line_failures():
        if config["undo"]:
            found = undo(path)
        else:
            found = replay(
                path,
                Scope(
                    users=tuple(config["user"]),
                    classes=tuple(config["class"]),
                    courses=tuple(config["course"]),
                    since=_moment(config["from"], "from"),
                    until=_moment(config["to"], "to"),
                ),
                apply=config["apply"],
                examples=config["examples"],
            )
    metadata = _undone(found) if isinstance(found, Undone) else _found(found)
    _show(context, metadata)


def _undone(undone: Undone) -> dict[str, Any]:
    rows = sample_table(list(undone.tables.items()), ["table", "rows"])
    return {
        "undone": undone.scope,
        "applied_at": f"{undone.applied_at}Z",
        "put_back": dg.MetadataValue.md(rows),
    }


def _found(found: Replay) -> dict[str, Any]:
    summary = difference.summary_rows(found.differences)
    examples = difference.example_rows(found.differences)
    return {
        "scope": found.scope,
        "through_load": found.through_load,
        **({} if found.learners is None else {"learners": found.learners}),
        "is_same": found.is_same,
        "applied": found.applied,
        "difference": dg.MetadataValue.md(
            sample_table(summary, list(difference.SUMMARY))
        ),
        "examples": dg.MetadataValue.md(
            sample_table(list(examples), list(difference.EXAMPLES), 400)
        ),
        "changed_rules": list(found.changed_rules),
        "changed_views": list(found.changed_views),
        "notes": list(found.notes),
    }


@dg.op(
    name="as_of_moment",
    pool=POOL,
    config_schema={
        "moment": dg.Field(
            str, description="The moment to ask about: 2026-10-01T08:00:00Z."
        ),
        "user": _ids("Rows of these learners."),
        "class": _ids("Rows of these classes."),
        "course": _ids("Rows of these courses."),
        "rows": dg.Field(int, default_value=50, description="Of each answer."),
    },
)
def as_of_op(context: dg.OpExecutionContext) -> None:
    """What progress, signals and leaderboard would have been at a past moment."""
    config: dict[str, Any] = context.op_config
    with one_line_failures():
        known = as_of(
            database.warehouse_path(),
            parse_moment(config["moment"], "moment"),
            users=config["user"],
            classes=config["class"],
            courses=config["course"],
            limit=config["rows"],
        )
    metadata: dict[str, Any] = {
        "moment": f"{known.moment}Z",
        "loads": known.loads,
        "events": known.events,
    }
    for answer in known.answers:
        name = answer.table.split(".")[1]
        metadata[f"{name}_rows"] = answer.row_count
        metadata[name] = dg.MetadataValue.md(
            sample_table(list(answer.rows), list(answer.columns))
        )
    _show(context, metadata)


def _show(context: dg.OpExecutionContext, metadata: dict[str, Any]) -> None:
    context.add_output_metadata(metadata)
    for name, value in metadata.items():
        text = value.value if isinstance(value, dg.MarkdownMetadataValue) else value
        context.log.info(f"{name}:\n{text}" if "\n" in str(text) else f"{name}: {text}")


@dg.job(
    name="replay",
    description="Derives everything, or the learners of a scope, again beside the live "
    "state and shows what differs; swaps it in only with `apply`.",
)
def replay_job() -> None:
    replay_op()


@dg.job(
    name="as_of",
    description="What the warehouse would have answered at a moment, from what had "
    "been received by then; changes nothing.",
)
def as_of_job() -> None:
    as_of_op()
