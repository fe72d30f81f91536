"""Dead letters: looked at, handed out, sent again, and discarded with a record.

A dead letter is known by the load and the line that it came from, written `3:17`. None
is ever removed without a trace: a retry is a load of its own, and `raw.retried_letter`
has each line of it; what is discarded stands in `raw.discarded_letter`.
"""

import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import duckdb

from ingest.errors import WarehouseError
from ingest.landing import lines, loads
from ingest.landing.outcomes import CONFLICT, ChunkTable, classify
from ingest.store import database, journal, outputs

# What stands for the file of a load that is a retry.
RETRY_SOURCE = "dead letters"

# The event's type as the line says it; in what is no JSON, what looks like one.
_TEXT = "try(decode(line))"
_TYPE = rf"""
    case
        when json_valid({_TEXT}) then json_extract_string({_TEXT}, '$.type')
        else nullif(regexp_extract({_TEXT}, '"type"\s*:\s*"([^"\\]+)"', 1), '')
    end
"""

_LETTER = f"""
    load_id, line_number, file, reason, field, detail, event_id, {_TYPE} as type,
    first_seen, attempts, line_bytes, line_sha256, line, faults
"""

_LETTERS_KEY = (
    "coalesce(try_cast(letter.event_id as uuid), md5_number(letter.event_id)::uuid)"
)
# Letters whose event has come since, as `letter` and `event`.
_LANDED_SINCE = f"""
    from raw.dead_letter as letter
    inner join raw.lms_event as event
        on
            event.event_key = {_LETTERS_KEY}
            and event.event_id = letter.event_id
    where
        letter.reason != '{CONFLICT}'
        and (event.load_id, event.line_number) > (letter.load_id, letter.line_number)
"""
_FIELDS = "json_extract_string(faults, '$[*].field')"


@dataclass(frozen=True, order=True)
class LetterId:
    """Where the line came from; 3:17 is line 17 of the file of load 3."""

    load_id: int
    line_number: int

    def __str__(self) -> str:
        return f"{self.load_id}:{self.line_number}"


