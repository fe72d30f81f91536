"""Settings: what the environment sets, read once, checked, and written down once."""

import re
from pathlib import Path

import pytest

from ingest.errors import WarehouseError
from ingest.settings import Settings, variables_table

ROOT = Path(__file__).parents[2]


def test_what_has_no_place_of_its_own_is_beside_the_warehouse_or_the_landing_zone(
    tmp_path: Path,
) -> None:
    settings = Settings.from_environment(
        {
            "LMS_WAREHOUSE": str(tmp_path / "w" / "lms.duckdb"),
            "LMS_LANDING": str(tmp_path / "l" / "landing"),
            "LMS_OUTBOX": "",
        }
    )
    assert settings.outbox == tmp_path / "w" / "outbox"
    assert settings.published == tmp_path / "w" / "published"
    assert settings.collector == tmp_path / "w" / "collector"
    assert settings.spools == (tmp_path / "l" / "spool",)
    assert settings.quiz_register == tmp_path / "l" / "landing" / "quiz_register.csv"
    assert (settings.lock_wait_sec, settings.publish_batch_events) == (60, 1000)


def test_several_values_stand_in_one_variable() -> None:
    settings = Settings.from_environment(
        {"LMS_SPOOL": "/a:/b", "LMS_CORS_ORIGINS": "https://a, https://b,"}
    )
    assert settings.spools == (Path("/a"), Path("/b"))
    assert settings.cors_origins == ("https://a", "https://b")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LMS_LOCK_WAIT_SEC", "soon"),
        ("LMS_LOCK_WAIT_SEC", "-1"),
        ("LMS_PUBLISH_BATCH_EVENTS", "0"),
        ("LMS_PUBLISH_GIVE_UP_SEC", "inf"),
        ("LMS_BASE_URL", "lms.example"),
    ],
)
def test_a_value_that_cannot_be_is_named(variable: str, value: str) -> None:
    with pytest.raises(WarehouseError, match=re.escape(f"{variable}={value}: give ")):
        Settings.from_environment({variable: value})


def test_secrets_are_not_shown() -> None:
    secrets = {
        "LMS_ERASURE_KEY": "secret-1",
        "LMS_TALLY_SECRET": "secret-2",
        "LMS_LEARNER_SECRET": "secret-3",
        "LMS_PUBLISH_URL": "https://user:secret-4@receiver.example",
        "LMS_XAPI_URL": "https://user:secret-5@store.example",
        "LMS_ALERT_URL": "https://alerts.example/secret-6",
    }
    assert "secret-" not in repr(Settings.from_environment(secrets))


def test_the_documentation_has_every_variable_with_its_default_and_meaning() -> None:
    assert variables_table() in (ROOT / "docs" / "running.md").read_text()


def test_what_is_beside_a_warehouse_is_beside_the_one_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMS_WAREHOUSE", str(tmp_path / "a" / "lms.duckdb"))
    monkeypatch.setenv("LMS_SANDBOXES", str(tmp_path / "s"))
    settings = Settings.of(tmp_path / "b" / "lms.duckdb")
    assert settings.published == tmp_path / "b" / "published"
    assert settings.sandboxes == tmp_path / "s"


def test_settings_alone_read_the_environment() -> None:
    """The dbt runner sets what dbt's own profile reads; the dashboard's command hands
    the environment on to Streamlit."""
    readers = {
        str(path.relative_to(ROOT))
        for package in ("ingest", "orchestration", "serving")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"os\.environ|getenv", path.read_text())
    }
    assert readers == {
        "ingest/settings.py",
        "orchestration/commands/dashboard.py",
        "orchestration/derive/dbt_runner.py",
    }
