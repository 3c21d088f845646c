"""The Markdown pages: their links, keys and figures hold, and every command in them works in a clone."""

import json
import re
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

import pytest
import yaml

from genpipe import catalogue, generators, modalities, plugins
from genpipe.config import explain, faults_of
from genpipe.processes import end_group
from genpipe.run import DEFAULTS
from genpipe.stages import STAGES
from tests import clones, pictures
from tests.clones import ROOT, Clone

# In the order in which somebody new reads them; the first one trains what the others use.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
SOMEBODY = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
            for what, value in {"NAME": "test", "EMAIL": "test@example.invalid"}.items()}  # fmt: skip
SHORT = 100  # steps of a training in these tests, whatever a page or a recipe says


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text_of(name), re.MULTILINE | re.DOTALL)
    return [content for language, content in found if language in languages]


def commands(name: str) -> list[str]:
    """Every line of a shell block, and what follows the prompt in one that shows answers too."""
    typed = [line for block in blocks(name, "bash", "sh") for line in block.splitlines()]
    typed += [line[2:] for block in blocks(name, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in typed if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", [*NAMES, "CHANGELOG.md"])
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(name))
    near = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in near if not ((ROOT / name).parent / link).exists()] == []


@pytest.mark.parametrize("kind", plugins.names(generators.__name__))
def test_each_kind_has_a_page_that_readme_leads_to(kind: str) -> None:
    page = f"docs/generators/{kind}.md"
    assert page in NAMES
    assert f"({page})" in text_of("README.md")


@pytest.mark.parametrize("recipe", catalogue.recipes(), ids=lambda file: file.stem)
def test_a_page_gives_the_figures_of_its_recipe(recipe: Path) -> None:
    kind = yaml.safe_load(recipe.read_text())["train"]["generator"]["kind"]
    (figures,) = re.findall(r"(?:label agreement [\d.]+, )?recall [\d.]+, coverage [\d.]+\d", recipe.read_text())
    page = text_of(f"docs/generators/{kind}.md")
    assert recipe.stem in page
    assert figures in page


def test_the_toy_kind_is_shown_as_it_is() -> None:
    assert blocks("CONTRIBUTING.md", "python") == [(ROOT / "tests/plugins/generators/blot.py").read_text()]


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_settings_exist(name: str) -> None:
    sections = "|".join(STAGES)
    mentioned = re.findall(rf"`((?:{sections})\.[a-z_.]+[a-z_])`|--set '?([a-z_.]+)=", text_of(name))
    unknown = {key for pair in mentioned for key in pair if key} - known_keys()
    assert unknown - {"train.py", "evaluate.py", "validate.py"} == set()


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_are_shown_can_be_used(name: str) -> None:
    for block in blocks(name, "yaml"):
        for section, content in yaml.safe_load(block).items():
            assert faults_of(STAGES[section].module.Config, content, section)[1] == []


def known_keys() -> set[str]:
    """Every key of params.yaml and all that stand above one, those that another section decides too."""
    image = modalities.load("image")
    classes = [(stage.module.Config, name) for name, stage in STAGES.items()]
    classes += [(image.Preparing, "augment.prepare"), (image.Augmentation, "augment.augmentation")]
    for kind in plugins.names(generators.__name__):
        module = generators.load(kind)
        classes += [(module.Config, "train.generator"), (module.Sampling, "evaluate.sampling")]
    keys = [row.key.split(".") for cls, place in classes for row in explain(cls, place)]
    return {".".join(key[:length]) for key in keys for length in range(1, len(key) + 1)}


# The commands


@dataclass
class Terminal:
    """Somebody who types a page's commands, one after another; ports are others than the page's."""

    clone: Clone
    ports: dict[str, str]
    exported: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()  # where the page has gone to, seen from the clone

    def type(self, line: str, servers: ExitStack) -> None:
        line = re.sub(r"(127\.0\.0\.1:|--port )(\d+)", lambda found: found[1] + self.ports[found[2]], line)
        shorten(self.place)
        if line.startswith("make "):
            # It makes the environment that runs this test, and `make test` is this test: only that they exist.
            self.clone.run("make", "--dry-run", *line.split()[1:])
        elif line.startswith("source "):
            assert line == "source .venv/bin/activate"
            assert "VENV := .venv\n" in (self.clone.root / "Makefile").read_text()
        elif line.startswith("cd "):
            self.folder /= line.removeprefix("cd ")
            assert self.place.is_dir()
        elif line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.exported[name] = value
        elif address := self.address_of(line):
            servers.enter_context(self.served(line, address))
        else:
            self.clone.run("bash", "-euo", "pipefail", "-c", line, env=self.env, cwd=self.place)

    @property
    def place(self) -> Path:
        return self.clone.root / self.folder

    @property
    def env(self) -> dict[str, str]:
        return DEFAULTS | SOMEBODY | {"PREFECT_SERVER_API_PORT": self.ports["4200"]} | self.exported

    def address_of(self, line: str) -> str | None:
        """Where a server that `line` starts answers; None for other commands."""
        places = {
            "genpipe ui": ("5000", "/health"),
            "mlflow models serve": ("5001", "/ping"),
            "prefect server start": ("4200", "/api/health"),
            "prefect worker start": ("4200", "/api/work_pools/local/workers/filter"),
        }
        found = (f"http://127.0.0.1:{self.ports[port]}{path}" for start, (port, path) in places.items()
                 if line.startswith(start))  # fmt: skip
        return next(found, None)

    @contextmanager
    def served(self, line: str, address: str) -> Iterator[None]:
        """Run a server until the page ends; it must answer first."""
        log = self.clone.root.parent / f"{line.replace(' ', '-').replace('/', '-')}.log"
        worker = line.startswith("prefect worker")  # whose clones are not to lie in the tester's ~/.genpipe
        home = {"GENPIPE_HOME": str(self.clone.root.parent / "home")} if worker else {}
        with log.open("w") as out:
            child = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.place, env=self.clone.env | self.env | home,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True, start_new_session=True,
            )  # fmt: skip
        try:
            end = time.monotonic() + 120
            while not answers(address):
                assert child.poll() is None, f"{line}\n{log.read_text()}"
                assert time.monotonic() < end, f"{address} does not answer\n{log.read_text()}"
                time.sleep(0.5)
            yield
        finally:
            end_group(child)


def answers(address: str) -> bool:
    """Whether a server is there; of workers, whether the Prefect server knows one."""
    asks = b"{}" if address.endswith("/filter") else None
    request = urllib.request.Request(address, asks, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return asks is None or bool(json.load(answer))
    except OSError:
        return False


def shorten(project: Path) -> None:
    file = project / "params.yaml"
    content = yaml.safe_load(file.read_text())
    if content["train"].get("steps") != SHORT:
        content["train"]["steps"] = SHORT
        file.write_text(yaml.safe_dump(content, sort_keys=False))


def free_port() -> str:
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    clone = clones.make(tmp_path_factory.mktemp("docs") / "project")
    terminal = Terminal(clone, defaultdict(free_port))
    file = clone.root / "mlflow.yml"
    assert "port: 5000" in file.read_text()
    file.write_text(file.read_text().replace("port: 5000", f"port: {terminal.ports['5000']}"))
    clone.params(train={"generator": {"kind": "gan"}, "steps": SHORT})
    clones.commit(clone, "a short training")
    pictures.photographs(clone.root.parent / "pictures", 700)
    return terminal


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_work_one_after_another(name: str, terminal: Terminal) -> None:
    terminal.exported.clear()
    terminal.folder = Path()
    with ExitStack() as servers:
        for line in commands(name):
            terminal.type(line, servers)
