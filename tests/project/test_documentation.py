"""The documentation says what is there."""

import re
from pathlib import Path

from tests.support import architecture

PROJECT = Path(__file__).parents[2]


def test_the_picture_is_drawn_from_the_code() -> None:
    _, drawn, _ = architecture.split(architecture.PAGE.read_text())
    assert drawn == architecture.picture(), "run `make architecture`"


def test_each_folder_of_the_picture_is_described() -> None:
    _, _, after = architecture.split(architecture.PAGE.read_text())
    described = {
        name.removesuffix(".py").strip("/").replace("/", ".")
        for row in re.findall(r"^\| (`.*?) \|", after, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", row)
    }
    assert described == {*architecture.arrows(), "dbt_project"}


def test_each_walk_has_at_most_ten_steps_through_files_that_are_there() -> None:
    walks = architecture.PAGE.read_text().split("### ")[1:]
    assert len(walks) == 4
    for walk in walks:
        steps = re.findall(r"^\d+\. .*", walk, re.MULTILINE)
        assert len(steps) <= 10
        files = [re.findall(r"`([\w/]+\.(?:py|sql))`", step) for step in steps]
        assert all(files), "a step names its file"
        for file in (each for step in files for each in step):
            assert (PROJECT / file).is_file(), file


def test_every_link_of_the_documentation_leads_to_a_file() -> None:
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]
    assert len(pages) > 15
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_file_that_the_documentation_names_is_there() -> None:
    for page in [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]:
        for file in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text()):
            assert (PROJECT / file).is_file(), f"{page.name}: {file}"
