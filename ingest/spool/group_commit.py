"""A spool that many requests write to at once, and each knows when it is on disk.

`producer.SpoolWriter` promises its one caller that events get there some time; here
each caller waits for its own, and is told at once when the disk refuses.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ingest.spool.file import UNFINISHED, SpoolFile, recover
from ingest.spool.writer import SpoolError, SpoolFull
from ingest.store.files import FOLDER_MODE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpoolState:
    """What of the spool is not in the landing zone yet.

    `file_bytes` and `file_age_sec` are of the open file (0 when there is none);
    `waiting_bytes` is not on disk yet; `error` is what the disk last said. Without
    `is_writing` nothing will ever be written again.
    """

    file_bytes: int
    file_age_sec: float
    waiting_bytes: int
    error: str | None
    is_writing: bool


@dataclass(frozen=True)
class _Put:
    data: bytes
    on_disk: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class GroupCommit:
    """Appends lines to a file in `spool`; one fsync serves all who waited for it.

    While one group is written and synced, the next one gathers. A file is renamed into
    `landing` once it has `max_bytes` or is `max_age_sec` old. What a dead process left
    in the spool is handed on at the start. A group that the disk refuses is dropped,
    and everyone who put a part of it is told so.
    """

    def __init__(
        self,
        spool: Path,
        landing: Path,
        *,
        max_bytes: int = 16 * 1024 * 1024,
        max_age_sec: float = 5,
        max_waiting_bytes: int = 64 * 1024 * 1024,
        observe_sync: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """Makes the folders where they are missing, and recovers.

        `observe_sync` is told what each write with its fsync took. Raises `SpoolError`
        when the folders cannot be used.
        """
        try:
            for folder in (spool, landing):
                folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            if spool.stat().st_dev != landing.stat().st_dev:
                raise SpoolError(
                    f"{spool} and {landing} are on different file systems: no file can "
                    "be renamed from one into the other; move the spool (LMS_SPOOL)"
                )
            self._spool = spool
            self._landing = landing
            self._recover()
            self.probe()
        except OSError as error:
            raise SpoolError(
                f"{spool}: cannot be written ({error.strerror or error}); make room, "
                "or the folder writable"
            ) from error
        self._max_bytes = max_bytes
        self._max_age_sec = max_age_sec
        self._max_waiting_bytes = max_waiting_bytes
        self._observe_sync = observe_sync
        # Below: shared with the thread, guarded by `_changed`.
        self._changed = threading.Condition()
        self._waiting: list[_Put] = []
        self._waiting_bytes = 0
        self._closing = False
        self._error: OSError | None = None
        # Below: the thread's own; others only read it.
        self._file: SpoolFile | None = None
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> asyncio.Future[None]:
        """Takes whole lines; the future is done when they are on disk.

        It fails with `SpoolError` when the disk refused them: then none of `data` is
        promised, and all of it can be put again. Raises `SpoolFull` when too much waits
        already, `SpoolError` after `close`.
        """
        loop = asyncio.get_running_loop()
        on_disk: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise SpoolError("the spool is closed")
            if self._waiting_bytes + len(data) > self._max_waiting_bytes:
                raise SpoolFull(f"{self._waiting_bytes} bytes wait for {self._spool}")
            self._waiting.append(_Put(data, on_disk, loop))
            self._waiting_bytes += len(data)
            self._changed.notify()
        return on_disk

    def state(self) -> SpoolState:
        file, error = self._file, self._error
        return SpoolState(
            file_bytes=file.size if file else 0,
            file_age_sec=time.monotonic() - file.started if file else 0.0,
            waiting_bytes=self._waiting_bytes,
            error=(error.strerror or str(error)) if error else None,
            is_writing=self._thread.is_alive(),
        )

    def probe(self) -> None:
        """Writes and syncs a file beside the spool's. Raises `OSError`."""
        path = self._spool / f".probe-{os.getpid()}-{threading.get_ident()}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(descriptor, b"\0" * 4096)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            path.unlink(missing_ok=True)

    def close(self, *, timeout_sec: float = 10) -> None:
        """Writes what waits, and hands the last file on.

        Raises `SpoolError` when the disk refuses or hangs. A file that could not be
        renamed stays in the spool, for the next start.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_sec)
        if self._thread.is_alive() or self._error:
            why = self.state().error or f"no answer in {timeout_sec:g} s"
            raise SpoolError(f"{self._spool}: the last file stays there ({why})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._closing, self._seconds_to_rotation()
                )
                group, self._waiting = self._waiting, []
                is_last = self._closing
            if group:
                self._commit(group)
            if self._file and (is_last or self._is_due()):
                self._move_to_landing()
        if self._file:
            self._file.close()
        elif self._error:
            # It may be of a write long ago: only a file that stays is an error now.
            self._try(self._recover)

    def _commit(self, group: list[_Put]) -> None:
        data = b"".join(put.data for put in group)
        error: OSError | None = None
        try:
            if self._file is None:
                with contextlib.suppress(OSError):
                    self._recover()
                self._file = SpoolFile(self._spool)
            started = time.perf_counter()
            self._file.append(data)
            self._observe_sync(time.perf_counter() - started)
        except OSError as refused:
            error = refused
            if self._file and self._file.is_closed:
                self._file = None
        self._note(error)
        with self._changed:
            self._waiting_bytes -= len(data)
        for loop in {put.loop for put in group}:
            mine = [put.on_disk for put in group if put.loop is loop]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, mine, error)

    def _move_to_landing(self) -> None:
        assert self._file
        file = self._file
        if self._try(lambda: file.move_to_landing(self._landing)):
            self._file = None
        else:
            time.sleep(0.2)  # then the file is due still

    def _try(self, action: Callable[[], None]) -> bool:
        """Whether the disk lets it be done; the state says so."""
        try:
            action()
        except OSError as error:
            self._note(error)
            return False
        self._note(None)
        return True

    def _recover(self) -> None:
        for left_behind in sorted(self._spool.glob(f"*{UNFINISHED}")):
            recover(left_behind, self._landing)

    def _seconds_to_rotation(self) -> float | None:
        if self._file is None:
            return None
        return max(0.0, self._file.started + self._max_age_sec - time.monotonic())

    def _is_due(self) -> bool:
        assert self._file
        return self._file.size >= self._max_bytes or self._seconds_to_rotation() == 0

    def _note(self, error: OSError | None) -> None:
        if error and not self._error:
            logger.warning("spool %s: %s", self._spool, error.strerror or error)
        self._error = error


def _settle(futures: list[asyncio.Future[None]], error: OSError | None) -> None:
    for future in futures:
        if future.done():
            continue  # whoever waited has given up
        if error is None:
            future.set_result(None)
        else:
            why = error.strerror or str(error)
            future.set_exception(SpoolError(f"the disk refused: {why}"))
