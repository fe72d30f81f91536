from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import Warehouse


@pytest.fixture(scope="session", autouse=True)
def _own_dbt_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """dbt's manifest is kept here, apart from other workers' and the project's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_TARGET_PATH", str(tmp_path_factory.mktemp("dbt_target")))
        yield


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path)