def parse_letter_id(text: str) -> LetterId:
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", text, re.ASCII)
    if not match:
        raise WarehouseError(
            f"{text}: no dead letter's id; expected LOAD:LINE, like 3:17 "
            "(`warehouse dead-letters list` shows them)"
        )
    return LetterId(int(match[1]), int(match[2]))


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_age(text: str) -> timedelta:
    """30m, 24h, 7d or 2w."""
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text, re.ASCII)
    if not match:
        raise WarehouseError(f"{text}: no age; expected 30m, 24h, 7d or 2w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@dataclass(frozen=True)
class Selection:
    """Which dead letters: those to which everything given applies.

    `fields` are of any fault of the line; `types` are what the lines say; `older_than`
    and `newer_than` are about the time since the line was first seen; with
    `landed_since` an event with the line's event id has landed after it.
    """

    letters: tuple[LetterId, ...] = ()
    reasons: tuple[str, ...] = ()
    load_ids: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    fields: tuple[str, ...] = ()
    landed_since: bool = False

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    def condition(self, now: datetime) -> tuple[str, dict[str, Any]]:
        """The SQL condition on `raw.dead_letter`, and its parameters."""
        conditions, parameters = ["true"], dict[str, Any]()
        if self.letters:
            conditions.append(
                "(load_id, line_number) in (select unnest($loads), unnest($lines))"
            )
            parameters["loads"] = [letter.load_id for letter in self.letters]
            parameters["lines"] = [letter.line_number for letter in self.letters]
        for name, column in (
            ("reasons", "reason"),
            ("load_ids", "load_id"),
            ("types", _TYPE),
        ):
            if values := getattr(self, name):
                conditions.append(f"{column} in (select unnest(${name}))")
                parameters[name] = list(values)
        if self.fields:
            # The first fault's is in a column of its own, of older letters too.
            conditions.append(
                f"(list_contains($fields, field) or list_has_any({_FIELDS}, $fields))"
            )
            parameters["fields"] = list(self.fields)
        if self.landed_since:
            conditions.append(
                "(load_id, line_number) in "
                f"(select letter.load_id, letter.line_number {_LANDED_SINCE})"
            )
        for name, operator in (("older_than", "<="), ("newer_than", ">")):
            if (age := getattr(self, name)) is not None:
                conditions.append(f"first_seen {operator} ${name}::timestamp")
                parameters[name] = now - age
        return " and ".join(conditions), parameters


@dataclass(frozen=True)
class Letter:
    """A dead letter. `line` is as it came, or its first 1 MiB of `line_bytes`.

    `faults` is JSON: every fault, each with `reason`, `field`, `detail` and the `value`
    that was refused. Letters of earlier versions have none until they are retried.
    """

    load_id: int
    line_number: int
    file: str
    reason: str
    field: str | None
    detail: str
    event_id: str | None
    type: str | None
    first_seen: datetime
    attempts: int
    line_bytes: int
    line_sha256: str
    line: bytes
    faults: str | None

    @property
    def id(self) -> LetterId:
        return LetterId(self.load_id, self.line_number)

    @property
    def is_truncated(self) -> bool:
        """Whether only the start of the line was kept: it cannot be sent again."""
        return len(self.line) < self.line_bytes

    @property
    def text(self) -> str:
        return self.line.decode(errors="backslashreplace")

    def as_json(self, *, with_line: bool) -> dict[str, Any]:
        """`line` is text, or `line_base64` where it is none."""
        values = {"id": str(self.id), **vars(self), "is_truncated": self.is_truncated}
        line = values.pop("line")
        values["faults"] = json.loads(self.faults) if self.faults else []
        values["first_seen"] = _as_text(self.first_seen)
        if with_line:
            try:
                values["line"] = line.decode()
            except UnicodeDecodeError:
                values["line_base64"] = base64.b64encode(line).decode()
        return values


def _as_text(moment: datetime) -> str:
    return f"{moment.isoformat()}Z"


@dataclass(frozen=True)
class Attempt:
    """One retry of a line: the load that it was, when, and what came of it."""

    load_id: int
    retried_at: datetime
    outcome: str


@dataclass(frozen=True)
class Discarded:
    """That a dead letter was discarded: when (naive, in UTC), by whom and why."""

    discarded_at: datetime
    discarded_by: str
    why: str


@dataclass(frozen=True)
class History:
    """A line that is or was a dead letter, and all that was done about it.

    `letter` is None once a retry has taken it away; the last attempt says how.
    """

    id: LetterId
    letter: Letter | None
    attempts: tuple[Attempt, ...]
    discarded: Discarded | None

    @property
    def state(self) -> str:
        """`dead`, `discarded`, `accepted`, `duplicate` or `erased`."""
        if self.discarded:
            return "discarded"
        if self.letter:
            return "dead"
        last = self.attempts[-1].outcome
        # After any other outcome it was a dead letter still, until it was erased.
        return last if last in ("accepted", "duplicate") else "erased"

    def as_json(self) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "state": self.state,
            "letter": self.letter and self.letter.as_json(with_line=True),
            "retries": [
                {**asdict(attempt), "retried_at": _as_text(attempt.retried_at)}
                for attempt in self.attempts
            ],
            "discarded": self.discarded
            and {
                **asdict(self.discarded),
                "discarded_at": _as_text(self.discarded.discarded_at),
            },
        }


@dataclass(frozen=True)
class Listing:
    """The first of the dead letters that were asked for, and how many there are."""

    letters: tuple[Letter, ...]
    total: int


@dataclass(frozen=True)
class Export:
    """What was written; `truncated` are those left out for want of the whole line."""

    file: str
    lines: int
    truncated: int


@dataclass(frozen=True)
class Retry:
    """What became of the retried lines; `load_id` is None when there were none.

    `truncated` are those that cannot be sent again, because only the start of the line
    was kept. With `dry_run` it is what would become of them: nothing was written.
    """

    load_id: int | None
    dry_run: bool
    lines_read: int
    accepted: int
    duplicate: int
    conflict: int
    rejected: int
    erased: int
    rejected_by_reason: dict[str, int]
    truncated: int
    seconds: float


