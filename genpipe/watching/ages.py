"""Times as people say them: `3 hours ago`, `in 2 days`, `12 minutes`."""

from datetime import UTC, datetime

UNITS = {"week": 604_800, "day": 86_400, "hour": 3600, "minute": 60, "second": 1}


def lasting(seconds: float) -> str:
    """Whole units of the greatest kind of which there are two or more, or of the smallest."""
    name, size = next(((name, size) for name, size in UNITS.items() if seconds >= 2 * size), ("second", 1))
    count = int(seconds // size)
    return f"{count} {name}{'' if count == 1 else 's'}"


def since(then: str) -> str:
    """How long ago a time was, or how far ahead it is; `then` is in ISO format with its zone."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(then)).total_seconds()
    return f"{lasting(seconds)} ago" if seconds >= 0 else f"in {lasting(-seconds)}"


def between(begun: str, ended: str) -> str:
    return lasting((datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds())


def clock(then: str) -> str:
    """Date and time in UTC, to the minute."""
    return f"{datetime.fromisoformat(then).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
