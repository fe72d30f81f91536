"""Errors that a user can mend, and how an error becomes one line of a message."""


class WarehouseError(Exception):
    """Something the user can mend; its text is one line: what, where, what to do."""


class WarehouseLocked(WarehouseError):
    """Another process holds the file: the same call may pass later."""


class WarehouseDamaged(WarehouseError):
    """Bytes of the file are not those that were written."""


def first_line(error: BaseException) -> str:
    """What an error says, as one line of a message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
