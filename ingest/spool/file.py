"""A file of a spool: appended to, synced, and handed to the landing zone by a rename.

Whoever writes one holds its lock; what a dead process left behind is recovered.
"""

import contextlib
import errno
import logging
import os
import re
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from ingest.store.files import FILE_MODE, lock_open_file, sync_folder

logger = logging.getLogger(__name__)

UNFINISHED = ".part"

# Of a spool's files, in their names; those without a number are of format 1. A line of
# format 1 is an event, as it lands.
FORMAT = 1
_NUMBER = re.compile(rf"\.v(\d+)\.ndjson{re.escape(UNFINISHED)}$")


class SpoolFile:
    """A file of the spool that this process writes to, and holds the lock of.

    Its name does not end as an event file's does: nobody lands it before it is renamed.
    """

    def __init__(self, spool: Path) -> None:
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4()}.v{FORMAT}.ndjson{UNFINISHED}"
        self._path = spool / name
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(self._path, flags, FILE_MODE)
        self.is_closed = False
        self.size = 0
        self.started = time.monotonic()
        try:
            if not lock_open_file(self._descriptor):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            # Before it was locked, another writer may have recovered it.
            self._path.stat()
            sync_folder(spool)
        except OSError:
            self._path.unlink(missing_ok=True)
            self.close()
            raise

    def append(self, data: bytes) -> None:
        """Writes and syncs `data`. After an error the file is as before, or closed."""
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError:
            # After a failed fsync the kernel may hold for written what is not: all of
            # `data` has to be written again, not only synced.
            try:
                os.ftruncate(self._descriptor, self.size)
            except OSError:
                # Nothing may follow half a line: a new file is begun.
                self.close()
            raise
        self.size += len(data)

    def move_to_landing(self, landing: Path) -> None:
        _rename_into(landing, self._path)
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)
        self.is_closed = True


def recover(path: Path, landing: Path) -> None:
    """Hands on the complete lines of a file whose writer is gone; one that a newer
    version wrote is left for that version."""
    if (match := _NUMBER.search(path.name)) and int(match[1]) > FORMAT:
        logger.warning(
            "%s: a newer version wrote it; run that version, which hands it on", path
        )
        return
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return  # another writer recovered it, or its own handed it on
    try:
        if not lock_open_file(descriptor) or not path.exists():
            return  # its writer lives, or it was recovered by another
        size = os.fstat(descriptor).st_size
        complete = _end_of_last_line(descriptor, size)
        if complete < size:
            logger.warning("%s: cut a torn last line off", path)
            os.ftruncate(descriptor, complete)
        os.fsync(descriptor)
        if complete:
            _rename_into(landing, path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def _end_of_last_line(descriptor: int, size: int) -> int:
    """How many bytes of the file are complete lines."""
    step = 64 * 1024
    for end in range(size, 0, -step):
        start = max(0, end - step)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
    return 0


def _rename_into(landing: Path, path: Path) -> None:
    path.rename(landing / path.name.removesuffix(UNFINISHED))
    # A rename that a power cut undoes leaves the file in the spool: nothing is lost.
    with contextlib.suppress(OSError):
        sync_folder(landing)
        sync_folder(path.parent)
