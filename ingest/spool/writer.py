"""What a producer imports: events by the contracts, and a spool that survives a crash.

    with SpoolWriter(Path("spool"), Path("data/landing/events")) as spool:
        spool.put(new_event(VideoPingV2(...), user_id=..., class_id=..., ...))

Of this package it needs `contracts`, `validation`, `spool_file` and this module, and
of other packages only msgspec; docs/producers.md shows it whole, and the same in
JavaScript.
"""

import contextlib
import logging
import os
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ingest.contracts.events import LARGEST_LINE_BYTES, Envelope, Payload, contracts
from ingest.contracts.validation import Rejection, examine_value
from ingest.spool.file import UNFINISHED, SpoolFile, recover
from ingest.store.files import FOLDER_MODE

logger = logging.getLogger(__name__)

# --- events --------------------------------------------------------------------------


class Event(Envelope, frozen=True, kw_only=True, omit_defaults=True):
    """One valid event. Made by `new_event`; `to_line` is what the warehouse lands."""

    schema_version: int
    payload: Payload  # type: ignore[assignment]  # an Envelope that is read has a dict

    def to_line(self) -> bytes:
        """The event as one line of NDJSON, with its newline."""
        return msgspec.json.encode(self) + b"\n"


def new_event(
    payload: Payload,
    *,
    user_id: str,
    class_id: str,
    occurred_at: datetime,
    course_id: str | None = None,
    event_id: str | None = None,
) -> Event:
    """An event under the contract that `payload` is an instance of.

    `occurred_at` has a time zone. `event_id` is a new random UUID if not given; give
    one where the fact has an id already (a form's submission), so that telling it again
    is the same event. Raises `ValueError`, one line that names the field, for all that
    the warehouse would reject.
    """
    contract = type(payload)
    name = contract.__name__
    if contract not in contracts().values():
        raise ValueError(f"payload: {name} is no contract; see ingest.contracts.events")
    if not isinstance(occurred_at, datetime) or occurred_at.utcoffset() is None:
        raise ValueError(f"{name}: occurred_at: needs a datetime with a time zone")
    try:
        at = occurred_at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name}: occurred_at: no such year in UTC") from None
    event = Event(
        event_id=str(uuid.uuid4()) if event_id is None else event_id,
        type=contract.TYPE,
        schema_version=contract.VERSION,
        user_id=user_id,
        class_id=class_id,
        course_id=course_id,
        occurred_at=at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        payload=payload,
    )
    fields = msgspec.structs.asdict(payload)
    value = msgspec.structs.asdict(event) | {"payload": fields}
    result = examine_value(value, datetime.now(UTC).replace(tzinfo=None))
    if isinstance(result, Rejection):
        raise ValueError(f"{name}: {result.field}: {result.detail}")
    try:
        # Numbers as the contract has them: an integer may be too large to encode.
        event = msgspec.structs.replace(
            event, payload=msgspec.convert(fields, contract)
        )
        size = len(event.to_line()) - 1
    except UnicodeEncodeError:
        raise ValueError(f"{name}: {_not_utf8(value)}: not UTF-8 text") from None
    if size > LARGEST_LINE_BYTES:
        raise ValueError(f"{name}: {size} bytes; at most {LARGEST_LINE_BYTES} fit")
    return event


def _not_utf8(value: dict[str, object], prefix: str = "") -> str | None:
    """The field that holds a lone surrogate."""
    for name, field in value.items():
        if isinstance(field, dict):
            if found := _not_utf8(field, f"{prefix}{name}."):
                return found
        elif isinstance(field, str) and any("\ud800" <= c <= "\udfff" for c in field):
            return f"{prefix}{name}"
    return None


# --- the spool -----------------------------------------------------------------------


class SpoolError(Exception):
    """What was put is not on disk, or cannot be: the text says why."""


class SpoolFull(SpoolError):
    """The event was not taken; it can be put again."""


