"""The event contracts, what is generated from them, and whether a line keeps one."""

from ingest.contracts.events import QuizSubmitV1, VideoPingV1, VideoPingV2

__all__ = ["QuizSubmitV1", "VideoPingV1", "VideoPingV2"]
