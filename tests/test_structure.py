"""The shape of the code: imports point down, vendors stay in their places, dvc.yaml says what the table says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from genpipe import PACKAGE, code, dag, plugins
from genpipe.project import Project
from genpipe.stages import STAGES

ROOT = PACKAGE.parent
FILES = sorted(file for folder in ("genpipe", "tasks", "flows") for file in (ROOT / folder).rglob("*.py"))
ROOTS = ("genpipe/run.py", "genpipe/cli.py")  # which put the parts together
VENDORS = {
    "prefect": ("flows/", "tasks/"),
    "mlflow": ("genpipe/records/",),
    "great_expectations": ("genpipe/expectations.py",),
}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def places(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_is_imported_in_its_places_only(vendor: str) -> None:
    users = {places(file) for file in FILES if any(name.partition(".")[0] == vendor for name in imported(file))}
    assert users
    assert {user for user in users if not user.startswith(VENDORS[vendor])} == set()


def test_imports_point_down() -> None:
    wrong = []
    for file in FILES:
        for name in imported(file):
            top = name.partition(".")[0]
            if places(file).startswith("genpipe/") and top in ("flows", "tasks") and places(file) not in ROOTS:
                wrong.append(f"{places(file)} imports {name}")
            if places(file).startswith("tasks/") and top == "flows":
                wrong.append(f"{places(file)} imports {name}")
            if name.startswith("genpipe.stages.") and places(file).startswith(
                ("genpipe/nn", "genpipe/metrics", "genpipe/data")
            ):
                wrong.append(f"{places(file)} imports {name}")
    assert wrong == []


def test_no_module_of_genpipe_imports_itself_in_a_circle() -> None:
    """At import time: what a function imports when it runs does not count."""
    names = {code.module_name(file): file for file in FILES if places(file).startswith("genpipe/")}
    graph = {name: set(at_the_top(file)) & set(names) for name, file in names.items()}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done | {name}}:
        done |= ready
    assert set(graph) - done == set()


def at_the_top(file: Path) -> Iterator[str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            children = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [child for child in children if code.source_of(child)]
            yield from found or [node.module]


def test_dvc_yaml_is_what_the_table_prints() -> None:
    assert (ROOT / "dvc.yaml").read_text() == dag.document(Project(ROOT))


def test_the_closure_follows_imports_and_leaves_observers_out() -> None:
    train = code.closure(STAGES["train"])
    assert "genpipe/training.py" in train
    assert "genpipe/randomness.py" in train  # through training.py
    assert "genpipe/generators/${train.generator.kind}.py" in train
    assert "genpipe/nn" in train
    assert not {"genpipe/records/tracking.py", "genpipe/records/recording.py", "genpipe/records/outbox.py"} & set(train)
    assert not any("gan" in file for file in train)
    assert "genpipe/evaluation/report.html.j2" in code.closure(STAGES["evaluate"])


def test_an_edited_helper_changes_the_digest_and_another_kind_does_not() -> None:
    assert code.closure_digest("train", "gan") == code.closure_digest("train", "gan")
    assert code.closure_digest("train", "gan") != code.closure_digest("train", "vae")


@pytest.mark.parametrize("kind", plugins.names("genpipe.generators"))
def test_what_a_kind_imports_is_what_its_stages_depend_on(kind: str) -> None:
    closure = code.closure(STAGES["train"])
    used = {places(file) for file in code.walk(f"genpipe.generators.{kind}", by_name=True).values()}
    known = {file for file in used if file in closure or file.startswith("genpipe/nn/")}
    assert used - known == {f"genpipe/generators/{kind}.py"}


def test_what_travels_with_a_version_works_by_itself(tmp_path: Path) -> None:
    carried = code.copy(tmp_path, "gan", "image")
    files = {file.relative_to(tmp_path).as_posix() for file in carried.rglob("*.py")}
    assert "genpipe/generators/gan.py" in files
    assert "genpipe/generators/vae.py" not in files
    assert "genpipe/records/tracking.py" not in files
    needed = {name for file in carried.rglob("*.py") for name in at_the_top(file)}
    missing = {name for name in needed if (found := code.source_of(name)) and places(found) not in files}
    assert missing == set()


def test_files_functions_and_arguments_stay_small() -> None:
    large = [places(file) for file in FILES if len(file.read_text(encoding="utf-8").splitlines()) > 400]
    functions = [
        (places(file), node)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    long = [
        f"{file}: {node.name}" for file, node in functions if node.end_lineno and node.end_lineno - node.lineno > 60
    ]
    assert (large, long) == ([], [])


def test_plugins_are_found_by_their_file_names() -> None:
    assert plugins.names("genpipe.generators") == ["gan", "vae"]
    with pytest.raises(plugins.UnknownPluginError, match="'images'; known modalities: image"):
        plugins.load("genpipe.modalities", "images")


def test_nothing_can_read_a_pickle() -> None:
    """No module that loads pickles is imported, and the loaders that could load one are told not to."""
    found = []
    for file in FILES:
        pickling = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        found += [f"{places(file)} imports {name}" for name in imported(file) if name.partition(".")[0] in pickling]
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            named, said = ast.unparse(call.func), {one.arg: ast.unparse(one.value) for one in call.keywords}
            unsafe = {
                "np.load": said.get("allow_pickle") != "False",
                "torch.load": said.get("weights_only") != "True",
                "pd.read_pickle": True,
            }
            if unsafe.get(named):
                found.append(f"{places(file)}: {ast.unparse(call)}")
    assert found == []
