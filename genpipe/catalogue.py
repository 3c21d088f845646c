"""What there is to choose from: recipes, generators, keys of params.yaml; for reading on the terminal."""

from collections.abc import Iterator

from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from genpipe import generators, plugins, sources, terminal
from genpipe.config import Row, explain
from genpipe.errors import ConfigError
from genpipe.init import recipes
from genpipe.project import Mlflow
from genpipe.stages import STAGES

FILE = "mlflow.yml"
REQUIRED = "required"  # what explain says in place of a default
GAP = 2  # columns between a key and what is said of it
KINDS = {"ingest.source.kind": sources.__name__, "train.generator.kind": generators.__name__}


def show_recipes() -> None:
    """Each recipe with the lines at its top: what it is, expected time and quality, command."""
    for file in recipes():
        head = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        terminal.show(f"[bold]{file.stem}[/bold]", *(Padding(escape(line), (0, 0, 0, 2)) for line in head))


def show_generators() -> None:
    """Each kind with what its file says it is, and what it can do."""
    table = Table("kind", "what", "makes", "likelihood", "sampling options")
    for kind in plugins.names(generators.__name__):
        module = generators.load(kind)
        first = (module.__doc__ or "").strip().partition("\n")[0]
        can = module.Model
        options = ", ".join(row.key.removeprefix("sample.") for row in explain(module.Sampling, "sample"))
        table.add_row(kind, first, ", ".join(sorted(can.modalities)), "yes" if can.likelihood else "no", options)
    terminal.show(table)


def show_config(start: str) -> None:
    """The keys that begin so: those of params.yaml, then those of mlflow.yml. Raises ConfigError when there is none."""
    sections = [[row for row in section if begins(row.key, start)] for section in every_section()]
    width = max((len(row.key) for section in sections for row in section), default=0)
    if not width:
        known = ", ".join([*STAGES, FILE])
        raise ConfigError([f"no key begins with '{start}'; the first words of keys are {known}"])
    for number, section in enumerate(section for section in sections if section):
        grid = Table.grid(Column(no_wrap=True, width=width + GAP), Column(overflow="fold"))
        for row in section:
            default = f", {REQUIRED}" if row.default == REQUIRED else f" = {row.default or repr('')}"
            grid.add_row(Text(row.key, "bold"), Text.assemble((row.type + default, "cyan"), f"  {row.meaning}"))
        terminal.show(*([""] if number else []), grid)


def begins(key: str, start: str) -> bool:
    """Whether a key begins so, with or without the name of its file."""
    return key.startswith(start) or key.removeprefix(f"{FILE}: ").startswith(start)


def every_section() -> Iterator[list[Row]]:
    """The keys of each stage, then those of mlflow.yml.

    Those of a source stand below `ingest.source` and those of a generator below `train.generator`, for each kind.
    """
    for name, stage in STAGES.items():
        yield [row for known in explain(stage.module.Config, name) for row in (known, *own_rows(known.key))]
    yield [row._replace(key=f"{FILE}: {row.key.removeprefix(f'{FILE}.')}") for row in explain(Mlflow, FILE)]


def own_rows(key: str) -> Iterator[Row]:
    """Where `key` chooses among kinds: the keys of their own, which say whose they are."""
    for row, kinds in own_keys(key).items():
        yield row._replace(meaning=f"[{', '.join(kinds)}] {row.meaning}")


def own_keys(key: str) -> dict[Row, list[str]]:
    """Where `key` chooses among kinds: each key of their own, with the kinds that have it."""
    found: dict[Row, list[str]] = {}
    for kind in plugins.names(KINDS[key]) if key in KINDS else ():
        for row in explain(plugins.load(KINDS[key], kind).Config, key.removesuffix(".kind")):
            found.setdefault(row, []).append(kind)
    return found