def list_letters(
    warehouse_path: Path,
    selection: Selection | None = None,
    *,
    limit: int | None = None,
    now: datetime | None = None,
) -> Listing:
    """Dead letters in the order in which they came."""
    condition, parameters = _condition(selection, now)
    with database.open_for_reading(warehouse_path) as connection:
        [[total]] = connection.execute(
            f"select count(*) from raw.dead_letter where {condition}", parameters
        ).fetchall()
        rows = connection.execute(
            f"""
            select {_LETTER}
            from raw.dead_letter
            where {condition}
            order by load_id, line_number
            {"" if limit is None else f"limit {limit:d}"}
            """,
            parameters,
        ).fetchall()
    return Listing(tuple(Letter(*row) for row in rows), total)


def show(warehouse_path: Path, letter_id: LetterId) -> History:
    """All about one line that is or was a dead letter. Raises `WarehouseError`."""
    here = "load_id = $load_id and line_number = $line_number"
    parameters = asdict(letter_id)
    with database.open_for_reading(warehouse_path) as connection:
        dead = connection.execute(
            f"select {_LETTER} from raw.dead_letter where {here}", parameters
        ).fetchall()
        discarded = connection.execute(
            f"""
            select {_LETTER}, discarded_at, discarded_by, why
            from raw.discarded_letter
            where {here}
            """,
            parameters,
        ).fetchall()
        attempts = connection.execute(
            f"""
            select retried.retry_load_id, load.received_at, retried.outcome
            from (from raw.retried_letter where {here}) as retried
            inner join raw.load as load on retried.retry_load_id = load.load_id
            order by retried.retry_load_id
            """,
            parameters,
        ).fetchall()
    if not dead and not discarded and not attempts:
        raise WarehouseError(_no_such(letter_id))
    return History(
        letter_id,
        next((Letter(*row[:14]) for row in (*dead, *discarded)), None),
        tuple(Attempt(*row) for row in attempts),
        next((Discarded(*row[14:]) for row in discarded), None),
    )


def _no_such(letter_id: LetterId) -> str:
    return (
        f"{letter_id}: no such dead letter; `warehouse dead-letters list` shows which "
        "there are, and `show` what became of those that are gone"
    )


def export(
    warehouse_path: Path,
    file: Path,
    selection: Selection | None = None,
    *,
    with_reasons: bool = False,
    now: datetime | None = None,
) -> Export:
    """Writes lines to a new file, byte for byte as they came, and changes nothing else.

    `with_reasons` writes a JSON object a line instead: the dead letter with its line.
    Lines of which only the start was kept are left out, unless with their reasons.
    Raises `WarehouseError`, also for a file that exists.
    """
    condition, parameters = _condition(selection, now)
    written = truncated = 0
    with (
        _new_file(file, warehouse_path) as target,
        database.open_for_reading(warehouse_path) as connection,
    ):
        result = connection.execute(
            f"""
            select {_LETTER}
            from raw.dead_letter
            where {condition}
            order by load_id, line_number
            """,
            parameters,
        )
        while rows := result.fetchmany(100):
            for letter in (Letter(*row) for row in rows):
                if with_reasons:
                    values = letter.as_json(with_line=True)
                    target.write(json.dumps(values, ensure_ascii=False).encode())
                elif letter.is_truncated:
                    truncated += 1
                    continue
                else:
                    target.write(letter.line)
                target.write(b"\n")
                written += 1
    return Export(str(file), written, truncated)


@contextlib.contextmanager
def _new_file(path: Path, warehouse_path: Path) -> Iterator[BinaryIO]:
    """A file that is there when it is finished, or not at all."""
    try:
        if path.exists():
            raise WarehouseError(f"{path}: exists; name a new file")
        with (
            outputs.new_output(path, warehouse_path) as unfinished,
            unfinished.open("wb") as file,
        ):
            yield file
    except OSError as error:
        raise WarehouseError(
            f"{path}: cannot be written ({error.strerror or error})"
        ) from error


