"""How to publish: folders, receivers, sizes and times."""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ingest.store import database
from ingest.store.database import WarehouseError
from orchestration.outbox.integration_events import Format
from orchestration.outbox.receivers import Receiver, parse_receivers

DEFAULT_BASE_URL = "https://lms.example"

RECEIVERS_VARIABLE: dict[Format, str] = {
    "cloudevents": "LMS_PUBLISH_URL",
    "xapi": "LMS_XAPI_URL",
}


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
                event_format: parse_receivers(os.environ.get(variable, ""), variable)
                for event_format, variable in RECEIVERS_VARIABLE.items()
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
