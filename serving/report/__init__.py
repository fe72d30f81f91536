"""The report: what the dashboard shows, as files that can be mailed and printed.

`content` asks the questions, `files` writes HTML and images, `mail` sends them.
"""

from collections.abc import Collection
from pathlib import Path

IMAGES = "images"


def remove_reports(folder: Path, *, keep: Collection[Path] = ()) -> None:
    """What was written there before, but for the files to keep: it names learners."""
    for file in (*folder.glob("*.html"), *folder.glob(f"{IMAGES}/*.png")):
        if file not in keep:
            file.unlink(missing_ok=True)
