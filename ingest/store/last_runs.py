"""How the last runs ended: `<warehouse>.last-runs.json`.

For `warehouse status` and the dashboard. A file, since a run may fail because the
warehouse cannot be written. It has the names of what failed and never a message, which
may repeat learners' data.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from ingest.store import database
from ingest.store.files import write_durably

Kind = Literal["refresh", "publication", "check", "reconcile", "backup"]


@dataclass(frozen=True)
class Run:
    """`ended_at` is naive, in UTC. `failures` are the names of models and tests, and
    of what did not agree; a run that could not be made has none, and did not succeed.
    """

    ended_at: datetime
    succeeded: bool
    failures: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def outcome(self) -> str:
        """In a few words: what failed, by name."""
        ended = "succeeded" if self.succeeded else "could not run"
        if self.failures:
            ended = f"failed: {', '.join(self.failures)}"
        if self.skipped:
            ended += f"; {self.skipped} skipped because of that"
        return ended


def read(warehouse_path: Path) -> dict[Kind, Run]:
    """The last run of each kind; none where nothing was noted, or it is damaged."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(
            _path(warehouse_path).read_bytes(), type=dict[Kind, Run]
        )
    return {}


def note(warehouse_path: Path, kind: Kind, run: Run) -> None:
    """Puts it in the place of the last run of its kind."""
    runs = {**read(warehouse_path), kind: run}
    with contextlib.suppress(OSError):  # what was derived is as good without the note
        write_durably(_path(warehouse_path), msgspec.json.encode(runs))


@contextlib.contextmanager
def noting_a_crash(warehouse_path: Path, kind: Kind) -> Iterator[None]:
    """Notes a run that could not be made, where there is a warehouse."""
    try:
        yield
    except Exception:
        if warehouse_path.exists():
            note(warehouse_path, kind, Run(database.utc_now(), succeeded=False))
        raise


def _path(warehouse_path: Path) -> Path:
    return warehouse_path.with_name(f"{warehouse_path.name}.last-runs.json")
