"""The report: what the dashboard shows, as files that can be mailed and printed.

`content` asks the questions, `files` writes HTML and images, `mail` sends them.
"""

import shutil
from pathlib import Path

IMAGES = "images"


def remove_reports(folder: Path) -> None:
    """What was written there before: it names learners."""
    shutil.rmtree(folder / IMAGES, ignore_errors=True)
    for page in folder.glob("*.html"):
        page.unlink(missing_ok=True)
