"""A time on the command line: RFC 3339, or how long ago."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

import click

from schemas.document_change import MAX_EPOCH_MS

METAVAR = "TIME|AGO"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,9})([smhd])")


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001
    """Ms since the epoch; a callback of click's options. Raises BadParameter that names both forms."""
    if value is None:
        return None
    ago = _AGO.fullmatch(value)
    try:
        if ago:
            seconds = time.time() - timedelta(**{_UNITS[ago[2]]: int(ago[1])}).total_seconds()
            return max(0, round(seconds * 1000))
        found = datetime.fromisoformat(value)
    except (ValueError, OverflowError):
        found = None
    if found is None or found.tzinfo is None:
        raise click.BadParameter(
            f"{value!r} is neither RFC 3339 with a time zone (2026-01-31T12:00:00Z) nor how long ago (90s, 15m, 2h, 3d)"
        )
    return min(max(0, round(found.timestamp() * 1000)), MAX_EPOCH_MS)
