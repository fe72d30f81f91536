"""A refresh as a whole: everything derived is brought up to date, then published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.derive import dbt_runner
from orchestration.derive.dbt_runner import Derivation
from orchestration.snapshot import snapshot
from orchestration.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Refresh:
    """What dbt did, and what readers have now: the snapshot before, if it failed."""

    derivation: Derivation
    snapshot: Snapshot | None

    def as_json(self) -> dict[str, Any]:
        return {
            **self.derivation.as_json(),
            "snapshot": self.snapshot,
        }


def refresh(warehouse_path: Path, *, rebuild: bool = False) -> Refresh:
    """Derives what is new, or with `rebuild` everything, and publishes it for readers.

    A model or a test that fails is in the result, and then nothing is published. Raises
    `WarehouseError` when it cannot run at all.
    """
    derivation = dbt_runner.derive(warehouse_path, rebuild=rebuild, if_needed=True)
    published = snapshot.publish(warehouse_path) if derivation.succeeded else None
    return Refresh(derivation, published)
