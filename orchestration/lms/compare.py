"""The LMS's own `v_user_progress` beside ours: what differs, and what each comes from.

For each learner and class their rule is computed over the events that are known, in the
orders in which they may have arrived. Where it gives what they have, the difference is
proved to come from their rule, and the fewest of its peculiarities that turn our value
into theirs are its cause. Where it does not, the row must show by itself that it was
changed without an event; else the difference is unexplained.
"""

import contextlib
import csv
import heapq
import itertools
import json
import operator
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from ingest.contracts import validation
from ingest.errors import WarehouseError
from ingest.landing import quiz_register
from ingest.landing.quiz_register import QuizRegister
from ingest.lms.export import PROGRESS, Export, open_export
from ingest.lms.importer import (
    SOURCE,
    Classes,
    LmsEvent,
    classes,
    events_query,
    in_utc,
    payload_of,
)
from ingest.store import database, outputs, tombstones
from orchestration.lms import rules
from orchestration.lms.others import (
    LeaderboardCount,
    SignalCount,
    leaderboard_counts,
    signal_counts,
)
from orchestration.lms.rules import (
    COLUMNS,
    MEANINGS,
    QUIZ,
    RULES,
    THEIR_THRESHOLD,
    VIDEO,
    Cause,
    Fact,
    State,
    Unreadable,
    their_state,
)

# The column of a difference that is a whole row: one side has none.
ROW = "(row)"
# The LMS writes a row when an event arrives, within seconds.
_SLOWEST_UPDATE = timedelta(seconds=60)
_IDS_SHOWN = 5

_EVENT_CAUSES = (
    *(Cause.NOT_IMPORTED, Cause.REJECTED_EVENTS, Cause.CHANGED_EVENTS),
    *(Cause.OTHER_DOOR, Cause.DELETED_EVENTS),
)


@dataclass(frozen=True)
class LmsDifference:
    """One column of one row, or a whole row, that differs.

    `their_rule_gives` is what their rule makes of the events that are known; `causes`
    are those that turn our value into theirs, together.
    """

    user_id: str
    class_id: str
    column: str
    theirs: Any
    ours: Any
    their_rule_gives: Any
    causes: tuple[Cause, ...]
    evidence: str

    @property
    def cause(self) -> str:
        return " + ".join(self.causes)


@dataclass(frozen=True)
class LmsComparison:
    """All differences, by learner and class; a row on one side only is one of them."""

    file: str
    their_rows: int
    our_rows: int
    same_rows: int
    different_rows: int
    differences: tuple[LmsDifference, ...]
    signals: tuple[SignalCount, ...] | None
    leaderboard: LeaderboardCount | None
    seconds: float

    @property
    def unexplained(self) -> int:
        return sum(Cause.UNEXPLAINED in each.causes for each in self.differences)

    def by_cause(self) -> list[dict[str, Any]]:
        """For each cause, or causes that act together: differences, rows, columns."""
        columns: dict[tuple[Cause, ...], Counter[str]] = {}
        rows: dict[tuple[Cause, ...], set[tuple[str, str]]] = {}
        for each in self.differences:
            columns.setdefault(each.causes, Counter())[each.column] += 1
            rows.setdefault(each.causes, set()).add((each.user_id, each.class_id))
        return [
            {
                "cause": " + ".join(causes),
                "meaning": "; ".join(MEANINGS[cause] for cause in causes),
                "differences": columns[causes].total(),
                "rows": len(rows[causes]),
                "columns": dict(sorted(columns[causes].items())),
            }
            for causes in sorted(columns, key=lambda each: -columns[each].total())
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "their_rows": self.their_rows,
            "our_rows": self.our_rows,
            "same_rows": self.same_rows,
            "different_rows": self.different_rows,
            "differences": len(self.differences),
            "unexplained": self.unexplained,
            "causes": self.by_cause(),
            "signals": self.signals and [vars(each) for each in self.signals],
            "leaderboard": self.leaderboard and vars(self.leaderboard),
            "seconds": self.seconds,
        }


