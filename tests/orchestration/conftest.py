import shutil
from pathlib import Path

import pytest

from orchestration.derive import dbt_project


@pytest.fixture(scope="session", autouse=True)
def derives(dbt: None) -> None:
    """Every test of this folder."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the dbt project, to be edited."""
    copy = tmp_path / "dbt_project"
    shutil.copytree(
        dbt_project.DBT_PROJECT, copy, ignore=shutil.ignore_patterns("target", "logs")
    )
    monkeypatch.setattr(dbt_project, "DBT_PROJECT", copy)
    return copy
