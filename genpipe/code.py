"""Which source files a stage's result depends on: its import closure inside genpipe, computed, not listed by hand."""

import ast
import hashlib
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from genpipe import PACKAGE
from genpipe.stages import STAGES, Stage

LOADED_BY_NAME = {"genpipe.generators", "genpipe.modalities", "genpipe.nn", "genpipe.sources"}
# What only finds, reports or guards can't change what a stage writes; an edit there must not train anew.
OBSERVERS = {
    "genpipe",
    "genpipe.champion.*",
    "genpipe.cli",
    "genpipe.code",
    "genpipe.dag",
    "genpipe.errors",
    "genpipe.evaluation",
    "genpipe.evaluation.enough",
    "genpipe.installed",
    "genpipe.locks",
    "genpipe.plugins",
    "genpipe.processes",
    "genpipe.progress",
    "genpipe.project",
    "genpipe.records.*",
    "genpipe.stages",
    "genpipe.unattended.*",
    "genpipe.watching.*",
}


def closure(stage: Stage) -> list[str]:
    """Files and folders below the repository's root, sorted, as dvc.yaml names them.

    Of a package whose modules the stage loads by name the whole folder counts; of the generators only the file of the
    kind that params.yaml chooses.
    """
    folders = {PACKAGE / name for name in stage.plugins}
    starts = [
        f"genpipe.stages.{stage.name}",
        *(module_name(file) for folder in folders for file in folder.glob("*.py")),
    ]
    files = {file for start in starts for file in walk(start).values() if file.parent not in folders}
    chosen = {"genpipe/generators/${train.generator.kind}.py"} if stage.generator else set[str]()
    templates = {beside for file in files for beside in file.parent.glob(f"{file.stem}.*") if beside.suffix == ".j2"}
    return sorted({relative(place) for place in files | folders | templates} | chosen)


def closure_digest(stage: str, kind: str = "") -> str:
    """SHA-256 over the names and contents of the stage's files, with the generator `kind` if it runs one."""
    total, files = hashlib.sha256(), set[Path]()
    if kind:
        files |= set(walk(f"genpipe.generators.{kind}", frozenset(OBSERVERS), by_name=True).values())
    for entry in closure(STAGES[stage]):
        place = PACKAGE.parent / entry.replace("${train.generator.kind}", kind)
        files |= set(place.rglob("*.py")) if place.is_dir() else {place}
    for file in sorted(files):
        total.update(f"{relative(file)}\n".encode() + file.read_bytes())
    return total.hexdigest()


def digest(*names: str) -> str:
    """SHA-256 over these modules, all that they import from genpipe, and the versions of the libraries at their tops.

    The key of what a stage keeps between its runs, beside what DVC keeps.
    """
    files = sorted({file for name in names for file in walk(name, by_name=True).values()})
    libraries = sorted({name.partition(".")[0] for file in files for name in imports(file, deep=False)})
    versions = [f"{name} {getattr(sys.modules.get(name), '__version__', '')}" for name in libraries]
    total = hashlib.sha256("\n".join(versions).encode())
    for file in files:
        total.update(f"\n{relative(file)}\n".encode() + file.read_bytes())
    return total.hexdigest()


def copy(folder: Path, kind: str, modality: str) -> Path:
    """Copy the code that samples a model of `kind` below `folder`; returns the package, which works by itself."""
    starts = ("genpipe.sampling", f"genpipe.generators.{kind}", f"genpipe.modalities.{modality}")
    files = {file for start in starts for file in walk(start, frozenset(), by_name=True).values()}
    packages = {parent / "__init__.py" for file in files for parent in file.parents if parent.is_relative_to(PACKAGE)}
    for file in files | packages:
        target = folder / relative(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder / PACKAGE.name


def carried_digest(package: Path, served: Path) -> str:
    """SHA-256 over the code that travels with a version: the modules of `package`, and the file that serves them."""
    total = hashlib.sha256(served.read_bytes())
    for file in sorted(package.rglob("*.py")):
        total.update(f"{file.relative_to(package).as_posix()}\n".encode() + file.read_bytes())
    return total.hexdigest()


@cache
def walk(start: str, without: frozenset[str] = frozenset(OBSERVERS), *, by_name: bool = False) -> dict[str, Path]:
    """Module name → file, for `start` and all that it imports from genpipe.

    Left out are the modules `without` (`package.*` is a package and its modules) and, unless `by_name`, those of
    packages whose modules are loaded by name.
    """
    found: dict[str, Path] = {}
    waiting = [start, *imports(source_of(start))]
    while waiting:
        name = waiting.pop()
        file = source_of(name)
        package = name.rpartition(".")[0]
        apart = not by_name and package in LOADED_BY_NAME
        if name in found or apart or file is None or not without.isdisjoint({name, f"{name}.*", f"{package}.*"}):
            continue
        found[name] = file
        waiting += imports(file)
    return found


def imports(file: Path | None, *, deep: bool = True) -> Iterator[str]:
    """Every name that `file` imports: modules, and what may be a module in a package; in functions only if `deep`."""
    if file is None:
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if deep else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def source_of(name: str) -> Path | None:
    """The file of a module of genpipe; None for other names."""
    if name.partition(".")[0] != "genpipe":
        return None
    base = PACKAGE.joinpath(*name.split(".")[1:])
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def module_name(file: Path) -> str:
    return relative(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE.parent).as_posix()
