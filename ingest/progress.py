"""What takes a while says so: `step` is shown where somebody looks, else it is nothing.

The door decides: the command shows steps on a terminal.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

Tell = Callable[[str], None]
Show = Callable[[str], AbstractContextManager[Tell]]


def _not_shown(_what: str) -> AbstractContextManager[Tell]:
    return contextlib.nullcontext(lambda _what: None)


_show: Show = _not_shown


def step(what: str) -> AbstractContextManager[Tell]:
    """Shows `what` until the block ends; the block may tell what it is at now."""
    return _show(what)


def show_by(show: Show) -> None:
    """From now on steps are shown by this, in all threads."""
    global _show
    _show = show
