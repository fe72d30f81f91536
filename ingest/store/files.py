"""Files that are whole and durable, or not there; and locks that end with the process.

A producer needs this module: it imports nothing but the standard library at its head.
"""

import contextlib
import errno
import fcntl
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


# For those who own our files and their group: they are of learners.
FILE_MODE, FOLDER_MODE = 0o640, 0o750


def hide_from_strangers() -> None:
    """From now on this process makes files for their owner and group alone. A stricter
    umask stays. For a door: a library leaves the umask as it is."""
    os.umask(os.umask(0o077) | 0o027)


def open_regular(path: Path) -> io.FileIO:
    """A regular file, open for reading. Raises `OSError` for a pipe, a device, a folder
    or a socket, of which nobody knows when or whether they end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return io.FileIO(descriptor)


def read_regular(path: Path) -> bytes:
    """All that a regular file holds. Raises `OSError`, as `open_regular` does."""
    with open_regular(path) as file:
        return file.readall() or b""


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_durably(unfinished: Path, path: Path, *, read_only: bool = False) -> None:
    """Gives a finished file its name, also one that another file has so far."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    if read_only:
        unfinished.chmod(unfinished.stat().st_mode & 0o555)
    os.replace(unfinished, path)
    sync_folder(path.parent)


def hidden(path: Path) -> Path:
    """Where what becomes `path` is written."""
    return path.with_name(f".{path.name}.unfinished")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` at the end of the block.

    An error in the block leaves nothing behind. A killed process may leave the hidden
    file; the next call for the same path overwrites it.
    """
    unfinished = hidden(path)
    try:
        yield unfinished
        rename_durably(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes, *, mode: int = FILE_MODE) -> None:
    """Writes a file, whole or not at all, and makes its folder where it is missing."""
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    with new_file(path) as unfinished:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(unfinished, flags, mode), "wb") as file:
            file.write(content)
    sync_folder(path.parent.parent)


def lock(path: Path, *, wait_sec: float = -1) -> "BaseFileLock":
    """The lock file at `path`, to hold in a `with` block; kept when it is let go.

    Raises `filelock.Timeout` after `wait_sec`; below 0 it waits for ever.
    """
    from filelock import FileLock

    return FileLock(path, timeout=wait_sec, preserve_lock_file=True)


def lock_open_file(descriptor: int) -> bool:
    """Locks an open file until it is closed; False where another holds its lock.

    For files that are their own lock, such as those of a spool.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
