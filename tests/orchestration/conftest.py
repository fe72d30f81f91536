from pathlib import Path

import pytest

from orchestration.derive import dbt_project
from tests.support.edits import copied_project


@pytest.fixture(scope="session", autouse=True)
def derives(dbt: None) -> None:
    """Every test of this folder."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the dbt project, to be edited."""
    copy = copied_project(tmp_path)
    monkeypatch.setattr(dbt_project, "DBT_PROJECT", copy)
    return copy