def compare_lms(
    path: Path,
    warehouse_path: Path,
    register: QuizRegister = quiz_register.NO_QUIZZES,
) -> LmsComparison:
    """Compares an export's `v_user_progress` with ours. Changes nothing.

    `register` is the one that the export was imported with.

    Raises `WarehouseError`: where the export has none, or ours is not up to date.
    """
    started = time.perf_counter()
    with (
        open_export(path) as export,
        database.open_for_reading(warehouse_path) as connection,
    ):
        if not export.has(PROGRESS):
            raise WarehouseError(
                f"{path}: no table or view {PROGRESS}; export the whole database, "
                "without --table"
            )
        export.require(PROGRESS, ("user_id", "class_id", *COLUMNS))
        _check_is_fresh(connection, warehouse_path)
        explain = _Explaining(export, connection, register)
        differences: list[LmsDifference] = []
        their_rows = our_rows = different = rows = 0
        for pair in _pairs(export, connection):
            if pair.theirs is None and pair.ours is None:
                continue
            rows += 1
            their_rows += pair.theirs is not None
            our_rows += pair.ours is not None
            found = explain.differences(pair)
            different += bool(found)
            differences += found
        signals = signal_counts(export, connection)
        leaderboard = leaderboard_counts(export, connection)
    return LmsComparison(
        file=str(path),
        their_rows=their_rows,
        our_rows=our_rows,
        same_rows=rows - different,
        different_rows=different,
        differences=tuple(differences),
        signals=signals,
        leaderboard=leaderboard,
        seconds=round(time.perf_counter() - started, 3),
    )


