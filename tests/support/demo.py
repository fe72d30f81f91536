"""The demonstration data, as what reads it meets it."""

from dataclasses import dataclass
from pathlib import Path

from serving.published import snapshot_path
from serving.reader import Follower
from tests.support.builders import Warehouse

NOW = "2026-10-23 00:00:00"


@dataclass(frozen=True)
class Demo:
    """A warehouse with the demonstration data, published."""

    warehouse: Warehouse

    @property
    def published(self) -> Path:
        return snapshot_path(self.warehouse.path)

    def follower(self) -> Follower:
        return Follower(self.published, now=NOW)
