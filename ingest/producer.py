"""What a producer imports: events by the contracts, and a spool that survives a crash.

    with SpoolWriter(Path("spool"), Path("data/landing/events")) as spool:
        spool.put(new_event(VideoPingV2(...), user_id=..., class_id=..., ...))

Of other packages it needs only msgspec. docs/producers.md shows it whole, and the same
in JavaScript.
"""

from ingest.contracts import QuizSubmitV1, VideoPingV1, VideoPingV2
from ingest.spool.writer import Event, SpoolError, SpoolFull, SpoolWriter, new_event

__all__ = [
    "Event",
    "QuizSubmitV1",
    "SpoolError",
    "SpoolFull",
    "SpoolWriter",
    "VideoPingV1",
    "VideoPingV2",
    "new_event",
]
