"""A new project: a folder under git and DVC with the settings of a recipe, which `genpipe run` runs at once.

It is made aside and moved into its place when it is whole, so that a failure leaves nothing.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2

from genpipe import PACKAGE, dag, installed
from genpipe.config import parse
from genpipe.errors import ConfigError
from genpipe.project import Project

RECIPES, TEMPLATES = PACKAGE / "recipes", PACKAGE / "templates" / "project"
DOT = "dot-"  # in the name of a template stands for a dot, since git would obey a .gitignore here
DIGITS, PICTURES = "digits-gan", "images-folder"  # the recipes that are taken without data and with them
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


def init(folder: Path, recipe: str = "", data: Path | None = None, name: str = "") -> Project:
    """Make a project in `folder`, which must be absent or empty, from a recipe and perhaps a folder of pictures.

    In a git repository, unless that ignores it, the project becomes a part of it and its files are staged there; else
    it is a repository of its own with one commit. Raises ConfigError, with nothing written, when that can't be.
    """
    folder, recipe = folder.resolve(), recipe or (PICTURES if data else DIGITS)
    refuse_full(folder)
    name, around = name or named_after(folder), repository_around(folder)
    if not re.fullmatch(NAME, name):
        raise ConfigError([f"the name '{name}' must be of letters, digits, '.', '_' and '-', at most 100 (--name)"])
    settings = settings_of(recipe, place_of(data, folder, around) if data else "", name, folder)
    home = nearest(folder.parent)
    try:
        with TemporaryDirectory(dir=home, prefix=f".{folder.name}.") as scratch:
            made = Project(Path(scratch) / folder.name)
            write(made, settings, {"name": name, "recipe": recipe})
            put_under_control(made, f"A project of the recipe {recipe}" if around is None else "")
            move(made.root, folder)
    except OSError as error:
        raise ConfigError([f"{folder} can't be made: {error}"]) from error
    if around:
        git(folder, "add", ".")
    tell(folder, recipe, around)
    return Project(folder)


def refuse_full(folder: Path) -> None:
    """Raises ConfigError for a file, and for a folder that holds more than a repository of git without files."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError([f"{folder} is a file; name a folder that is absent or empty"])
    held = sorted(entry.name for entry in folder.iterdir() if entry.name != ".git") if folder.exists() else []
    if held:
        some = ", ".join(held[:5]) + (", …" if len(held) > 5 else "")
        raise ConfigError([f"{folder} is not empty (it holds {some}); name a folder that is absent or empty"])


def named_after(folder: Path) -> str:
    """The folder's name, with a dash for what the name of a project can't have."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", folder.name).strip("-._") or "project"


def nearest(folder: Path) -> Path:
    """`folder`, or the first above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def repository_around(folder: Path) -> Path | None:
    """The root of the git repository that `folder` lies in; None where there is none, or one that ignores it.

    Raises ConfigError without git, and for a new repository where git knows nobody to commit as.
    """
    home = nearest(folder)
    try:
        top = git(home, "rev-parse", "--show-toplevel", refused="").strip()
        if top and not git(home, "check-ignore", str(folder), refused=""):
            return Path(top)
        git(home, "var", "GIT_COMMITTER_IDENT")
    except FileNotFoundError:
        raise ConfigError(["git is not installed, under which a project's settings and versions of data are"]) from None
    return None


def place_of(data: Path, folder: Path, around: Path | None) -> str:
    """The folder of data as params.yaml names it: seen from the project where both are in one repository, which may be
    cloned to elsewhere."""
    if not data.is_dir():
        what = "a file" if data.exists() else "absent"
        raise ConfigError([f"{data} is {what}; --data names a folder of pictures (docs/data.md has other sources)"])
    data = data.resolve()
    return os.path.relpath(data, folder) if around and data.is_relative_to(around) else str(data)


def recipes() -> list[Path]:
    return sorted(RECIPES.glob("*.yaml"))


