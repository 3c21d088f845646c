"""The ledger of promotions: which version was champion, since when, by whom, and why.

The champion is the version with MLflow's alias `champion`; moving that alias is one transaction. Around it stands an
event, a tag on the registered model (where it outlives the versions it names): written as unsettled before the alias
moves, and as settled after all else. A process killed in between has thus moved the champion or has not, and the next
command settles its event or drops it. An alias that moved without an event was moved outside, and gets one.
"""

import getpass
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from genpipe import locks
from genpipe.errors import RegistryError
from genpipe.project import Project
from genpipe.records import registry, tracking
from genpipe.records.registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
EVENT, PROMOTED = "genpipe.event.", "genpipe.promoted"
LONGEST = 5_000  # characters of a registered model's tag, where a database other than SQLite holds it
WAIT_SECONDS = 60.0

Kind = Literal["promoted", "rolled back", "moved outside"]


@dataclass(frozen=True)
class Event:
    """The alias `champion` moved from the version `replaced` to `version`; None for no version."""

    kind: Kind
    version: int | None
    replaced: int | None
    by: str
    at: datetime
    why: str
    verdict: str = ""
    settled: bool = True

    @property
    def key(self) -> str:
        """The name of its tag: keys in alphabetical order are events in order of time."""
        return f"{EVENT}{self.at:%Y%m%dT%H%M%S.%fZ}-{self.version or 'none'}"

    def text(self) -> str:
        """The value of its tag; a verdict too long for it is cut. Raises RegistryError when the reason is."""
        over = len(self.written()) - LONGEST
        if over > 0 and len(self.verdict) <= over:
            raise RegistryError(f"the reason has {len(self.why)} characters, {over} too many; shorten it (--why)")
        return replace(self, verdict=f"{self.verdict[: -over - 1]}…").written() if over > 0 else self.written()

    def written(self) -> str:
        return json.dumps({**asdict(self), "at": self.at.isoformat()}, ensure_ascii=False)

    @classmethod
    def parse(cls, key: str, text: str) -> "Event":
        """Raises RegistryError for a tag that somebody changed by hand."""
        try:
            content = json.loads(text)
            return cls(**{**content, "at": datetime.fromisoformat(content["at"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RegistryError(f"the registered model's tag '{key}' holds no event: {error}; delete it") from error


def reconcile(project: Project) -> list[Event]:
    """Make ledger and alias agree, as every command does first; returns the events, oldest first."""
    with locked(project):
        return reconciled(project)


def events(project: Project) -> list[Event]:
    """What the ledger holds, oldest first, unsettled events left out."""
    tags, _ = registry.tags_and_aliases(project)
    return [event for event in written(tags) if event.settled]


def champion(project: Project) -> ModelVersion | None:
    """The version with the alias `champion`, if any has it."""
    number = registry.aliases(project).get(CHAMPION)
    return None if number is None else registry.get_version(project, number)


def promote(
    project: Project,
    version: ModelVersion,
    *,
    why: str,
    verdict: str = "",
    compared_with: ModelVersion | Literal["whoever it is"] | None = "whoever it is",
) -> Event:
    """Make `version` the champion.

    `compared_with` is the champion on which the decision rests, None when there was none. Raises RegistryError when
    another one has taken its place, and when `version` is champion already.
    """
    with locked(project):
        past = reconciled(project)
        now = champion(project)
        refuse_again(version, now)
        if not isinstance(compared_with, str) and number_of(compared_with) != number_of(now):
            raise moved_meanwhile(number_of(compared_with), number_of(now))
        return move(project, past, "promoted", int(version.version), why, verdict)


def rollback(project: Project, *, why: str, check: Callable[[ModelVersion], None] = lambda _: None) -> Event:
    """Put back the version that the champion replaced; repeated, the one before, and so on.

    Raises RegistryError when there is none any more, and what `check` raises for the one that would come back.
    """
    with locked(project):
        past = reconciled(project)
        kept = {int(version.version): version for version in registry.versions(project)}
        earlier = [number for number in line(past)[:-1] if number in kept and number != past[-1].version]
        if not earlier:
            raise RegistryError(
                f"there is no version of {project.mlflow.registry.name} to go back to: none that was champion before "
                "is left (`genpipe history`); `genpipe promote VERSION` takes any version"
            )
        check(kept[earlier[-1]])
        return move(project, past, "rolled back", earlier[-1], why)


def line(past: Sequence[Event]) -> list[int | None]:
    """The champions in whose places the last one stands, which is the present champion.

    A promotion goes on from the champion that it replaces; a rollback goes back to an earlier one.
    """
    found = list[int | None]()
    for event in past:
        if event.kind == "rolled back":
            while found and found[-1] != event.version:
                found.pop()
        if not found or found[-1] != event.version:
            found.append(event.version)
    return found


@contextmanager
def locked(project: Project) -> Iterator[None]:
    """One command at a time moves the champion or mends the ledger.

    That holds for one project's folder. MLflow moves no alias on a condition: of two machines that do so in the same
    moment the later one wins, and the next command notes what it finds.
    """
    with locks.held(project.lock("registry"), "moving the champion", WAIT_SECONDS):
        yield


def reconciled(project: Project) -> list[Event]:
    """What `reconcile` does, for whoever holds the lock."""
    tags, aliases = registry.tags_and_aliases(project)  # one read: a promotion elsewhere falls before or after both
    held, now = written(tags), aliases.get(CHAMPION)
    for event in held:
        if not event.settled and event.version == now:  # its process ended after the alias had moved
            settle(project, event)
        elif not event.settled:
            registry.delete_tag(project, event.key)
    past = [replace(event, settled=True) for event in held if event.settled or event.version == now]
    if now != (past[-1].version if past else None):
        past.append(following(past, "moved outside", now, by="", why="somebody moved the alias in MLflow"))
        settle(project, past[-1])
    return past


def written(tags: Mapping[str, str]) -> list[Event]:
    """Every event among the registered model's tags, oldest first, unsettled ones too."""
    return [Event.parse(key, text) for key, text in sorted(tags.items()) if key.startswith(EVENT)]


def move(project: Project, past: Sequence[Event], kind: Kind, version: int, why: str, verdict: str = "") -> Event:
    """Move the champion's alias, with an event around it. Raises RegistryError when somebody else has just moved it."""
    event = following(past, kind, version, user(project), why, verdict)
    registry.set_tag(project, event.key, replace(event, settled=False).text())
    now = registry.aliases(project).get(CHAMPION)
    if now != event.replaced:
        registry.delete_tag(project, event.key)
        raise moved_meanwhile(event.replaced, now)
    registry.set_alias(project, CHAMPION, version)
    settle(project, event)
    return event


def following(past: Sequence[Event], kind: Kind, version: int | None, by: str, why: str, verdict: str = "") -> Event:
    """An event of now, after those of the past, whatever the clocks of the machines that wrote them say."""
    now, last = datetime.now(UTC), past[-1] if past else None
    at = max(now, last.at + timedelta(microseconds=1)) if last else now
    return Event(kind, version, last.version if last else None, by, at, why, verdict)


def user(project: Project) -> str:
    """Who gives the command: git's name for them, or the system's."""
    return tracking.git(project, "config", "user.name").strip() or getpass.getuser()


def settle(project: Project, event: Event) -> None:
    """Write what follows from a champion that has moved; repeated after a kill, it comes to the same."""
    if event.version is not None:
        text = f"{event.kind} {event.at:%Y-%m-%d %H:%M} UTC by {event.by or 'an unknown hand'}. {event.why}".strip()
        registry.tag_version(project, event.version, {PROMOTED: text})
        if registry.aliases(project).get(CHALLENGER) == event.version:
            registry.delete_alias(project, CHALLENGER)  # the next version that the gate refuses gets it
    registry.set_tag(project, event.key, replace(event, settled=True).text())


def refuse_again(version: ModelVersion, now: ModelVersion | None) -> None:
    """Raises RegistryError when `version` is the present champion."""
    if now is not None and now.version == version.version:
        raise RegistryError(f"version {version.version} of {version.name} is champion already")


def number_of(version: ModelVersion | None) -> int | None:
    return None if version is None else int(version.version)


def moved_meanwhile(expected: int | None, now: int | None) -> RegistryError:
    return RegistryError(
        f"the champion is version {now or 'none'} by now, no longer {expected or 'none'}, on which the decision rests; "
        "nothing was moved: compare anew"
    )
