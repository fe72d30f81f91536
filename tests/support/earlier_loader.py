"""A loader from before some contracts were written: what it lands are dead letters."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from ingest.contracts import validation
from ingest.contracts.events import contracts
from tests.support.builders import Line, Warehouse

PING_V2 = ("VIDEO_PING", 2)
QUIZ_V1 = ("QUIZ_SUBMIT", 1)


@contextmanager
def before(*added_later: tuple[str, int]) -> Iterator[None]:
    """The loader as it was before these contracts were written."""
    known = {key: c for key, c in contracts().items() if key not in added_later}
    with mock.patch.object(validation, "contracts", return_value=known):
        forget_contracts()
        yield
    forget_contracts()


def forget_contracts() -> None:
    validation.payload_names.cache_clear()
    validation.read_lines_sql.cache_clear()


def land_before(warehouse: Warehouse, *lines: Line) -> None:
    with before(PING_V2, QUIZ_V1):
        warehouse.land(lines)
