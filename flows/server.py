"""Prefect's temporary server, of a run for which no server is named: Control-C leaves it alone, and it is stopped last.

A terminal sends Control-C to every process of its foreground group, and to the server among them. Without the server a
run can't tell how it has ended, and Prefect asks on for minutes.
"""

import signal

from prefect.settings import get_current_settings

from genpipe.deadlines import within


def start() -> None:
    """Start it, unless a server is named; Prefect's clients find it, and it is stopped when this process exits."""
    settings = get_current_settings()
    if not settings.api.url and settings.server.ephemeral.enabled:
        within(None, start_deaf)  # in a thread of its own, so that Control-C needn't wait until the server answers


def start_deaf() -> None:
    """Start the server deaf to SIGINT: it inherits what this thread blocks."""
    from prefect.server.api.server import SubprocessASGIServer  # heavy, and of no use where a server is named

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    SubprocessASGIServer().start()
