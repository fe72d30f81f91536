"""Publishing signals to others: once each, in order, whoever is down.

    enqueue   signals that the outbox has not: one transaction, `sequence` assigned
    deliver   per target, from its watermark on: send, and then move the watermark

A process that is killed leaves at worst a batch that was sent and not noted; the next
one sends it again: the same file, or the same ids under the same Idempotency-Key.
"""

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from ingest.errors import WarehouseError
from ingest.store import database, files
from orchestration.outbox import outbox
from orchestration.outbox.integration_events import FORMATS, Format
from orchestration.outbox.receivers import (
    NotDelivered,
    Receiver,
    Target,
    folder_target,
    receiver_key,
    receiver_target,
)
from orchestration.outbox.settings import PublishSettings

# A refresh may hold the file for long; what a receiver has acknowledged must be noted.
ACKNOWLEDGED_WAIT_SEC = 600


@dataclass(frozen=True)
class Delivery:
    """What became of one target: `state` is `up to date`, `waiting`, `busy`, `failed`.

    `watermark` is the `sequence` that it is at, `sent` the events that it got now,
    `behind` those that it has still to get, `error` what to do something about.
    """

    target: str
    state: str
    sent: int
    watermark: int
    behind: int
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        # Whoever reads the JSON knows the watermark as `place`.
        return {
            "place" if name == "watermark" else name: value
            for name, value in vars(self).items()
        }


def deliver(
    warehouse_path: Path, target: Target, stop: threading.Event | None = None
) -> Delivery:
    """Sends batch by batch from the target's watermark on, until it has them all.

    The warehouse is open between two batches only, never while a target takes one. One
    process at a time delivers to a target; in another, it is `busy`.
    """
    sent, batch = 0, None
    with only_one(warehouse_path, target.key) as is_ours:
        while True:
            wait_sec = ACKNOWLEDGED_WAIT_SEC if batch else None
            with outbox.opened(warehouse_path, wait_sec=wait_sec) as connection:
                if batch:
                    outbox.move_watermark(connection, target.key, batch.last)
                at = outbox.watermark(connection, target.key)
                behind = outbox.behind(connection, at.sequence)
                if not is_ours:
                    return Delivery(target.key, "busy", 0, at.sequence, behind)
                if at.not_before and database.utc_now() < at.not_before:
                    return Delivery(
                        target.key,
                        "waiting",
                        sent,
                        at.sequence,
                        behind,
                        f"asked to be left alone until {at.not_before:%H:%M:%S} UTC",
                    )
                batch = outbox.next_batch(connection, at.sequence, target.largest_batch)
                if batch is None or (stop and stop.is_set()):
                    return Delivery(target.key, "up to date", sent, at.sequence, behind)
            if not batch.facts:
                continue
            try:
                target.send(batch)
            except NotDelivered as error:
                with outbox.opened(warehouse_path) as connection:
                    outbox.note_failure(
                        connection, target.key, str(error), error.not_before
                    )
                return Delivery(
                    target.key, "failed", sent, at.sequence, behind, str(error)
                )
            sent += len(batch.facts)


@contextlib.contextmanager
def only_one(
    warehouse_path: Path, target: str, *, wait_sec: float = 0
) -> Iterator[bool]:
    """Whether this process is the one that delivers to the target, after `wait_sec`.

    The lock ends with the process, however it ends.
    """
    name = hashlib.sha256(target.encode()).hexdigest()[:12]
    lock = files.lock(
        warehouse_path.with_name(f".{warehouse_path.name}.publish-{name}.lock"),
        wait_sec=wait_sec,
    )
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def paused(warehouse_path: Path, target: str) -> Iterator[None]:
    """While the block runs, nobody delivers to the target.

    Raises `WarehouseError` where a delivery goes on for longer than the wait for the
    warehouse.
    """
    wait_sec = database.lock_wait_sec()
    with only_one(warehouse_path, target, wait_sec=wait_sec) as is_ours:
        if not is_ours:
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
            "targets": [delivery.as_json() for delivery in self.deliveries],
        }


def publish(
    warehouse_path: Path,
    settings: PublishSettings,
    formats: Sequence[Format] = ("cloudevents",),
) -> Publication:
    """Enqueues what is new, writes the files, and then tells every receiver.

    Receivers are told side by side: one that is down or slow holds up no other. A
    target that fails is in the result. Raises `WarehouseError`.
    """
    written = publish_files(warehouse_path, settings, formats)
    posts = publish_posts(warehouse_path, settings, formats)
    return Publication(written.enqueued, (*written.deliveries, *posts))


def publish_files(
    warehouse_path: Path, settings: PublishSettings, formats: Sequence[Format]
) -> Publication:
    """The part that needs no one else: the outbox and the files."""
    enqueued = outbox.enqueue(
        warehouse_path,
        base_url=settings.base_url,
        batch_events=settings.batch_events,
    )
    return Publication(
        enqueued,
        tuple(
            deliver(warehouse_path, folder_target(event_format, settings.folder))
            for event_format in formats
        ),
    )


def publish_posts(
    warehouse_path: Path, settings: PublishSettings, formats: Sequence[Format]
) -> tuple[Delivery, ...]:
    """The part that waits for others: what is in the outbox, to each receiver."""
    stop = threading.Event()
    targets = [
        receiver_target(
            event_format,
            receiver,
            largest_batch=settings.batch_events,
            timeout_sec=settings.timeout_sec,
            give_up_sec=settings.give_up_sec,
            stop=stop,
        )
        for event_format, receiver in _receivers(settings, formats)
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


def _receivers(
    settings: PublishSettings, formats: Sequence[Format]
) -> list[tuple[Format, Receiver]]:
    return [
        (event_format, receiver)
        for event_format in formats
        for receiver in settings.receivers[event_format]
    ]


def move(
    warehouse_path: Path, settings: PublishSettings, target: str, next_sequence: int
) -> Delivery:
    """Sets a target's watermark so that `next_sequence` is the next that it gets.

    To send events again (under the ids that they had), or to pass by one that a
    receiver will never take. Waits for a delivery that is under way, which would note
    its own watermark over this one. Raises `WarehouseError` for a target that is not
    known, and where the delivery does not end.
    """
    configured = (receiver_key(*each) for each in _receivers(settings, FORMATS))
    with outbox.opened(warehouse_path) as connection:
        known = sorted({*configured, *outbox.targets(connection)})
        if target not in known:
            raise WarehouseError(
                f"no target {target!r}; there are: {'; '.join(known) or 'none'}"
            )
    with (
        paused(warehouse_path, target),
        outbox.opened(warehouse_path) as connection,
    ):
        outbox.move_watermark(connection, target, max(next_sequence - 1, 0))
        at = outbox.watermark(connection, target).sequence
        return Delivery(target, "moved", 0, at, outbox.behind(connection, at))