def _condition(
    selection: Selection | None, now: datetime | None
) -> tuple[str, dict[str, Any]]:
    return (selection or Selection()).condition(now or database.utc_now())


# --- retried, mended, discarded ------------------------------------------------------


def retry(
    warehouse_path: Path,
    selection: Selection | None = None,
    *,
    dry_run: bool = False,
    now: datetime | None = None,
    batch_bytes: int = lines.CHUNK_BYTES,
) -> Retry:
    """Sends dead letters through today's contracts again: one load, one transaction.

    Accepted: the line is an event of the new load, from its own file and line. Known by
    now with the same content: it is a duplicate. Both are dead letters no more. Else it
    stays one, with one attempt more and today's reason. A line of an erased learner is
    gone, and counted. A line counts as received when it first was: waiting does
    not make the time of a wrong clock right. Raises `WarehouseError`, and has then
    changed nothing.
    """
    started = time.perf_counter()
    now = now or database.utc_now()
    with database.open_for_writing(warehouse_path) as connection:
        table = ChunkTable(connection)
        with database.transaction(connection, dry_run=dry_run):
            truncated = _choose(connection, selection, now, batch_bytes)
            load_id = loads.next_load_id(connection)
            batches = connection.execute(
                "select distinct batch from chosen order by batch"
            ).fetchall()
            for (batch,) in batches:
                _retry_batch(connection, table, batch, load_id, now)
            counts = _outcomes(connection, load_id)
            reasons = _reasons(connection)
            seconds = time.perf_counter() - started
            if batches:
                _record(connection, load_id, now, seconds, counts)
        if batches and not dry_run:
            journal.note_loads(connection)
            connection.execute("checkpoint")
    return Retry(
        load_id=load_id if batches and not dry_run else None,
        dry_run=dry_run,
        lines_read=sum(counts.values()),
        **counts,
        rejected_by_reason=reasons,
        truncated=truncated,
        seconds=seconds,
    )


def _choose(
    connection: duckdb.DuckDBPyConnection,
    selection: Selection | None,
    now: datetime,
    batch_bytes: int,
) -> int:
    """Makes the temp table `chosen`; returns how many letters are truncated."""
    condition, parameters = _condition(selection, now)
    _check_that_all_are_there(connection, selection)
    connection.execute(
        f"""
        create or replace temp table chosen as
        select
            row_number() over letters_so_far as ordinal,
            sum(line_bytes) over letters_so_far // {batch_bytes:d} as batch,
            load_id,
            line_number,
            file,
            line_sha256,
            first_seen
        from raw.dead_letter
        where octet_length(line) = line_bytes and {condition}
        window letters_so_far as (
            order by load_id, line_number rows unbounded preceding
        )
        """,
        parameters,
    )
    connection.execute(
        """
        create or replace temp table still_dead (
            ordinal bigint, reason varchar, field varchar, detail varchar,
            event_id varchar, faults varchar
        )
        """
    )
    [[truncated]] = connection.execute(
        f"""
        select count(*) from raw.dead_letter
        where octet_length(line) < line_bytes and {condition}
        """,
        parameters,
    ).fetchall()
    return int(truncated)


def _check_that_all_are_there(
    connection: duckdb.DuckDBPyConnection, selection: Selection | None
) -> None:
    letters = set(selection.letters if selection else ())
    condition, parameters = Selection(tuple(letters)).condition(datetime.min)
    if not letters:
        return
    there = connection.execute(
        f"select load_id, line_number from raw.dead_letter where {condition}",
        parameters,
    ).fetchall()
    missing = letters - {LetterId(*row) for row in there}
    if missing:
        raise WarehouseError(_no_such(min(missing)))


