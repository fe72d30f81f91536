"""A small file that a running service follows: edited, it counts from the next look."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ingest.errors import WarehouseError

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class WatchedFile(Generic[Value]):
    """What `read` makes of the file, read again whenever the file is another (1 µs).

    `read` is given a file that may be missing, and raises `WarehouseError` for one that
    it cannot use. Then the last usable state stays; `error` says why.
    """

    def __init__(self, path: Path, read: Callable[[Path], Value]) -> None:
        """Raises `WarehouseError`: a service does not start with a wrong file."""
        self.path = path
        self.error: str | None = None
        self._read = read
        self._seen = self._fingerprint()
        self._value = read(path)

    def value(self) -> Value:
        fingerprint = self._fingerprint()
        if fingerprint != self._seen:
            self._seen = fingerprint
            try:
                self._value = self._read(self.path)
                self.error = None
            except WarehouseError as error:
                self.error = str(error)
                logger.warning("%s; what stood there before still counts", error)
        return self._value

    def _fingerprint(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
