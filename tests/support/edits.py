"""Editing a copy of the dbt project."""

import shutil
from pathlib import Path


def copied_project(folder: Path) -> Path:
    """A copy of the dbt project, to be edited."""
    from orchestration.derive import dbt_project

    copy = folder / "dbt_project"
    shutil.copytree(
        dbt_project.DBT_PROJECT, copy, ignore=shutil.ignore_patterns("target", "logs")
    )
    return copy


def edit(file: Path, old: str, new: str) -> None:
    """Replaces a text that must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
