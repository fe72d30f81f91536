"""What every test has: a warehouse, a time limit, a mark for what it needs.

A test that derives takes the fixture `dbt`, one that needs a browser `page`; that
marks it (`-m "not dbt"`), so no list of them is kept. In a folder where all tests
derive, conftest.py takes the fixture for them.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.support.browser import Page, chromium
from tests.support.builders import MadeOnce, Warehouse

# With every run the same examples, so that a failure is the change's; new ones with
# `make test-slow`.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None)
settings.load_profile("fixed")

# A fixture, and the mark of a test that takes it.
MARKS = {"dbt": "dbt", "defs": "dbt", "page": "browser"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Marks each test by what it needs. Those that derive take longest, and come first:
    then no worker is left with a long file when the others are done."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKS:
                item.add_marker(MARKS[fixture])
    derives = {item.path for item in items if item.get_closest_marker("dbt")}
    items.sort(key=lambda item: item.path not in derives)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where no test is marked `dbt`, importing it fails: a missing mark is seen."""
    if session.items and not any(
        item.get_closest_marker("dbt") for item in session.items
    ):
        sys.modules.update(dict.fromkeys(("dbt", "dagster", "dagster_dbt")))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """What takes long to make, and that every worker needs: the first one that asks
    makes it, in a folder that nobody changes afterwards."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, unfinished = root / name, root / f"{name}-unfinished"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """dbt's manifest is kept here, apart from other workers' and the project's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_TARGET_PATH", str(tmp_path_factory.mktemp("dbt_target")))
        yield


@pytest.fixture(scope="session")
def derived_nothing(dbt: None, made_once: MadeOnce) -> Warehouse:
    """A warehouse in which nothing was landed and every model is built; not to be used
    itself but `copied`."""
    folder = made_once("derived_nothing", lambda folder: Warehouse(folder).refresh())
    return Warehouse.made_in(folder)


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