def write_csv(comparison: LmsComparison, path: Path, warehouse_path: Path) -> None:
    """One line a difference. Raises `WarehouseError` where it cannot be written."""
    names = (
        *("user_id", "class_id", "column", "theirs", "ours", "their_rule_gives"),
        *("cause", "evidence"),
    )
    try:
        with (
            outputs.new_output(path, warehouse_path) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(names)
            for each in comparison.differences:
                writer.writerow(getattr(each, name) for name in names)
    except (OSError, UnicodeEncodeError) as error:
        raise WarehouseError(f"{path}: cannot be written ({error})") from error


def _check_is_fresh(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    tables = connection.execute(
        """
        select count(*)
        from information_schema.tables
        where
            (table_schema, table_name)
            in (
                ('bookkeeping', 'watermark'),
                ('progress', 'v_user_progress'),
                ('signals', 'signal_rule')
            )
        """
    ).fetchone()
    if tables == (3,):
        [[behind]] = connection.execute(
            """
            select count(*)
            from raw.load
            where load_id > (select min(load_id) from bookkeeping.watermark)
            """
        ).fetchall()
        if not behind:
            return
    raise WarehouseError(
        f"{path}: progress is not up to date with what was landed; run `warehouse "
        "refresh` first"
    )


# --- both sides, by learner and class ------------------------------------------------


@dataclass
class _Pair:
    """All about one learner and class. Theirs in the order of the export, ours of
    landing; `from_lms` are ids of ours that came in an export."""

    user_id: str
    class_id: str
    theirs: State | None
    updated_at: Any
    ours: State | None
    export_rows: list[LmsEvent]
    landed: dict[str, Fact]
    from_lms: set[str]


_THEIRS, _OURS, _EXPORTED, _LANDED = range(4)
_Tagged = tuple[tuple[bytes, bytes], int, tuple[Any, ...]]


def _pairs(export: Export, connection: duckdb.DuckDBPyConnection) -> Iterator[_Pair]:
    """Four streams in one order, so that no side is held in memory as a whole."""
    by_key = "cast(user_id as text), cast(class_id as text)"
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    theirs = export.rows(
        f"""
        select {by_key}, {names}, {export.column(PROGRESS, "updated_at")}
        from {PROGRESS}
        order by 1, 2
        """
    )
    exported = (
        (row[2], row[4], *row)
        for row in export.rows(events_query(export, order_by=f"{by_key}, rowid"))
        if row[1] in ("VIDEO_PING", "QUIZ_SUBMIT")
    )
    ours = _fetched(
        connection,
        f"""
        select user_id, class_id, {names}
        from progress.v_user_progress
        order by user_id, class_id
        """,
    )
    landed = _fetched(connection, _LANDED_EVENTS)
    streams = (
        _tagged(tag, rows)
        for tag, rows in (
            (_THEIRS, theirs),
            (_OURS, ours),
            (_EXPORTED, exported),
            (_LANDED, landed),
        )
    )
    merged = heapq.merge(*streams, key=lambda each: each[:2])
    for _key, group in itertools.groupby(merged, key=lambda each: each[0]):
        yield _pair(list(group))


def _tagged(tag: int, rows: Iterable[tuple[Any, ...]]) -> Iterator[_Tagged]:
    for row in rows:
        user_id, class_id = row[:2]
        if user_id is not None and class_id is not None:
            # As bytes: SQLite and DuckDB sort text so.
            yield (_bytes(user_id), _bytes(class_id)), tag, row


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return value if isinstance(value, bytes) else str(value).encode()


def _fetched(
    connection: duckdb.DuckDBPyConnection, query: str
) -> Iterator[tuple[Any, ...]]:
    cursor = connection.cursor()
    cursor.execute(query)
    while rows := cursor.fetchmany(10_000):
        yield from rows


# Typed as every model reads them; the line has what only the LMS says.
_LANDED_EVENTS = f"""
    with

    facts as (

        select
            event_id,
            false as is_attempt,
            position_sec,
            duration_sec,
            null as score,
            null as max_score,
            null as passed
        from staging.stg_video_ping
        union all by name
        select
            event_id,
            true as is_attempt,
            score,
            max_score,
            passed
        from staging.stg_quiz_submission

    )

    select
        event.user_id,
        event.class_id,
        event.event_id,
        facts.is_attempt,
        event.course_id,
        event.occurred_at,
        json_extract_string(event.line, '$.created_at'),
        facts.position_sec,
        facts.duration_sec,
        facts.score,
        facts.max_score,
        facts.passed,
        event.load_id,
        event.line_number,
        coalesce(json_extract_string(event.line, '$.source') = '{SOURCE}', false)
    from raw.lms_event as event
    inner join facts using (event_id)
    order by event.user_id, event.class_id, event.load_id, event.line_number
"""


def _pair(group: list[_Tagged]) -> _Pair:
    user_id, class_id = (str(value) for value in group[0][2][:2])
    pair = _Pair(user_id, class_id, None, None, None, [], {}, set())
    for _key, tag, (_user, _class, *values) in group:
        if tag == _THEIRS:
            course_id, position, completed, passed, score, pair.updated_at = values
            # NULL is 0 to the LMS. Only in the score ours tells one from the other.
            pair.theirs = State(
                course_id, position or 0, completed or 0, passed or 0, score
            )
        elif tag == _OURS:
            pair.ours = State(*values)
        elif tag == _EXPORTED:
            pair.export_rows.append(LmsEvent(*values))
        else:
            *fields, load_id, line_number, is_from_lms = values
            fact = Fact._make((*fields, (load_id, line_number)))
            pair.landed[fact.event_id] = fact
            if is_from_lms:
                pair.from_lms.add(fact.event_id)
    return pair


# --- one row -------------------------------------------------------------------------


@dataclass(frozen=True)
class _History:
    """What may have made their row: these events in this order, by one of two marks."""

    facts: tuple[Fact, ...]
    at_80: bool
    gives: State | None
    order: dict[str, int]
    has_deleted: bool
    ours: dict[tuple[Cause, ...], list[Fact]] = field(default_factory=dict)


class _Explaining:
    """What is the same for all rows: classes, dead letters, tombstones."""

    def __init__(
        self,
        export: Export,
        connection: duckdb.DuckDBPyConnection,
        register: QuizRegister,
    ) -> None:
        self._classes = Classes(classes(export), register)
        self._buried = tombstones.read(connection)
        self._letters = _letters(connection, self._classes)
        [[self._threshold]] = connection.execute(
            "select completion_threshold from signals.signal_rule "
            "where type = 'VIDEO_COMPLETED'"
        ).fetchall()

    def differences(self, pair: _Pair) -> list[LmsDifference]:
        if pair.theirs is None or pair.ours is None:
            return [self._missing_row(pair)]
        different = [
            name
            for name in COLUMNS
            if getattr(pair.theirs, name) != getattr(pair.ours, name)
        ]
        if not different:
            return []
        letters = self._letters.get((pair.user_id, pair.class_id), {})
        facts = self._facts(pair, letters)
        return _Row(pair, facts, letters, self._threshold).differences(different)

    def _facts(self, pair: _Pair, letters: Mapping[str, Fact]) -> list[Fact]:
        """The export's events; one that we have with the same content is ours, and one
        that we rejected was landed where its letter says."""
        facts = [_fact(row, self._classes, pair.landed) for row in pair.export_rows]
        return [
            fact._replace(landed=letters[fact.event_id].landed)
            if fact.landed is None and fact.event_id in letters
            else fact
            for fact in facts
        ]

    def _missing_row(self, pair: _Pair) -> LmsDifference:
        in_export = {str(row.id) for row in pair.export_rows}
        letters = self._letters.get((pair.user_id, pair.class_id), {})
        gone = pair.from_lms - in_export
        causes: tuple[Cause, ...] = (Cause.UNEXPLAINED,)
        evidence, gives = "", None
        if pair.ours is None:
            missing = in_export - letters.keys()
            if self._buried and self._buried.erased([pair.user_id]):
                causes, evidence = (Cause.ERASED,), "the learner has a tombstone"
            elif missing and not pair.landed:
                causes, evidence = (Cause.NOT_IMPORTED,), _listed(missing)
            elif letters and not pair.landed:
                causes, evidence = (Cause.REJECTED_EVENTS,), _listed(letters)
            elif not pair.landed:
                causes = (Cause.CHANGED_WITHOUT_EVENT,)
                evidence = "no event of the learner and class is known"
        elif in_export:
            with contextlib.suppress(Unreadable):
                gives = their_state(self._facts(pair, letters), at_80=True)
            if gives:
                causes = (Cause.CHANGED_WITHOUT_EVENT,)
                evidence = f"removed: {_listed(in_export)} make a row by their rule"
        elif gone:
            causes, evidence = (Cause.DELETED_EVENTS,), f"deleted: {_listed(gone)}"
        elif pair.landed:
            causes, evidence = (Cause.OTHER_DOOR,), _listed(pair.landed)
        return LmsDifference(
            user_id=pair.user_id,
            class_id=pair.class_id,
            column=ROW,
            theirs=_row_text(pair.theirs),
            ours=_row_text(pair.ours),
            their_rule_gives=_row_text(gives),
            causes=causes,
            evidence=evidence,
        )


class _Row:
    """A row that both have, and what is known of how theirs came to be."""

    def __init__(
        self,
        pair: _Pair,
        exported: list[Fact],
        letters: Mapping[str, Fact],
        threshold: float,
    ) -> None:
        assert pair.theirs is not None
        assert pair.ours is not None
        self._pair = pair
        self._theirs, self._ours = pair.theirs, pair.ours
        self._threshold = threshold
        self._exported = {fact.event_id: fact for fact in exported}
        landed, in_export = pair.landed, self._exported.keys()
        rejected = letters.keys() - landed.keys()
        # What the LMS has or had, as it says it.
        self._elsewhere = {
            **{event_id: letters[event_id] for event_id in rejected},
            **self._exported,
        }
        self._ids_of = {
            Cause.REJECTED_EVENTS: rejected,
            Cause.NOT_IMPORTED: in_export - landed.keys() - rejected,
            Cause.CHANGED_EVENTS: {
                event_id
                for event_id, fact in self._exported.items()
                if event_id in landed and fact is not landed[event_id]
            },
            Cause.OTHER_DOOR: landed.keys() - in_export - pair.from_lms,
            Cause.DELETED_EVENTS: pair.from_lms - in_export,
        }

    def differences(self, columns: Sequence[str]) -> list[LmsDifference]:
        try:
            history = self._likeliest()
            return [self._explain(column, history) for column in columns]
        except Unreadable:
            return [
                self._difference(
                    column, None, (Cause.UNEXPLAINED,), "a payload cannot be read"
                )
                for column in columns
            ]

    def _likeliest(self) -> _History:
        """The first history that gives most of what they have."""
        best, most = None, -1
        for history in self._histories():
            if history.gives == self._theirs:
                return history
            given = history.gives or (None,) * len(COLUMNS)
            matching = sum(map(operator.eq, self._theirs, given))
            if matching > most:
                best, most = history, matching
        assert best is not None
        return best

    def _histories(self) -> Iterator[_History]:
        """All events that the LMS ever had, or only those that it has kept.

        They arrived in the order of the export; where its rows were moved since, in
        that of `created_at`. When they happened says nothing of that.
        """
        not_theirs = self._ids_of[Cause.OTHER_DOOR]
        seen = set()
        for ordered in self._orders():
            order = {fact.event_id: place for place, fact in enumerate(ordered)}
            ever = tuple(fact for fact in ordered if fact.event_id not in not_theirs)
            kept = tuple(fact for fact in ever if fact.event_id in self._exported)
            for facts in (ever, kept) if len(kept) < len(ever) else (ever,):
                ids = tuple(fact.event_id for fact in facts)
                if ids in seen:
                    continue
                seen.add(ids)
                for at_80 in (True, False):
                    gives = their_state(facts, at_80=at_80)
                    yield _History(facts, at_80, gives, order, facts is not kept)

    def _orders(self) -> Iterator[list[Fact]]:
        as_exported = self._as_exported()
        yield as_exported
        created = [_moment(in_utc(fact.created_at)) for fact in as_exported]
        if None not in created:
            yield _sorted_by(as_exported, created)

    def _as_exported(self) -> list[Fact]:
        """The export's events; those that only we have stand where they were landed."""
        facts = list(self._exported.values())
        if not any(self._ids_of.values()):
            return facts
        only_ours = [
            fact
            for event_id, fact in {**self._elsewhere, **self._pair.landed}.items()
            if event_id not in self._exported
        ]
        for fact in sorted(only_ours, key=lambda each: each.landed or ()):
            before = (
                index
                for index in range(len(facts), 0, -1)
                if () < (facts[index - 1].landed or ()) < (fact.landed or ())
            )
            facts.insert(next(before, 0), fact)
        return facts

    def _explain(self, column: str, history: _History) -> LmsDifference:
        theirs, ours = getattr(self._theirs, column), getattr(self._ours, column)
        gives = getattr(history.gives, column, None)
        if self._by(column, history, ()) != ours:
            evidence = "ours is not what our rules give: see `warehouse reconcile`"
            return self._difference(column, gives, (Cause.UNEXPLAINED,), evidence)
        if gives == theirs:
            causes = self._fewest(column, history, theirs)
            evidence = "; ".join(
                filter(None, (self._evidence(cause, history) for cause in causes))
            )
            return self._difference(column, gives, causes, evidence)
        if proof := self._changed(column, history):
            return self._difference(
                column, gives, (Cause.CHANGED_WITHOUT_EVENT,), proof
            )
        return self._difference(column, gives, (Cause.UNEXPLAINED,), "")

    def _fewest(self, column: str, history: _History, theirs: Any) -> tuple[Cause, ...]:
        """The fewest causes that together turn our value into theirs."""
        possible = [
            cause
            for cause in (*RULES[column], *_EVENT_CAUSES)
            if (cause != Cause.PASS_MARK_80 or history.at_80)
            and (cause != Cause.THRESHOLD_90 or self._threshold != THEIR_THRESHOLD)
            and (cause not in self._ids_of or self._ids_of[cause])
            and (cause != Cause.DELETED_EVENTS or not history.has_deleted)
        ]
        for count in range(1, len(possible) + 1):
            for causes in itertools.combinations(possible, count):
                if self._by(column, history, causes) == theirs:
                    return causes
        return (Cause.UNEXPLAINED,)

    def _by(self, column: str, history: _History, causes: Sequence[Cause]) -> Any:
        """The column by our rules with some of theirs, over our events with some of
        theirs."""
        ids = self._ids_of
        facts = self._facts(history, tuple(cause for cause in causes if cause in ids))
        return rules.value(column, facts, causes, self._ours, self._threshold)

    def _facts(self, history: _History, causes: tuple[Cause, ...]) -> Sequence[Fact]:
        """Our events, for these causes with what only they have, or otherwise."""
        if not any(self._ids_of.values()):
            return history.facts
        if causes not in history.ours:
            facts = dict(self._pair.landed)
            for cause in causes:
                for event_id in self._ids_of[cause]:
                    if event_id not in self._elsewhere:
                        del facts[event_id]
                    elif event_id in self._exported or history.has_deleted:
                        facts[event_id] = self._elsewhere[event_id]
            history.ours[causes] = sorted(
                facts.values(), key=lambda fact: history.order[fact.event_id]
            )
        return history.ours[causes]

    def _changed(self, column: str, history: _History) -> str | None:
        """The proof that the row was changed without an event."""
        known = list({**self._pair.landed, **self._elsewhere}.values())
        if proof := rules.no_event_says(column, self._theirs, known):
            return proof
        updated_at = _moment(in_utc(self._pair.updated_at))
        arrived = [
            moment
            for fact in known
            for moment in (_moment(in_utc(fact.created_at)), fact.occurred_at)
            if moment
        ]
        if updated_at and arrived and updated_at > max(arrived) + _SLOWEST_UPDATE:
            return f"changed at {updated_at}Z, after the last event ({max(arrived)}Z)"
        group = VIDEO if column in VIDEO else QUIZ
        if column not in group:
            return None
        if after := rules.starts_anew(group, self._theirs, history.facts):
            last = history.facts[after - 1].event_id
            return f"set back after {last}: the rest makes what they have"
        return None

    def _evidence(self, cause: Cause, history: _History) -> str:
        attempts = [fact for fact in history.facts if fact.is_attempt]
        pings = [fact for fact in history.facts if not fact.is_attempt]
        match cause:
            case Cause.LATEST_ATTEMPT | Cause.PASS_MARK_80 if attempts:
                latest = attempts[-1]
                return (
                    f"attempt {latest.event_id}: {latest.score} of {latest.max_score}, "
                    f"passed: {latest.passed}"
                )
            case Cause.VIDEO_RESET:
                failed = [each.event_id for each in attempts if not each.passed]
                return f"failed attempt {failed[-1]}" if failed else ""
            case Cause.LATEST_DURATION if pings:
                return f"ping {pings[-1].event_id}: duration {pings[-1].duration}"
            case Cause.FIRST_COURSE if history.facts:
                return f"first event {history.facts[0].event_id}"
            case _ if cause in self._ids_of:
                return f"{cause}: {_listed(self._ids_of[cause])}"
        return ""

    def _difference(
        self, column: str, gives: Any, causes: tuple[Cause, ...], evidence: str
    ) -> LmsDifference:
        return LmsDifference(
            user_id=self._pair.user_id,
            class_id=self._pair.class_id,
            column=column,
            theirs=getattr(self._theirs, column),
            ours=getattr(self._ours, column),
            their_rule_gives=gives,
            causes=causes,
            evidence=evidence,
        )


def _fact(row: LmsEvent, classes: Classes, landed: Mapping[str, Fact]) -> Fact:
    """An event of the export; where we have it with the same content, ours."""
    event_id = str(row.id)
    ours = landed.get(event_id)
    payload = payload_of(row, classes, {"passed": ours.passed} if ours else None)
    if not isinstance(payload, dict):
        payload = {}
    passed = payload.get("passed")
    fact = Fact(
        event_id,
        row.type == "QUIZ_SUBMIT",
        row.course_id,
        ours.occurred_at if ours else _moment(in_utc(row.occurred_at)),
        row.created_at,
        payload.get("position_sec"),
        payload.get("duration_sec"),
        payload.get("score"),
        payload.get("max_score"),
        passed if isinstance(passed, bool) else None,
        ours.landed if ours else None,
    )
    return ours if ours and ours.says_the_same(fact) else fact


def _letters(
    connection: duckdb.DuckDBPyConnection, classes: Classes
) -> dict[tuple[str, str], dict[str, Fact]]:
    """The events of the LMS that we rejected, by learner and class, and by id."""
    found: dict[tuple[str, str], dict[str, Fact]] = {}
    for text, load_id, line_number in connection.execute(
        f"""
        select text, load_id, line_number
        from (
            select try(decode(line)) as text, load_id, line_number
            from raw.dead_letter
            union all
            select try(decode(line)), load_id, line_number
            from raw.discarded_letter
        )
        where
            json_valid(text)
            and json_extract_string(text, '$.source') = '{SOURCE}'
            and json_extract_string(text, '$.type') in ('VIDEO_PING', 'QUIZ_SUBMIT')
        """
    ).fetchall():
        event = json.loads(text)
        row = LmsEvent(
            id=event.get("event_id"),
            payload_json=json.dumps(event.get("payload")),
            context_json=None,
            **{
                name: event.get(name) for name in (*LmsEvent._fields[1:6], "created_at")
            },
        )
        fact = _fact(row, classes, {})._replace(landed=(load_id, line_number))
        key = (str(row.user_id), str(row.class_id))
        found.setdefault(key, {})[fact.event_id] = fact
    return found


def _moment(text: Any) -> datetime | None:
    try:
        return validation.parse_occurred_at(text)
    except (TypeError, ValueError, OverflowError):
        return None


def _sorted_by(facts: list[Fact], moments: Sequence[datetime | None]) -> list[Fact]:
    """Those of one moment stay in their order."""
    places = sorted(range(len(facts)), key=lambda place: moments[place] or datetime.min)
    return [facts[place] for place in places]


def _listed(event_ids: Collection[str]) -> str:
    shown = ", ".join(sorted(event_ids)[:_IDS_SHOWN])
    more = len(event_ids) - _IDS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _row_text(state: State | None) -> str | None:
    return None if state is None else json.dumps(state._asdict(), default=str)
