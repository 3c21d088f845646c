"""Notifications by Prefect's own blocks, named as `slack-webhook/ops`: addresses and secrets stay in Prefect."""

import logging
from collections.abc import Sequence

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.system import Secret

from genpipe.errors import ConfigError
from genpipe.project import Project

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


def refuse_unknown(names: Sequence[str]) -> None:
    """Raises ConfigError for names of which the Prefect server has no notification block."""
    faults = []
    for name in names:
        try:
            load(name)
        except ValueError as error:
            faults.append(
                f"notify names '{name}', which is no notification block of the Prefect server ({error}); names are "
                "KIND/NAME such as slack-webhook/ops: `prefect block ls` lists them, `prefect block create` makes one"
            )
    if faults:
        raise ConfigError(faults)


def load(name: str) -> NotificationBlock:
    """The block KIND/NAME. Raises ValueError when the Prefect server has none."""
    import prefect.blocks.notifications  # noqa: F401  # so that Prefect knows the kinds of blocks

    block = Block.load(name)
    if not isinstance(block, NotificationBlock):
        raise ValueError(f"it is a {type(block).__name__}")
    return block


def tell(names: Sequence[str], subject: str, body: str, log: Log) -> list[str]:
    """Send a message to each block; returns those that did not take it, which is logged and fails nothing."""
    failed = {}
    for name in names:
        try:
            load(name).notify(body=body, subject=subject)  # type: ignore[unused-coroutine]  # none in a sync flow
        except Exception as error:  # noqa: BLE001  # of whatever service; its words may hold the webhook's secret URL
            failed[name] = type(error).__name__
    for name, kind in failed.items():
        log.error("%s did not take '%s': %s", name, subject, kind)
    return list(failed)


def tell_of_champion(project: Project, names: Sequence[str], page: str, log: Log) -> list[str]:
    """Tell of a champion of which nobody was told yet; returns the blocks that did not take it.

    With one that did, or where nobody wants to know, it is told; else the next run tries again.
    """
    from genpipe.champion import news  # MLflow takes seconds

    version = news.untold(project)
    if version is None:
        return []
    subject = f"genpipe: {version.name} version {version.version} is champion"
    failed = tell(names, subject, f"{news.text(version)}\n{page}", log)
    if not names or set(names) - set(failed):
        news.settle(project, version)
    return failed


def secret(name: str | None) -> str | None:
    """What a Secret block holds. Raises ConfigError when the Prefect server does not know it."""
    if name is None:
        return None
    try:
        return str(Secret.load(name).get())  # type: ignore[union-attr]  # no coroutine in a sync flow
    except ValueError:
        raise ConfigError([
            f"git_token names the Secret block '{name}', which the Prefect server does not have; `prefect block create "
            "secret` shows where to make it"
        ]) from None  # fmt: skip
