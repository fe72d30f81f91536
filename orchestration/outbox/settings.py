"""How to publish: folders, receivers, sizes and times."""

from dataclasses import dataclass
from pathlib import Path

from ingest.settings import Settings
from orchestration.outbox.integration_events import Format
from orchestration.outbox.receivers import Receiver, parse_receivers

RECEIVERS_VARIABLE: dict[Format, str] = {
    "cloudevents": "LMS_PUBLISH_URL",
    "xapi": "LMS_XAPI_URL",
}


@dataclass(frozen=True)
class PublishSettings:
    """How to publish; `of` says which setting says what."""

    folder: Path
    receivers: dict[Format, tuple[Receiver, ...]]
    base_url: str
    batch_events: int
    timeout_sec: float
    give_up_sec: float

    @classmethod
    def of(cls, settings: Settings) -> "PublishSettings":
        """Raises `WarehouseError` for a receiver that cannot be used."""
        return cls(
            folder=settings.outbox,
            receivers={
                "cloudevents": parse_receivers(settings.publish_url, "LMS_PUBLISH_URL"),
                "xapi": parse_receivers(settings.xapi_url, "LMS_XAPI_URL"),
            },
            base_url=settings.base_url,
            batch_events=settings.publish_batch_events,
            timeout_sec=settings.publish_timeout_sec,
            give_up_sec=settings.publish_give_up_sec,
        )
