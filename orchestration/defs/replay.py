"""Replay and the past as jobs.

What to ask is typed into the launchpad; the run's log and metadata have the answer.
"""

from datetime import datetime
from typing import Any

import dagster as dg
from pydantic import Field

from ingest.landing.catalogue import parse_moment
from ingest.settings import Settings
from ingest.store import database
from orchestration.defs.metadata import sample_table
from orchestration.defs.resources import POOL, one_line_failures
from orchestration.shadow import difference
from orchestration.shadow.as_of import as_of
from orchestration.shadow.replay import Replay, Scope, replay
from orchestration.shadow.swap import Undone, undo

_TIME = "2026-10-01 or 2026-10-01T08:00:00Z; empty for none."


class ReplayConfig(dg.Config):
    """Whom to derive again, and whether to swap in what came of it. As it stands:
    everything, and nothing is swapped in."""

    user: list[str] = Field([], description="Of these learners.")
    class_: list[str] = Field(
        [],
        alias="class",
        description="Of learners with an event of one of these classes.",
    )
    course: list[str] = Field(
        [], description="Of learners with an event of one of these courses."
    )
    from_: str = Field(
        "",
        alias="from",
        description=f"Of learners with an event that happened then or later. {_TIME}",
    )
    to: str = Field("", description=f"... and before. {_TIME}")
    apply: bool = Field(False, description="Swap it in.")
    undo: bool = Field(
        False,
        description="Instead of all else: put back what the last apply replaced.",
    )
    examples: int = Field(3, description="Of each change.")

    def scope(self) -> Scope:
        return Scope(
            users=tuple(self.user),
            classes=tuple(self.class_),
            courses=tuple(self.course),
            since=_moment(self.from_, "from"),
            until=_moment(self.to, "to"),
        )


def _moment(text: str, option: str) -> datetime | None:
    return parse_moment(text, option) if text else None


@dg.op(name="replay_scope", pool=POOL)
def replay_op(
    context: dg.OpExecutionContext,
    config: ReplayConfig,
    settings: dg.ResourceParam[Settings],
) -> None:
    """Derives again beside the live state, shows what differs, and perhaps swaps."""
    found: Replay | Undone
    with one_line_failures():
        if config.undo:
            found = undo(settings.warehouse)
        else:
            found = replay(
                settings.warehouse,
                config.scope(),
                apply=config.apply,
                examples=config.examples,
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


class AsOfConfig(dg.Config):
    """The moment to ask about. As it stands: now."""

    moment: str = Field(
        "", description="For instance 2026-10-01T08:00:00Z; empty: now."
    )
    user: list[str] = Field([], description="Rows of these learners.")
    class_: list[str] = Field([], alias="class", description="Rows of these classes.")
    course: list[str] = Field([], description="Rows of these courses.")
    rows: int = Field(50, description="Of each answer.")


@dg.op(name="as_of_moment", pool=POOL)
def as_of_op(
    context: dg.OpExecutionContext,
    config: AsOfConfig,
    settings: dg.ResourceParam[Settings],
) -> None:
    """What progress, signals and leaderboard would have been at a past moment."""
    with one_line_failures():
        known = as_of(
            settings.warehouse,
            _moment(config.moment, "moment") or database.utc_now(),
            users=config.user,
            classes=config.class_,
            courses=config.course,
            limit=config.rows,
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
