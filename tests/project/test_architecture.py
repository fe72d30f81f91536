"""docs/architecture.md says what the code is."""

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