def settings_of(recipe: str, data: str, name: str, folder: Path) -> str:
    """params.yaml: the recipe with its comments, of which the one on how to use it has been heeded.

    With `data`, seen from `folder`, its source reads that, and the model is made by class where there are classes.
    """
    from ruamel.yaml import YAML

    known = {file.stem: file for file in recipes()}
    if recipe not in known:
        raise ConfigError([f"there is no recipe '{recipe}'; known recipes: {', '.join(known)} (`genpipe recipes`)"])
    lines = known[recipe].read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("# Use: "))
    yaml, buffer = YAML(), StringIO()
    yaml.width = 10_000  # a long path stays on its line
    content = yaml.load(text)
    source = content["ingest"]["source"]
    reads_folder = isinstance(source, dict) and source["kind"] == "folder"
    if reads_folder and not data:
        raise ConfigError([f"the recipe {recipe} is for pictures of your own; name their folder: --data FOLDER"])
    if not data:
        return text
    if not reads_folder:
        raise ConfigError([f"the recipe {recipe} has data of its own; for --data take the recipe {PICTURES}"])
    source["name"], source["path"] = name, data
    content["train"]["generator"]["conditional"] = len(classes_in(source, folder)) > 1
    yaml.dump(content, buffer)
    return buffer.getvalue()


def classes_in(source: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The classes of a folder of pictures. Raises DataError where it holds no file, or what can't be read."""
    from genpipe.sources import folder as pictures

    chosen = {key: value for key, value in source.items() if key != "kind"}
    return pictures.describe(parse(pictures.Config, chosen, "ingest.source"), folder).classes


def write(project: Project, settings: str, names: Mapping[str, str]) -> None:
    """Every file of a project, from templates in which `[[ name ]]` stands for the name."""
    root = project.root
    root.mkdir()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        variable_start_string="[[",  # {{ }} is Prefect's in prefect.yaml
        variable_end_string="]]",
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    for template in environment.list_templates():
        place = root / template.replace(DOT, ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(environment.get_template(template).render(names), encoding="utf-8")
    (root / "params.yaml").write_text(settings, encoding="utf-8")
    shutil.copytree(installed.suites(), root / "suites")
    installed.refresh(project)
    (root / "dvc.yaml").write_text(dag.document(project), encoding="utf-8")


def put_under_control(project: Project, message: str) -> None:
    """Under git and DVC, with one commit; without a message under DVC alone, for a repository that is there already."""
    git(project.root, "init", "--quiet", "--initial-branch", "main")
    dvc_ignore = (project.root / ".dvcignore").read_text(encoding="utf-8")
    (project.root / ".dvcignore").unlink()  # `dvc init` writes one of its own
    dag.dvc(project, "init")
    (project.root / ".dvcignore").write_text(dvc_ignore, encoding="utf-8")
    (project.root / ".dvc" / "config").write_text(DVC_CONFIG, encoding="utf-8")
    if message:
        git(project.root, "add", ".")
        git(project.root, "commit", "--quiet", "--message", message)
    else:
        shutil.rmtree(project.root / ".git")


def move(made: Path, folder: Path) -> None:
    """In one step to where nothing is; else entry by entry, since a shell may stand in the folder that is there."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.replace(folder)
        return
    for entry in sorted(made.iterdir(), key=lambda entry: entry.name == "params.yaml"):  # which makes it a project
        entry.replace(folder / entry.name)


def git(folder: Path, *words: str, refused: str | None = None) -> str:
    """What a git command prints; `refused` where it fails, if that is given. Raises ConfigError with what it says."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    if not done.returncode:
        return done.stdout
    if refused is None:
        raise ConfigError([f"git {words[0]} failed: {done.stderr.strip() or done.stdout.strip()}"])
    return refused


def tell(folder: Path, recipe: str, around: Path | None) -> None:
    """What was made, and how to go on."""
    print(f"{folder} is a project of the recipe {recipe}")
    if around:
        print(f"It lies in the git repository {around}, where its files are staged: commit them.")
    if folder == Path.cwd():
        print("Next: genpipe run")
    else:
        below = folder.is_relative_to(Path.cwd())
        print(f"Next: cd {shlex.quote(str(folder.relative_to(Path.cwd()) if below else folder))} && genpipe run")
