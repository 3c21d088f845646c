"""What there is to choose from: recipes, generators, keys of params.yaml; as tables on the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genpipe import generators, plugins, sources
from genpipe.config import Row, explain
from genpipe.init import recipes
from genpipe.project import Mlflow
from genpipe.stages import STAGES

FILE = "mlflow.yml"

KINDS = {"ingest.source.kind": sources.__name__, "train.generator.kind": generators.__name__}


def show_recipes() -> None:
    """Each recipe with the lines at its top: what it is, expected time and quality, command."""
    console = Console()
    for file in recipes():
        head = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        console.print(f"[bold]{file.stem}[/bold]", highlight=False)
        console.print(*(f"  {line}" for line in head), sep="\n", highlight=False)


def show_generators() -> None:
    """Each kind with what its file says it is, and what it can do."""
    table = Table("kind", "what", "makes", "likelihood", "sampling options")
    for kind in plugins.names(generators.__name__):
        module = generators.load(kind)
        first = (module.__doc__ or "").strip().partition("\n")[0]
        can = module.Model
        options = ", ".join(row.key.removeprefix("sample.") for row in explain(module.Sampling, "sample"))
        table.add_row(kind, first, ", ".join(sorted(can.modalities)), "yes" if can.likelihood else "no", options)
    Console().print(table)


def show_config() -> None:
    """Every key of params.yaml, then those of mlflow.yml.

    Those of a source stand below `ingest.source` and those of a generator below `train.generator`, for each kind.
    """
    table = Table("key", "type", "default", "meaning")
    for name, stage in STAGES.items():
        for row in explain(stage.module.Config, name):
            table.add_row(*map(escape, row))
            for own, kinds in own_keys(row.key).items():
                table.add_row(*map(escape, (own.key, own.type, own.default, f"[{', '.join(kinds)}] {own.meaning}")))
        table.add_section()
    for row in explain(Mlflow, FILE):
        table.add_row(f"{FILE}: {row.key.removeprefix(f'{FILE}.')}", row.type, row.default, row.meaning)
    Console().print(table)


def own_keys(key: str) -> dict[Row, list[str]]:
    """Where `key` chooses among kinds: each key of their own, with the kinds that have it."""
    found: dict[Row, list[str]] = {}
    for kind in plugins.names(KINDS[key]) if key in KINDS else ():
        for row in explain(plugins.load(KINDS[key], kind).Config, key.removesuffix(".kind")):
            found.setdefault(row, []).append(kind)
    return found
