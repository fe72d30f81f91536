"""Publishing signals to others, from an outbox: once each, in order, whoever is down.

The outbox is three tables in the warehouse's file, the only ones that are written here:
`outbox.integration_event` has a row for each signal that was ever seen, `outbox.batch`
cuts them into batches for good, `outbox.place` says how far each target is. A target is
a folder that gets a file for each batch, or a receiver that gets a POST for each.

    enqueue   signals that the outbox has not: one transaction, `sequence` assigned
    deliver   per target, from its place on: hand over, and then move the place

What is enqueued never changes, whatever becomes of the signal. A process that is killed
leaves at worst a batch that was handed over and not noted; the next one hands it over
again: the same file, or the same ids under the same Idempotency-Key.
"""

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import urllib.parse
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import duckdb
import filelock
import tenacity
import yaml

from ingest.store import database, files
from ingest.store.database import WarehouseError
from orchestration.derive.dbt_runner import DBT_PROJECT
from orchestration.outbox import integration_events
from orchestration.outbox.integration_events import FORMATS, Fact, Format

DEFAULT_BASE_URL = "https://lms.example"

# A refresh may hold the file for long; what a receiver has acknowledged must be noted.
ACKNOWLEDGED_WAIT_SEC = 600
LONGEST_RETRY_AFTER = timedelta(hours=1)
LARGEST_ANSWER_BYTES = 1024 * 1024

RECEIVERS_VARIABLE: dict[Format, str] = {
    "cloudevents": "LMS_PUBLISH_URL",
    "xapi": "LMS_XAPI_URL",
}

_SCHEMA = """
create schema if not exists outbox;

create table if not exists outbox.integration_event (
    sequence bigint not null,
    signal_id varchar not null,
    signal_type varchar not null,
    contract_version integer not null,
    user_id varchar not null,
    class_id varchar,
    course_id varchar,
    occurred_at timestamp not null
);

create table if not exists outbox.batch (
    first_sequence bigint not null,
    last_sequence bigint not null,
    enqueued_at timestamp not null,
    base_url varchar not null,
    completion_threshold double not null
);

create table if not exists outbox.place (
    target varchar not null,
    sequence bigint not null,
    moved_at timestamp,
    not_before timestamp,
    last_error varchar
);
"""


