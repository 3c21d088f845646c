"""Whether a deployment on a Prefect server is this project's: one of the same name replaces it, whosever it is."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from genpipe.project import Project, masked
from genpipe.records import tracking

ADVICE = "give this project's deployment another name (prefect.yaml), then `prefect --no-prompt deploy --all`"


def of_another(project: Project, parameters: Mapping[str, Any]) -> str | None:
    """The repository, and the folder in it, of which a deployment with these parameters is; None for this project's.

    Of one that names no repository, and of a project that is pushed nowhere, nothing is known.
    """
    here, there = tracking.git(project, "config", "remote.origin.url").strip(), str(parameters.get("repository") or "")
    own = PurePosixPath(tracking.git(project, "rev-parse", "--show-prefix").strip())
    folder = PurePosixPath(str(parameters.get("directory") or ""))
    if not here or not there or (place(here) == place(there) and own == folder):
        return None
    return masked(there) if folder == PurePosixPath() else f"{masked(there)}, folder {folder}"


def place(url: str) -> str:
    """A repository's host and path, the same by HTTPS and by SSH."""
    parts, short = urlsplit(url), re.fullmatch(r"(?:[^/@]+@)?([^/:]+):(.+)", url)  # git@example.org:team/p.git
    if parts.netloc:
        path = f"{parts.hostname}{parts.path}"
    elif short and parts.scheme != "file":
        path = f"{short[1].lower()}/{short[2]}"
    else:
        path = parts.path
    return path.rstrip("/").removesuffix(".git")