def _retry_batch(
    connection: duckdb.DuckDBPyConnection,
    table: ChunkTable,
    batch: int,
    load_id: int,
    now: datetime,
) -> None:
    rows = connection.execute(
        """
        select chosen.ordinal, letter.line, chosen.first_seen
        from chosen
        inner join raw.dead_letter as letter using (load_id, line_number)
        where chosen.batch = $1
        order by chosen.ordinal
        """,
        [batch],
    ).fetchall()
    first, last = rows[0][0], rows[-1][0]
    classify(
        connection,
        table,
        lines.chunk_of([line for _, line, _ in rows], first),
        min(first_seen for _, _, first_seen in rows),
        lambda ordinal: rows[ordinal - first][2],
    )
    connection.execute(
        """
        insert into still_dead
        select line_number, reason, field, detail, event_id, faults from dead
        """
    )
    connection.execute(
        """
        insert into raw.lms_event by name
        select
            accepted.* exclude (line_number),
            chosen.file,
            chosen.line_number,
            $received_at::timestamp as received_at,
            $load_id as load_id
        from accepted
        inner join chosen on accepted.line_number = chosen.ordinal
        """,
        {"received_at": now, "load_id": load_id},
    )
    connection.execute(
        """
        insert into raw.retried_letter by name
        select
            $load_id as retry_load_id,
            chosen.load_id,
            chosen.line_number,
            case
                when accepted.line_number is not null then 'accepted'
                when chosen.ordinal in (from erased_line) then 'erased'
                when still_dead.ordinal is null then 'duplicate'
                when still_dead.reason = $conflict then 'conflict'
                else 'rejected'
            end as outcome
        from chosen
        left join accepted on chosen.ordinal = accepted.line_number
        left join still_dead using (ordinal)
        where chosen.ordinal between $first and $last
        """,
        {"load_id": load_id, "conflict": CONFLICT, "first": first, "last": last},
    )
    connection.execute(
        """
        update raw.dead_letter
        set
            attempts = attempts + 1,
            reason = tried.reason,
            field = tried.field,
            detail = tried.detail,
            event_id = tried.event_id,
            faults = tried.faults
        from (
            select chosen.load_id, chosen.line_number, still_dead.*
            from still_dead
            inner join chosen using (ordinal)
            where chosen.ordinal between $first and $last
        ) as tried
        where
            dead_letter.load_id = tried.load_id
            and dead_letter.line_number = tried.line_number
        """,
        {"first": first, "last": last},
    )
    connection.execute(
        """
        delete from raw.dead_letter
        where (load_id, line_number) in (
            select retried.load_id, retried.line_number
            from raw.retried_letter as retried
            where
                retried.retry_load_id = $1
                and retried.outcome in ('accepted', 'duplicate', 'erased')
        )
        """,
        [load_id],
    )


def _outcomes(connection: duckdb.DuckDBPyConnection, load_id: int) -> dict[str, int]:
    found = connection.execute(
        """
        select outcome, count(*)
        from raw.retried_letter
        where retry_load_id = $1
        group by outcome
        """,
        [load_id],
    ).fetchall()
    kinds = ("accepted", "duplicate", "conflict", "rejected", "erased")
    none = dict.fromkeys(kinds, 0)
    return {**none, **dict(found)}


