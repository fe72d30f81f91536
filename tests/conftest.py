"""What every test has: a warehouse, a time limit, a mark for what it needs.

A test that derives takes the fixture `dbt`, one that needs a browser `page`; that
marks it (`-m "not dbt"`), so no list of them is kept. In a folder where all tests
derive, conftest.py takes the fixture for them.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.browser import Page, chromium
from tests.support.builders import Warehouse

# With every run the same examples, so that a failure is the change's; new ones with
# `make test-slow`.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile("fixed")

# A fixture, and the mark of a test that takes it.
MARKS = {"dbt": "dbt", "defs": "dbt", "page": "browser"}

# Seconds by file, from the runs before; kept in pytest's cache.
DURATIONS = "warehouse/durations"
_seconds: defaultdict[str, float] = defaultdict(float)


def _known_seconds(config: pytest.Config) -> dict[str, float]:
    """None without pytest's cache (`-p no:cacheprovider`)."""
    cache = getattr(config, "cache", None)
    return cache.get(DURATIONS, {}) if cache else {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Marks each test by what it needs; the files that took longest come first."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKS:
                item.add_marker(MARKS[fixture])
    took = _known_seconds(config)
    items.sort(key=lambda item: -took.get(item.path.name, 0))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where no test is marked `dbt`, importing it fails: a missing mark is seen."""
    if session.items and not any(
        item.get_closest_marker("dbt") for item in session.items
    ):
        sys.modules.update(dict.fromkeys(("dbt", "dagster", "dagster_dbt")))  # type: ignore[arg-type]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[Path(report.location[0]).name] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    is_worker = hasattr(session.config, "workerinput")
    if hasattr(session.config, "cache") and session.config.cache and not is_worker:
        known = _known_seconds(session.config)
        session.config.cache.set(DURATIONS, {**known, **_seconds})


@pytest.fixture(scope="session")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """dbt's manifest is kept here, apart from other workers' and the project's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_TARGET_PATH", str(tmp_path_factory.mktemp("dbt_target")))
        yield


@pytest.fixture(scope="session")
def derived_nothing(dbt: None, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A warehouse in which nothing was landed and every model is built; not to be used
    itself but `copied`."""
    warehouse = Warehouse(tmp_path_factory.mktemp("derived_nothing"))
    warehouse.refresh()
    return warehouse


@pytest.fixture(scope="session")
def derived_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every warehouse that is derived stands: dbt parses its project again (0.9 s
    and more) whenever the path is another."""
    return tmp_path_factory.mktemp("warehouse")


@pytest.fixture
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    """Nothing was landed: there is no file, or where a test derives, one in which every
    model is built."""
    if "dbt" in request.fixturenames:
        template: Warehouse = request.getfixturevalue("derived_nothing")
        return template.copied(request.getfixturevalue("derived_folder"))
    return Warehouse(request.getfixturevalue("tmp_path"))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page of a real Chromium with an empty profile."""
    with chromium(tmp_path / "profile") as page:
        yield page
