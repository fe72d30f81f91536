import pytest


@pytest.fixture(scope="session", autouse=True)
def derives(dbt: None) -> None:
    """Every test of this folder."""