class SpoolWriter:
    """Puts events on disk in batches, and hands finished files to the landing zone.

    A background thread appends what was put to a file in `spool`, one fsync a batch,
    and renames the file into `landing` once it has `max_bytes` or is `max_age_sec` old
    (counted from its first line). What `flush` has returned for survives a crash of the
    process and of the machine; what was put after it may be lost with the process.

    What a process left behind is handed on, less a torn last line, when a writer on the
    same folder starts or begins a new file. Several processes may share the folders,
    each with a writer of its own: a file that a live one writes to is locked. While the
    disk refuses, writing is tried again every second, and `put` takes events until
    `max_waiting_bytes` wait.
    """

    def __init__(
        self,
        spool: Path,
        landing: Path,
        *,
        max_bytes: int = 16 * 1024 * 1024,
        max_age_sec: float = 60,
        max_waiting_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        """Makes the folders where they are missing, and recovers.

        Raises `SpoolError` when they are on different file systems, `OSError` when they
        cannot be written.
        """
        for folder in (spool, landing):
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if spool.stat().st_dev != landing.stat().st_dev:
            raise SpoolError(
                f"{spool} and {landing} are on different file systems: no file can be "
                "renamed from one into the other; move the spool"
            )
        self._spool = spool
        self._landing = landing
        self._max_bytes = max_bytes
        self._max_age_sec = max_age_sec
        self._max_waiting_bytes = max_waiting_bytes
        self._pid = os.getpid()
        # Below: shared with the thread, guarded by `_changed`.
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._taken = 0  # events for which `put` returned
        self._durable = 0  # of those, in the same order, how many are on disk
        self._closing = False
        self._error: OSError | None = None
        # Below: the thread's own.
        self._file: SpoolFile | None = None
        self._recover()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def put(self, event: Event, *, timeout_sec: float = 0.1) -> None:
        """Takes an event; it is on disk soon, and surely once `flush` has returned.

        Raises `SpoolFull` when after `timeout_sec` there is still no room for it: the
        disk is slow, full or gone.
        """
        line = event.to_line()
        self._check_process()
        with self._changed:
            has_room = self._changed.wait_for(
                lambda: (
                    self._closing
                    or not self._waiting_bytes
                    or self._waiting_bytes + len(line) <= self._max_waiting_bytes
                ),
                timeout_sec,
            )
            if self._closing:
                raise SpoolError("the spool is closed")
            if not has_room:
                raise SpoolFull(
                    f"{self._waiting_bytes} bytes wait for {self._spool}"
                    f"{self._why()}; the event was not taken: put it again later"
                )
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._taken += 1
            self._changed.notify_all()

    def flush(self, *, timeout_sec: float = 10) -> None:
        """Returns once everything put so far is on disk; `SpoolError` if it is not."""
        self._check_process()
        with self._changed:
            taken = self._taken
            if not self._changed.wait_for(
                lambda: self._durable >= taken or not self._thread.is_alive(),
                timeout_sec,
            ):
                raise SpoolError(self._not_on_disk(taken))
            if self._durable < taken:
                raise SpoolError(self._not_on_disk(taken))

    def close(self, *, timeout_sec: float = 10) -> None:
        """Writes what waits, and hands the last file to the landing zone.

        Raises `SpoolError` when the disk refuses or hangs. A file that could not be
        renamed stays in the spool, for the next writer.
        """
        self._check_process()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_sec)
        if self._durable < self._taken:
            raise SpoolError(self._not_on_disk(self._taken))
        if self._error or self._thread.is_alive():
            raise SpoolError(f"{self._spool}: the last file stays there{self._why()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise SpoolError("made before a fork; make one SpoolWriter in each process")

    def _why(self) -> str:
        return f" ({self._error.strerror or self._error})" if self._error else ""

    def _not_on_disk(self, taken: int) -> str:
        return f"{taken - self._durable} events are not on disk{self._why()}"

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._closing, self._seconds_to_rotation()
                )
                lines = list(self._waiting)
                is_last = self._closing
            try:
                if lines:
                    self._append(lines)
                if self._file and (is_last or self._is_due()):
                    self._file.move_to_landing(self._landing)
                    self._file = None
            except OSError as error:
                if self._file and self._file.is_closed:
                    self._file = None
                self._set_error(error)
                if not is_last:
                    self._sleep_while_refused()
            else:
                self._set_error(None)
        if self._file:
            self._file.close()

    def _recover(self) -> None:
        for left_behind in sorted(self._spool.glob(f"*{UNFINISHED}")):
            recover(left_behind, self._landing)

    def _append(self, lines: list[bytes]) -> None:
        if self._file is None:
            with contextlib.suppress(OSError):
                self._recover()
            self._file = SpoolFile(self._spool)
        self._file.append(b"".join(lines))
        with self._changed:
            del self._waiting[: len(lines)]
            self._waiting_bytes -= sum(map(len, lines))
            self._durable += len(lines)
            self._changed.notify_all()

    def _seconds_to_rotation(self) -> float | None:
        if self._file is None:
            return None
        return max(0.0, self._file.started + self._max_age_sec - time.monotonic())

    def _is_due(self) -> bool:
        assert self._file
        return self._file.size >= self._max_bytes or self._seconds_to_rotation() == 0

    def _set_error(self, error: OSError | None) -> None:
        with self._changed:
            if error and not self._error:
                logger.warning("spool %s: %s; tried again", self._spool, error)
            self._error = error
            self._changed.notify_all()

    def _sleep_while_refused(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=1)
