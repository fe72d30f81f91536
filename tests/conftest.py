from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.builders import Warehouse

# With every run the same examples, so that a failure is the change's; new ones with
# `make test-slow`.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile("fixed")

# What takes longest starts first; the tests of a file run one after the other.
# Two that wait a lot for other processes leave the others room.
LONGEST_FIRST = (
    *("test_defs", "test_replay", "test_snapshot", "test_interruptions"),
    *("test_laws", "test_collector", "test_erasure", "test_outcomes", "test_reconcile"),
    *("test_benchmarks", "test_sandbox", "test_commands", "test_compare"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _own_dbt_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """dbt's manifest is kept here, apart from other workers' and the project's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_TARGET_PATH", str(tmp_path_factory.mktemp("dbt_target")))
        yield


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path)