def _reasons(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Why lines were rejected again; conflicts are counted by themselves."""
    return dict(
        connection.execute(
            """
            select reason, count(*)
            from still_dead
            where reason != $1
            group by reason
            order by reason
            """,
            [CONFLICT],
        ).fetchall()
    )


def _record(
    connection: duckdb.DuckDBPyConnection,
    load_id: int,
    received_at: datetime,
    seconds: float,
    counts: dict[str, int],
) -> None:
    [[sha256]] = connection.execute(
        "select sha256(string_agg(line_sha256, '' order by ordinal)) from chosen"
    ).fetchall()
    loads.record_load(
        connection,
        load_id,
        "retry",
        RETRY_SOURCE,
        sha256,
        received_at=received_at,
        seconds=seconds,
        lines_read=sum(counts.values()),
        accepted=counts["accepted"],
        duplicate=counts["duplicate"],
        conflict=counts["conflict"],
        rejected=counts["rejected"],
        erased=counts["erased"],
    )


def close_mended(
    connection: duckdb.DuckDBPyConnection, load_id: int, closed_at: datetime
) -> int:
    """Moves the letters that this load mended to `raw.discarded_letter`; how many.

    A letter is mended by an event of a later load with its id and another line, if it
    names that event's learner, or its fault is that it names none. The very same line,
    and one that wanted a contract or a form, are for a retry, which tells a duplicate
    from a conflict; all else is for people: `Selection(landed_since=True)` finds both.
    """
    # Few letters have an event in a load, mostly none: its keys are read, and only of
    # those the lines. With all lines of a load it was a fifth of landing it.
    connection.execute(
        f"""
        create or replace temp table landed_since as
        select letter.load_id, letter.line_number, event.rowid as event_row
        from raw.dead_letter as letter
        inner join raw.lms_event as event on event.event_key = {_LETTERS_KEY}
        where
            event.load_id = $load_id
            and letter.load_id < $load_id
            and letter.reason not in ('{CONFLICT}', 'unknown_contract', 'unknown_form')
        """,
        {"load_id": load_id},
    )
    rows = connection.execute("select distinct event_row from landed_since").fetchall()
    if not rows:
        return 0
    moved = connection.execute(
        f"""
        insert into raw.discarded_letter by name
        select
            letter.*,
            $closed_at::timestamp as discarded_at,
            'warehouse' as discarded_by,
            'mended: its event landed with load ' || $load_id as why
        from landed_since
        inner join raw.dead_letter as letter using (load_id, line_number)
        inner join (
            select rowid as event_row, event_id, user_id, line
            from raw.lms_event
            where rowid in (select unnest($rows))
        ) as event using (event_row)
        where
            event.event_id = letter.event_id
            and hex(letter.line) != hex(encode(event.line))
            and (
                contains(hex(letter.line), hex(encode(event.user_id)))
                or list_contains({_FIELDS}, 'user_id')
            )
        returning load_id, line_number
        """,
        {
            "load_id": load_id,
            "closed_at": closed_at,
            "rows": [row for (row,) in rows],
        },
    ).fetchall()
    if moved:
        connection.execute(
            """
            delete from raw.dead_letter
            where (load_id, line_number) in (select unnest($1), unnest($2))
            """,
            [[load for load, _ in moved], [line for _, line in moved]],
        )
    return len(moved)


def discard(
    warehouse_path: Path,
    selection: Selection | None = None,
    *,
    by: str,
    why: str,
    dry_run: bool = False,
    now: datetime | None = None,
) -> int:
    """Moves dead letters to `raw.discarded_letter`, with who, when and why.

    Returns how many (with `dry_run`, how many it would be). Raises `WarehouseError`
    when `by` or `why` is blank, or a letter that is named is not there.
    """
    for name, value in (("by", by), ("why", why)):
        if not value.strip():
            raise WarehouseError(f"--{name}: say {'who' if name == 'by' else 'why'}")
    now = now or database.utc_now()
    condition, parameters = _condition(selection, now)
    with database.open_for_writing(warehouse_path) as connection:
        with database.transaction(connection, dry_run=dry_run):
            _check_that_all_are_there(connection, selection)
            moved = connection.execute(
                f"""
                insert into raw.discarded_letter by name
                select
                    *,
                    $discarded_at::timestamp as discarded_at,
                    $discarded_by as discarded_by,
                    $why as why
                from raw.dead_letter
                where {condition}
                returning load_id, line_number
                """,
                {
                    **parameters,
                    "discarded_at": now,
                    "discarded_by": by.strip(),
                    "why": why.strip(),
                },
            ).fetchall()
            connection.execute(
                f"delete from raw.dead_letter where {condition}", parameters
            )
        if moved and not dry_run:
            connection.execute("checkpoint")
    return len(moved)


def letter_ids(texts: Sequence[str]) -> tuple[LetterId, ...]:
    return tuple(parse_letter_id(text) for text in texts)
