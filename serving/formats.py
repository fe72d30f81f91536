"""Numbers, shares, lengths and times as people read them."""

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

NOTHING = "-"


def number(value: float | None) -> str:
    """12345 -> 12,345; 2.5 -> 2.5."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def decimal(value: float | None) -> str:
    """2.4567 -> 2.46."""
    return NOTHING if value is None else f"{value:,.2f}"


def share(value: float | None) -> str:
    """0.1234 -> 12.3 %."""
    return NOTHING if value is None else f"{value * 100:.1f} %"


def percent(value: float | None) -> str:
    """12.34 -> 12.3 %."""
    return NOTHING if value is None else f"{value:.1f} %"


def length(seconds: float | None) -> str:
    """512.4 -> 8:32, as players show a position."""
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bytes_of(value: float | None) -> str:
    return NOTHING if value is None else f"{value / 1e6:,.1f} MB"


def moment(value: datetime | None, zone: str = "UTC") -> str:
    """A naive time in UTC, in the zone: 2026-10-12 14:03."""
    if value is None:
        return NOTHING
    return f"{value.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}"


def day(value: date | None) -> str:
    return NOTHING if value is None else f"{value:%Y-%m-%d}"


def text(value: Any) -> str:
    return NOTHING if value is None else str(value)


def plain(value: float) -> str:
    """512.40 -> 512.4: as many digits as it has, at most three after the point."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
