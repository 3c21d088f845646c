"""A clone of a project that belongs to the machine: retraining works there, and never in a person's working tree.

It lies below GENPIPE_HOME at a place that stays, so that DVC's cache and checkpoints live from run to run, and can be
thrown away at any time. Its branch, `results`, holds what the person's branch holds, and on top the machine's commits
of data.dvc, dvc.lock and, where another genpipe is installed, genpipe.yaml and dvc.yaml. The repository's copy of that
branch is what counts.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from genpipe import locks
from genpipe.errors import ConfigError, WorkspaceError
from genpipe.project import Project, foreign, home, masked

OWN = ("data.dvc", "dvc.lock", "dvc.yaml", "genpipe.yaml")  # what the machine commits
TIMEOUT_SECONDS = 1800.0  # of one git command; a server that says nothing must not hold a worker for ever
AUTHOR = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "genpipe"), ("EMAIL", "genpipe@localhost"))
}
# Set by git for its hooks; they would point git to another repository than the clone.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_COMMON_DIR")
# What tidies up ends before the command does, and is met by nobody who works here next.
OPTIONS = ("-c", "commit.gpgsign=false", "-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false")
# A server that has said nothing for so long has gone; what a killed run has left waits for it no longer either.
PATIENCE = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "120"}  # bytes a second
ASKING = ("clone", "fetch", "push")  # the server, which may be away
# What git, curl, ssh and servers say of what stays as it is until somebody mends it.
REFUSED = re.compile(
    r"authentication failed|could not read (username|password)|permission denied|access denied|not found|"
    r"does not (appear to be a git repository|exist)|returned error: 4(?!08|29)|host key verification|certificate|"
    r"rejected\]|declined",
    re.IGNORECASE,
)
DEFAULT_USER = "x-access-token"  # GitHub asks for this name beside a token, GitLab takes any


def clones() -> Path:
    """The folder in which clones lie."""
    return (home() or Path("~/.genpipe").expanduser()) / "workspaces"


@dataclass(frozen=True)
class Workspace:
    """A clone of `repository` whose branch `results` follows its branch `branch`.

    `token` goes to git by the environment alone, for this repository alone: TOKEN, or USER:TOKEN.
    """

    repository: str
    branch: str
    results: str
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        refuse_secrets(self.repository)
        if self.branch == self.results:
            raise ConfigError([
                f"branch and results are both '{self.branch}'; results must be a branch of its own, since the machine "
                "commits there"
            ])  # fmt: skip

    @property
    def folder(self) -> Path:
        """Its place: readable, and another one for another repository or branch."""
        asked = "\n".join((self.repository, self.branch, self.results))
        name = re.sub(r"\W+", "-", Path(urlsplit(self.repository).path).name.removesuffix(".git")).strip("-")
        return clones() / f"{name or 'project'}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"

    @contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Nobody else works in the clone; a second one is told who does."""
        with locks.held(self.folder.with_suffix(".lock"), purpose):
            yield

    def prepare(self) -> None:
        """Clone or fetch, check out `results` as the repository has it (or make it), and merge `branch` into it.

        What a killed run has left is dropped: DVC's cache and the checkpoints hold its work. Raises ConfigError
        when the repository has no such branch, WorkspaceError when it can't be reached or the two can't be merged.
        """
        if not self.folder.exists():
            self.clone()
        for stale in (self.folder / ".git").rglob("*.lock"):
            stale.unlink()  # of a git that was killed: whoever works here holds our lock
        self.refuse_other_repository()
        (self.folder / ".git" / "info").mkdir(exist_ok=True)
        # Merged as wholes: lines of two dvc.lock together could say of an output what neither has seen.
        attributes = "".join(f"{name} -merge\n" for name in OWN)
        (self.folder / ".git" / "info" / "attributes").write_text(attributes, encoding="utf-8")
        self.git("fetch", "--prune", "origin")
        if not self.has(f"origin/{self.branch}"):
            known = self.git("branch", "--remotes", "--format", "%(refname:lstrip=3)").split()
            branches = ", ".join(name for name in known if name != "HEAD") or "none"
            raise ConfigError([f"{self.repository} has no branch '{self.branch}'; its branches: {branches}"])
        start = f"origin/{self.results if self.has(f'origin/{self.results}') else self.branch}"
        self.git("checkout", "--force", "--no-track", "-B", self.results, start)
        self.git("reset", "--hard", start)  # also what an interrupted merge has left
        self.git("clean", "--force", "--quiet", "--", *(f":(glob)**/{name}" for name in OWN))  # made, never committed
        self.merge()

    def clone(self) -> None:
        """Written aside, then renamed: a clone that was cut short is none."""
        aside = self.folder.with_suffix(".partial")
        shutil.rmtree(aside, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        words = ("clone", "--quiet", "--no-checkout", "--origin", "origin", self.repository, str(aside))
        self.git(*words, folder=self.folder.parent)
        aside.rename(self.folder)

    def refuse_other_repository(self) -> None:
        self.git("rev-parse", "--git-dir")  # `git config` is silent about a folder that it does not work in
        found = self.git("config", "remote.origin.url").strip()
        if found != self.repository:
            raise WorkspaceError(
                f"{self.folder} is no clone of {self.repository} but of {masked(found)}; move it away, and the next "
                "run clones anew"
            )

    def merge(self) -> None:
        """Merge the person's branch; of the files that the machine commits, too, the person's version wins."""
        try:
            self.git("merge", "--no-edit", "-m", f"Merge {self.branch}", f"origin/{self.branch}")
            return
        except WorkspaceError as error:
            conflicts = self.git("diff", "--name-only", "-z", "--diff-filter=U").rstrip("\0").split("\0")
            conflicts = [name for name in conflicts if name]
            if not conflicts or any(Path(name).name not in OWN for name in conflicts):
                self.git("reset", "--hard", "HEAD")
                others = ", ".join(conflicts) or str(error)
                raise WorkspaceError(
                    f"the branch '{self.branch}' of {self.repository} can't be merged into '{self.results}' ({others}):"
                    f" somebody has committed there. Merge by hand and push, or delete the branch '{self.results}', "
                    f"which the next run makes anew from '{self.branch}'"
                ) from None
        for name in conflicts:
            if self.has(f"origin/{self.branch}:{name}"):
                self.git("checkout", "--theirs", "--", name)
                self.git("add", "--", name)
            else:
                self.git("rm", "--quiet", "--", name)
        self.git("commit", "--no-edit", "--no-verify")

    def project(self, directory: str) -> Project:
        """The project in a folder of the clone. Raises ConfigError when there is none."""
        root = (self.folder / directory).resolve()
        if not root.is_relative_to(self.folder) or not (root / "params.yaml").is_file():
            raise ConfigError([
                f"directory is '{directory}', and {self.repository} has no project there on the branch "
                f"'{self.branch}'; it must be a folder with params.yaml and dvc.yaml, relative to the repository's root"
            ])  # fmt: skip
        return Project.find(root)

    def publish(self, project: Project, message: str) -> bool:
        """Commit what the machine's files hold now, and push the branch; returns whether there was anything to push.

        Raises WorkspaceError when the repository does not take the push.
        """
        present = [str(project.root / name) for name in OWN if (project.root / name).exists()]
        self.git("add", "--", *present)
        if self.git("diff", "--cached", "--name-only"):
            self.git("commit", "--no-verify", "--quiet", "-m", message)
        head, there = self.git("rev-parse", "HEAD"), f"origin/{self.results}"
        if self.has(there) and self.git("rev-parse", there) == head:
            return False
        try:
            self.git("push", "--quiet", "origin", f"HEAD:refs/heads/{self.results}")
        except WorkspaceError as error:
            raise WorkspaceError(
                f"{error}\nThe branch '{self.results}' did not take the machine's commit: it is protected, the worker "
                "has no right to push, or somebody else has pushed there. The work is kept in DVC's cache: the next "
                "run begins from the branch as it is then",
                again=error.again,
            ) from None
        return True

    def has(self, revision: str) -> bool:
        """Whether the clone knows a revision."""
        return self.run("rev-parse", "--verify", "--quiet", revision).returncode == 0

    def git(self, *words: str, folder: Path | None = None) -> str:
        """What a git command prints. Raises WorkspaceError with what it says when it fails, ConfigError where
        the clone is another user's.
        """
        done = self.run(*words, folder=folder)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).replace(self.token or "\0", "***")
            if "dubious ownership" in said:
                raise foreign(self.folder)
            again = words[0] in ASKING and not REFUSED.search(said)
            raise WorkspaceError(f"git {words[0]} failed for {self.repository} in {self.folder}: {said}", again=again)
        return done.stdout

    def run(self, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A git command in the clone, away from any terminal, where a question would wait for ever."""
        try:
            return subprocess.run(
                ["git", *OPTIONS, *words],
                cwd=folder or self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                start_new_session=True,
                pass_fds=locks.shared(),
                check=False,
            )
        except FileNotFoundError:
            raise WorkspaceError("git is not installed on the worker, or not on its PATH") from None
        except subprocess.TimeoutExpired:
            raise WorkspaceError(
                f"git {words[0]} got no answer from {self.repository} in {TIMEOUT_SECONDS:.0f} s; the next run tries "
                "again"
            ) from None

    def environment(self) -> dict[str, str]:
        """That of git: the machine as author, no questions, and the token, if any, as a header for this repository."""
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        kept = PATIENCE | kept | AUTHOR | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # for REFUSED
        if self.token:
            named = self.token if ":" in self.token else f"{DEFAULT_USER}:{self.token}"
            number = int(kept.get("GIT_CONFIG_COUNT") or 0)
            kept |= {
                "GIT_CONFIG_COUNT": str(number + 1),
                f"GIT_CONFIG_KEY_{number}": f"http.{self.repository}.extraHeader",
                f"GIT_CONFIG_VALUE_{number}": f"Authorization: Basic {base64.b64encode(named.encode()).decode()}",
            }
        return kept


def refuse_secrets(url: str) -> None:
    """Raises ConfigError for a repository's URL that holds a password or a token, which would be shown and stored."""
    parts = urlsplit(url)
    if parts.password is not None or (parts.username and parts.scheme in ("http", "https")):
        raise ConfigError([
            f"the repository's URL {masked(url)} holds a password or a token, which logs and pages would show; name it "
            "without (`git remote set-url origin`), and give the token to git's credential helper, or as git_token "
            "the name of a Prefect Secret block. Change the token if it has been stored with a deployment"
        ])  # fmt: skip