@dataclass(frozen=True)
class Receiver:
    """Who gets POSTs. `name` is what its place is kept under and messages call it.

    The URL is not shown: its query may hold a key.
    """

    name: str
    url: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Settings:
    """How to publish; `from_environment` says which variable sets what."""

    folder: Path
    receivers: dict[Format, tuple[Receiver, ...]]
    base_url: str = DEFAULT_BASE_URL
    batch_events: int = 1000
    timeout_sec: float = 30
    give_up_sec: float = 120

    @classmethod
    def from_environment(cls) -> "Settings":
        """Raises `WarehouseError` for a variable that cannot be used."""
        base_url = (os.environ.get("LMS_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
        if not re.match(r"https?://[^/\s]", base_url):
            raise WarehouseError(
                f"LMS_BASE_URL={base_url}: give the LMS's address, http://... or "
                "https://..."
            )
        return cls(
            folder=outbox_path(),
            receivers={
                form: receivers(os.environ.get(variable, ""), variable)
                for form, variable in RECEIVERS_VARIABLE.items()
            },
            base_url=base_url,
            batch_events=int(
                _number("LMS_PUBLISH_BATCH_EVENTS", cls.batch_events, at_least=1)
            ),
            timeout_sec=_number(
                "LMS_PUBLISH_TIMEOUT_SEC", cls.timeout_sec, at_least=0.1
            ),
            give_up_sec=_number("LMS_PUBLISH_GIVE_UP_SEC", cls.give_up_sec, at_least=0),
        )


def outbox_path() -> Path:
    """Where files go: `LMS_OUTBOX`, or else outbox/ beside the warehouse."""
    beside = database.warehouse_path().with_name("outbox")
    return Path(os.environ.get("LMS_OUTBOX") or beside).resolve()


def _number(variable: str, default: float, *, at_least: float) -> float:
    text = os.environ.get(variable) or str(default)
    with contextlib.suppress(ValueError):
        if at_least <= (value := float(text)) < float("inf"):
            return value
    raise WarehouseError(f"{variable}={text}: give a number from {at_least:g} on")


def receivers(text: str, variable: str) -> tuple[Receiver, ...]:
    """Reads `[name=]URL ...`; `user:password@` is Basic, `:token@` is Bearer.

    Without a name a receiver goes by its URL, short of credentials and query.
    """
    found: list[Receiver] = []
    for number, entry in enumerate(text.split(), start=1):
        match = re.fullmatch(r"(?:([\w.-]+)=)?(https?://[!-~]+)", entry)
        try:
            parts = urllib.parse.urlsplit(match[2] if match else "")
            usable = bool(parts.hostname and parts.port != 0)
        except ValueError:
            usable = False
        if not match or not usable:
            raise WarehouseError(
                f"{variable}: entry {number} is no URL; give https://host/path, with "
                "name= before it if it may move"
            )
        credentials, _, host = parts.netloc.rpartition("@")
        shown = parts._replace(netloc=host, query="", fragment="")
        found.append(
            Receiver(
                name=match[1] or urllib.parse.urlunsplit(shown),
                url=urllib.parse.urlunsplit(shown._replace(query=parts.query)),
                authorization=_authorization(credentials),
            )
        )
    if len({receiver.name for receiver in found}) < len(found):
        raise WarehouseError(f"{variable}: two entries have one name; name them apart")
    return tuple(found)


def _authorization(credentials: str) -> str | None:
    user, _, secret = credentials.partition(":")
    user, secret = urllib.parse.unquote(user), urllib.parse.unquote(secret)
    if user:
        return f"Basic {b64encode(f'{user}:{secret}'.encode()).decode()}"
    return f"Bearer {secret}" if secret else None


def completion_threshold() -> float:
    """The rule's own number, from the one place where it stands."""
    project = yaml.safe_load((DBT_PROJECT / "dbt_project.yml").read_text())
    return float(project["vars"]["completion_threshold"])


# --- the outbox --------------------------------------------------------------------


@contextlib.contextmanager
def _open(
    warehouse_path: Path, *, wait_sec: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    if not warehouse_path.exists():
        raise WarehouseError(
            f"{warehouse_path}: no warehouse there; land events first "
            "(`warehouse land PATH`), or set LMS_WAREHOUSE"
        )
    with database.open_for_writing(warehouse_path, wait_sec=wait_sec) as connection:
        connection.execute(_SCHEMA)
        yield connection


def enqueue(warehouse_path: Path, settings: Settings) -> int:
    """Takes every signal that the outbox has not; their number.

    One transaction. The order is that of the moments; at one moment a step comes after
    its parts and a course after its steps. A signal that is found later goes to the
    end, whenever it happened. Raises `WarehouseError` when nothing is derived yet.
    """
    contracts = integration_events.newest()
    with _open(warehouse_path) as connection:
        [[derived]] = connection.execute(
            "select count(*) from information_schema.tables where table_schema = "
            "'signals' and table_name = 'lms_signal'"
        ).fetchall()
        if not derived:
            raise WarehouseError(
                f"{warehouse_path}: there are no signals yet; run `warehouse refresh`"
            )
        with database.transaction(connection):
            [[last]] = connection.execute(
                "select coalesce(max(last_sequence), 0) from outbox.batch"
            ).fetchall()
            connection.execute(
                """
                insert into outbox.integration_event
                select
                    $last + row_number() over (
                        order by
                            signals.occurred_at,
                            contracts.place,
                            signals.signal_id
                    ) as sequence,
                    signals.signal_id,
                    signals.type,
                    contracts.version,
                    signals.user_id,
                    signals.class_id,
                    signals.course_id,
                    signals.occurred_at
                from signals.lms_signal as signals
                inner join (
                    select
                        unnest($types) as type,
                        unnest($versions) as version,
                        unnest(range(len($types))) as place
                ) as contracts on signals.type = contracts.type
                anti join outbox.integration_event as known
                    on signals.signal_id = known.signal_id
                order by sequence
                """,
                {
                    "last": last,
                    "types": list(contracts),
                    "versions": [c.VERSION for c in contracts.values()],
                },
            )
            [[count, distinct]] = connection.execute(
                "select count(*), count(distinct signal_id) "
                "from outbox.integration_event where sequence > $last",
                {"last": last},
            ).fetchall()
            if not count:
                return 0
            if count != distinct:
                raise WarehouseError(
                    f"{warehouse_path}: signals.lms_signal has a signal_id twice; "
                    "nothing was published. See `warehouse check`, then `rebuild`"
                )
            connection.execute(
                """
                insert into outbox.batch
                select
                    min(sequence),
                    max(sequence),
                    $enqueued_at,
                    $base_url,
                    $completion_threshold
                from outbox.integration_event
                where sequence > $last
                group by (sequence - $last - 1) // $batch_events
                order by 1
                """,
                {
                    "last": last,
                    "batch_events": settings.batch_events,
                    "enqueued_at": database.utc_now(),
                    "base_url": settings.base_url,
                    "completion_threshold": completion_threshold(),
                },
            )
    return int(count)


@dataclass(frozen=True)
class Batch:
    """What is handed over at once: the facts from `first` to `last`, by `sequence`.

    There are fewer facts than numbers where learners were erased, perhaps none.
    """

    first: int
    last: int
    facts: tuple[Fact, ...]


def _next_batch(
    connection: duckdb.DuckDBPyConnection, place: int, at_most: int | None
) -> Batch | None:
    """The batch that has what follows `place`; of what follows, `at_most` events."""
    batch = connection.execute(
        """
        select
            first_sequence,
            last_sequence
        from outbox.batch
        where last_sequence > $place
        order by first_sequence
        limit 1
        """,
        {"place": place},
    ).fetchone()
    if batch is None:
        return None
    first, last = batch
    if at_most is not None:
        first = max(first, place + 1)
        last = min(last, first + at_most - 1)
    rows = connection.execute(
        """
        select
            event.sequence,
            event.signal_id,
            event.signal_type,
            event.contract_version,
            event.user_id,
            event.class_id,
            event.course_id,
            event.occurred_at,
            batch.enqueued_at,
            batch.base_url,
            batch.completion_threshold
        from outbox.integration_event as event
        inner join outbox.batch as batch
            on event.sequence between batch.first_sequence and batch.last_sequence
        where
            event.sequence between $first and $last
            and $first between batch.first_sequence and batch.last_sequence
        order by event.sequence
        """,
        {"first": first, "last": last},
    ).fetchall()
    return Batch(first, last, tuple(Fact(*row) for row in rows))


@dataclass(frozen=True)
class _Place:
    sequence: int
    not_before: datetime | None


def _place(connection: duckdb.DuckDBPyConnection, target: str) -> _Place:
    row = connection.execute(
        "select sequence, not_before from outbox.place where target = $target",
        {"target": target},
    ).fetchone()
    return _Place(*row) if row else _Place(0, None)


def _note(
    connection: duckdb.DuckDBPyConnection,
    target: str,
    *,
    sequence: int,
    moved_at: datetime | None = None,
    not_before: datetime | None = None,
    error: str | None = None,
) -> None:
    with database.transaction(connection):
        connection.execute(
            "insert into outbox.place by name select $target as target, "
            "0 as sequence where not exists "
            "(from outbox.place where target = $target)",
            {"target": target},
        )
        connection.execute(
            """
            update outbox.place
            set
                sequence = $sequence,
                moved_at = coalesce($moved_at, moved_at),
                not_before = $not_before,
                last_error = $error
            where target = $target
            """,
            {
                "target": target,
                "sequence": sequence,
                "moved_at": moved_at,
                "not_before": not_before,
                "error": error,
            },
        )


def _behind(connection: duckdb.DuckDBPyConnection, place: int) -> int:
    [[count]] = connection.execute(
        "select count(*) from outbox.integration_event where sequence > $place",
        {"place": place},
    ).fetchall()
    return int(count)


# --- targets -----------------------------------------------------------------------


class NotDelivered(Exception):
    """A target did not take a batch; `not_before` is when it may be asked again."""

    def __init__(self, reason: str, not_before: datetime | None = None) -> None:
        super().__init__(reason)
        self.not_before = not_before


@dataclass(frozen=True)
class Target:
    """Where batches go. `hand_over` returns when the target has one for good.

    `at_most` cuts batches; a folder takes them whole, also where its place was set into
    one: two files never have the same event. The key is what the place is kept under:
    another folder or another URL is another target and gets all from the start.
    """

    key: str
    hand_over: Callable[[Batch], None]
    at_most: int | None = None


def folder_target(form: Format, folder: Path) -> Target:
    """NDJSON files, a batch each, named after the numbers in them."""

    def hand_over(batch: Batch) -> None:
        lines = integration_events.as_lines(form, batch.facts)
        content = b"".join(line + b"\n" for line in lines)
        path = folder / form / batch_file_name(batch)
        try:
            if _is_of_another_outbox(path, content, batch):
                raise NotDelivered(
                    f"{path.parent}: has files of another outbox; move them away, or "
                    "set LMS_OUTBOX to another folder"
                )
            files.write_durably(path, content)
        except OSError as error:
            raise NotDelivered(f"{path}: not written ({error.strerror})") from error

    return Target(f"{_files_key(form)}{folder}", hand_over)


def _files_key(form: Format) -> str:
    return f"{form} files "


def folders_written_to(warehouse_path: Path) -> frozenset[Path]:
    """The folders that ever got a file, whatever `LMS_OUTBOX` says today."""
    with database.open_for_reading(warehouse_path) as connection:
        [[is_there]] = connection.execute(
            "select count(*) from duckdb_tables() where schema_name = 'outbox' "
            "and table_name = 'place' and database_name = current_database()"
        ).fetchall()
        if not is_there:
            return frozenset()
        targets = connection.execute("select target from outbox.place").fetchall()
    return frozenset(
        Path(target.removeprefix(_files_key(form)))
        for (target,) in targets
        for form in FORMATS
        if target.startswith(_files_key(form))
    )


def batch_file_name(batch: Batch) -> str:
    digits = integration_events.SEQUENCE_DIGITS
    return f"{batch.first:0{digits}}-{batch.last:0{digits}}.ndjson"


def _is_of_another_outbox(path: Path, content: bytes, batch: Batch) -> bool:
    """A warehouse made again counts from 1 again: names mean something else then."""
    if path.exists():
        return path.read_bytes() != content
    return batch.first == 1 and any(path.parent.glob(f"{path.name.split('-')[0]}-*"))


def receiver_target(
    form: Format,
    receiver: Receiver,
    settings: Settings,
    stop: threading.Event | None = None,
) -> Target:
    """A URL that gets each batch as one POST, with retries for up to `give_up_sec`.

    `stop` ends the waiting between retries.
    """
    stop = stop or threading.Event()

    def hand_over(batch: Batch) -> None:
        lines = integration_events.as_lines(form, batch.facts)
        body = b"[" + b",".join(lines) + b"]"
        headers = {
            **_HEADERS[form],
            "Idempotency-Key": f'"{integration_events.idempotency_key(batch.facts)}"',
            "User-Agent": "lms-warehouse",
        }
        if receiver.authorization:
            headers["Authorization"] = receiver.authorization
        attempt = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Unavailable),
            wait=_wait,
            stop=tenacity.stop_any(
                tenacity.stop_before_delay(settings.give_up_sec),
                tenacity.stop_when_event_set(stop),
            ),
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        try:
            attempt(_post, form, receiver, headers, body, settings.timeout_sec)
        except _Unavailable as error:
            tried = attempt.statistics.get("attempt_number", 1)
            raise NotDelivered(
                f"{error}; tries: {tried}", error.not_before()
            ) from error

    return Target(f"{form} {receiver.name}", hand_over, settings.batch_events)


_HEADERS: dict[Format, dict[str, str]] = {
    "cloudevents": {
        "Content-Type": "application/cloudevents-batch+json; charset=utf-8"
    },
    "xapi": {"Content-Type": "application/json", "X-Experience-API-Version": "1.0.3"},
}


class _Unavailable(Exception):
    """The receiver may take the same batch later."""

    def __init__(self, reason: str, retry_after_sec: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_sec = retry_after_sec

    def not_before(self) -> datetime | None:
        if self.retry_after_sec is None:
            return None
        return database.utc_now() + timedelta(seconds=self.retry_after_sec)


_back_off = tenacity.wait_random_exponential(multiplier=0.5, max=30)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome and state.outcome.exception()
    if isinstance(error, _Unavailable) and error.retry_after_sec is not None:
        return error.retry_after_sec
    return _back_off(state)


_WORTH_ANOTHER_TRY = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}


def _post(
    form: Format,
    receiver: Receiver,
    headers: dict[str, str],
    body: bytes,
    timeout_sec: float,
) -> None:
    """One POST. Returns when it was acknowledged with a 2xx.

    What the receiver says beside its status is not shown: it may repeat the learners'
    data, which must not get into logs.
    """
    try:
        status, answer_headers, answer = _exchange(
            receiver.url, headers, body, timeout_sec
        )
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = (
            ""
            if isinstance(error, TimeoutError)
            else f" ({database.first_line(error)})"
        )
        raise _Unavailable(f"{receiver.name}: no answer{reason}") from error
    meaning = http.client.responses.get(status, "")
    said = f"{receiver.name}: answered {status} {meaning}".rstrip()
    if 200 <= status < 300:
        if form == "xapi" and (refused := _refused_statements(answer)):
            raise NotDelivered(f"{said}, but refused {refused} statements of the batch")
        return
    if status >= 500 or status in _WORTH_ANOTHER_TRY:
        raise _Unavailable(said, _retry_after_sec(answer_headers))
    raise NotDelivered(f"{said}: it will not take this batch as it is")


def _exchange(
    url: str, headers: dict[str, str], body: bytes, timeout_sec: float
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Sends and reads; all of it has to be done within `timeout_sec`.

    Redirects are not followed: they would turn a POST into a GET.
    """
    parts = urllib.parse.urlsplit(url)
    kind = (
        http.client.HTTPSConnection
        if parts.scheme == "https"
        else http.client.HTTPConnection
    )
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_sec)
    cut = None
    try:
        connection.connect()
        # A socket's time-out is per read: one byte now and then would go on for ever.
        cut = threading.Timer(timeout_sec, _cut, (connection.sock,))
        cut.daemon = True
        cut.start()
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = b""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            answer = response.read(LARGEST_ANSWER_BYTES)
        return response.status, response.headers, answer
    finally:
        if cut:
            cut.cancel()
        connection.close()


def _cut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _refused_statements(answer: bytes) -> int:
    """A record store that may take a part of a batch says 200 and counts the rest."""
    with contextlib.suppress(ValueError):
        said = json.loads(answer)
        if isinstance(said, dict):
            return int(said.get("rejected") or 0)
    return 0


def _retry_after_sec(headers: http.client.HTTPMessage) -> float | None:
    """Seconds, or a date, as HTTP has it; never negative, never more than an hour."""
    text = (headers.get("Retry-After") or "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=None) - database.utc_now()).total_seconds()
    return min(max(seconds, 0), LONGEST_RETRY_AFTER.total_seconds())


# --- delivery ----------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """What became of one target: `state` is `up to date`, `waiting`, `busy`, `failed`.

    `place` is the `sequence` that it is at, `sent` the events that it got now, `behind`
    those that it has still to get, `error` what to do something about.
    """

    target: str
    state: str
    sent: int
    place: int
    behind: int
    error: str | None = None


def deliver(
    warehouse_path: Path, target: Target, stop: threading.Event | None = None
) -> Delivery:
    """Hands over batch by batch from the target's place on, until it has them all.

    The warehouse is open between two batches only, never while a target takes one. One
    process at a time delivers to a target; in another, it is `busy`.
    """
    sent, batch = 0, None
    with alone(warehouse_path, target.key) as is_alone:
        while True:
            wait_sec = ACKNOWLEDGED_WAIT_SEC if batch else None
            with _open(warehouse_path, wait_sec=wait_sec) as connection:
                if batch:
                    _note(
                        connection,
                        target.key,
                        sequence=batch.last,
                        moved_at=database.utc_now(),
                    )
                place = _place(connection, target.key)
                behind = _behind(connection, place.sequence)
                if not is_alone:
                    return Delivery(target.key, "busy", 0, place.sequence, behind)
                if place.not_before and database.utc_now() < place.not_before:
                    return Delivery(
                        target.key,
                        "waiting",
                        sent,
                        place.sequence,
                        behind,
                        f"asked to be left alone until {place.not_before:%H:%M:%S} UTC",
                    )
                batch = _next_batch(connection, place.sequence, target.at_most)
                if batch is None or (stop and stop.is_set()):
                    return Delivery(
                        target.key, "up to date", sent, place.sequence, behind
                    )
            if not batch.facts:
                continue
            try:
                target.hand_over(batch)
            except NotDelivered as error:
                with _open(warehouse_path) as connection:
                    _note(
                        connection,
                        target.key,
                        sequence=place.sequence,
                        not_before=error.not_before,
                        error=str(error),
                    )
                return Delivery(
                    target.key, "failed", sent, place.sequence, behind, str(error)
                )
            sent += len(batch.facts)


@contextlib.contextmanager
def alone(warehouse_path: Path, target: str, *, wait_sec: float = 0) -> Iterator[bool]:
    """Whether this process is the one that delivers to the target.

    The lock ends with the process, however it ends.
    """
    name = hashlib.sha256(target.encode()).hexdigest()[:12]
    path = warehouse_path.with_name(f".{warehouse_path.name}.publish-{name}.lock")
    lock = files.lock(path, wait_sec=wait_sec)
    with contextlib.suppress(filelock.Timeout):
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextlib.contextmanager
def held(warehouse_path: Path, target: str) -> Iterator[None]:
    """Waits until this process is the one that delivers to the target.

    Raises `WarehouseError` where another one goes on for longer than the wait for the
    warehouse.
    """
    wait_sec = database.lock_wait_sec()
    with alone(warehouse_path, target, wait_sec=wait_sec) as is_alone:
        if not is_alone:
            raise WarehouseError(
                f"{target}: is being published to; wait for it to end, and run this "
                "again"
            )
        yield


@dataclass(frozen=True)
class Publication:
    """What one `publish` did: `enqueued` new signals, and what each target got."""

    enqueued: int
    deliveries: tuple[Delivery, ...]

    @property
    def failures(self) -> tuple[Delivery, ...]:
        return tuple(d for d in self.deliveries if d.state == "failed")

    def as_json(self) -> dict[str, Any]:
        return {
            "enqueued": self.enqueued,
            "targets": [vars(delivery) for delivery in self.deliveries],
        }


def publish(
    warehouse_path: Path, settings: Settings, forms: Sequence[Format] = ("cloudevents",)
) -> Publication:
    """Enqueues what is new, writes the files, and then tells every receiver.

    Receivers are told side by side: one that is down or slow holds up no other. A
    target that fails is in the result. Raises `WarehouseError`.
    """
    files = publish_files(warehouse_path, settings, forms)
    posts = publish_posts(warehouse_path, settings, forms)
    return Publication(files.enqueued, (*files.deliveries, *posts))


def publish_files(
    warehouse_path: Path, settings: Settings, forms: Sequence[Format]
) -> Publication:
    """The part that needs no one else: the outbox and the files."""
    enqueued = enqueue(warehouse_path, settings)
    return Publication(
        enqueued,
        tuple(
            deliver(warehouse_path, folder_target(form, settings.folder))
            for form in forms
        ),
    )


def publish_posts(
    warehouse_path: Path, settings: Settings, forms: Sequence[Format]
) -> tuple[Delivery, ...]:
    """The part that waits for others: what is in the outbox, to each receiver."""
    stop = threading.Event()
    targets = [
        receiver_target(form, receiver, settings, stop)
        for form in forms
        for receiver in settings.receivers[form]
    ]
    if not targets:
        return ()
    with ThreadPoolExecutor(len(targets)) as pool:
        deliveries = [
            pool.submit(deliver, warehouse_path, target, stop) for target in targets
        ]
        try:
            return tuple(delivery.result() for delivery in deliveries)
        finally:
            stop.set()  # after Ctrl-C nobody waits for a retry


def move(
    warehouse_path: Path, settings: Settings, target: str, next_sequence: int
) -> Delivery:
    """Sets a target's place so that `next_sequence` is the next that it gets.

    To send events again (under the ids that they had), or to pass by one that a
    receiver will never take. Waits for a delivery that is under way, which would note
    its own place over this one. Raises `WarehouseError` for a target that is not known,
    and where the delivery does not end.
    """
    configured = (
        receiver_target(form, receiver, settings).key
        for form in FORMATS
        for receiver in settings.receivers[form]
    )
    with _open(warehouse_path) as connection:
        noted = connection.execute("select target from outbox.place").fetchall()
        known = sorted({*configured, *(name for (name,) in noted)})
        if target not in known:
            raise WarehouseError(
                f"no target {target!r}; there are: {'; '.join(known) or 'none'}"
            )
    with held(warehouse_path, target), _open(warehouse_path) as connection:
        _note(
            connection,
            target,
            sequence=max(next_sequence - 1, 0),
            moved_at=database.utc_now(),
        )
        place = _place(connection, target).sequence
        return Delivery(target, "moved", 0, place, _behind(connection, place))
