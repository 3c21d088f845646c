"""The command line: exit codes, settings changed with care, stores found from anywhere, nothing heavy for --help."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from genpipe import cli, dag, run
from genpipe.errors import ConfigError
from genpipe.project import Project
from genpipe.stages import check
from tests import projects

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return projects.make(tmp_path, train={"generator": {"kind": "gan"}, "steps": 100})


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from genpipe import cli; cli.parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "mlflow", "prefect", "pandas", "numpy", "dvc", "pydantic"} & set(loaded) == set()


def test_outside_a_project_the_code_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stage", "validate", "-C", str(tmp_path)]) == 2
    assert "is not in a project" in capsys.readouterr().err


def test_a_failed_stage_is_1_and_an_unknown_one_2(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stage", "validate", "-C", str(project.root)]) == 1
    assert "must hold one dataset and holds none; `genpipe stage ingest`" in capsys.readouterr().err
    assert cli.main(["stage", "polish", "-C", str(project.root)]) == 2
    assert "known stages: ingest, validate, augment, calibrate, train, evaluate, register" in capsys.readouterr().err


def test_unknown_words_are_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--fast"])
    assert ended.value.code == 2
    assert "unknown words: --fast" in capsys.readouterr().err


def test_set_shows_the_difference_keeps_comments_and_writes(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project.root / "params.yaml"
    file.write_text(file.read_text().replace("steps: 100", "steps: 100  # few"))
    run.change(project, ["train.steps=250", "train.optimizer.lr=1e-3"], write=True)
    assert "-  steps: 100  # few" in capsys.readouterr().out
    assert "steps: 250  # few" in file.read_text()
    assert check(Project(project.root))["train"].optimizer.lr == 0.001


def test_set_writes_nothing_when_anything_is_wrong(project: Project) -> None:
    before = (project.root / "params.yaml").read_text()
    with pytest.raises(ConfigError) as caught:
        run.change(project, ["train.steps=0", "train.generator.kind=vaa"], write=True)
    assert len(caught.value.faults) == 2
    with pytest.raises(ConfigError, match="it must be KEY=VALUE"):
        run.change(project, ["train.steps"], write=True)
    with pytest.raises(ConfigError, match="its value is no YAML"):
        run.change(project, ["train.generator={kind"], write=True)
    with pytest.raises(ConfigError, match=r"train.generator.kind is missing; dvc.yaml reads it"):
        run.change(project, ["train.generator=vae"], write=True)
    assert (project.root / "params.yaml").read_text() == before


def test_what_a_stage_writes_is_what_the_next_ones_read() -> None:
    assert dag.with_downstream({"train"}) == ["train", "evaluate"]
    assert dag.with_downstream({"data.dvc"}) == ["validate", "augment", "calibrate", "train", "evaluate"]
    assert dag.with_downstream({"register"}) == []


def test_faults_of_all_sections_and_files_stand_together(project: Project) -> None:
    content = yaml.safe_load((project.root / "params.yaml").read_text())
    del content["calibrate"]
    content |= {"augment": {"augmentation": {"rotate": 3}}, "evaluate": {"sampling": {"heat": 1}}, "trains": {}}
    (project.root / "params.yaml").write_text(yaml.safe_dump(content))
    (project.root / "mlflow.yml").write_text("registry: {nam: x}\n")
    with pytest.raises(ConfigError) as caught:
        check(Project(project.root))
    message = str(caught.value)
    assert "calibrate is missing; write `calibrate: {}`" in message
    assert "augment.augmentation.rotate is not a key; known keys: rotation_degrees" in message
    assert "evaluate.sampling.heat is not a key; known keys: truncation" in message
    assert "trains is not a section; known sections: ingest" in message
    assert "mlflow.yml: registry.nam is not a key; known keys: name" in message
    assert message.endswith("5 faults; nothing was run")


def test_a_mistake_in_yaml_is_told_with_its_line(project: Project) -> None:
    (project.root / "params.yaml").write_text("train: {steps: 3\naugment: {}\n")
    with pytest.raises(ConfigError, match=r"params.yaml: .*line 2"):
        _ = Project(project.root).params


def test_stores_are_found_from_the_root_and_the_environment_overrides(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = project.root / "artifacts" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("GENPIPE_HOME", raising=False)
    found = Project.find(inner)
    assert found.mlflow.server.mlflow_tracking_uri == f"sqlite:///{project.root}/mlflow.db"
    assert found.mlflow.tracking.artifacts == (project.root / "mlartifacts").as_uri()
    assert found.state == project.root / ".genpipe"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5001")
    monkeypatch.setenv("GENPIPE_HOME", str(project.root / "elsewhere"))
    again = Project.find(inner)
    assert again.mlflow.server.mlflow_tracking_uri == again.mlflow.server.mlflow_registry_uri == "http://127.0.0.1:5001"
    assert again.state.parent == project.root / "elsewhere"
    assert again.state.name.startswith(f"{project.root.name}-")


def test_code_that_is_not_the_project_s_own_is_refused(project: Project) -> None:
    (project.root / "genpipe").mkdir()
    (project.root / "genpipe" / "__init__.py").touch()
    with pytest.raises(ConfigError, match=r"holds code of genpipe, on which dvc.yaml depends, but the code that"):
        run.run_stage(project.root, "validate")


def test_the_recipes_are_valid_and_the_root_is_the_project_of_digits_gan(tmp_path: Path) -> None:
    from genpipe.catalogue import recipes

    found = {file.stem: file for file in recipes()}
    sources = dict.fromkeys(("digits-gan", "digits-vae"), "digits") | {"images-folder": "folder"}
    sources |= dict.fromkeys(("fashion-gan", "fashion-vae"), "catalogue")
    assert set(found) == set(sources)
    for name, recipe in found.items():
        project = projects.make(tmp_path)
        (project.root / "params.yaml").write_text(recipe.read_text())
        assert check(Project(tmp_path))["ingest"].source.kind == sources[name]
        head = recipe.read_text().splitlines()[:3]
        assert [line.split()[1] for line in head][1:] == ["Expect", "Use:"]
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == yaml.safe_load(found["digits-gan"].read_text())


@pytest.mark.parametrize("columns", ["", "80"])
@pytest.mark.parametrize("command", ["recipes", "generators", "config"])
def test_catalogues_list_what_there_is(
    command: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert cli.main([command]) == 0
    printed = capsys.readouterr().out
    wanted = {
        "recipes": ("digits-gan", "  Expect about"),
        "generators": ("gan", "truncation", "vae", "temperature"),
        "config": (
            "train.optimizer.lr",
            "train.generator.latent_dim",
            "ingest.source.download.timeout_seconds",
            "mlflow.yml: server.mlflow_tracking_uri",
            "sqlite:///mlflow.db",
        ),
    }
    assert [word for word in wanted[command] if word not in printed] == []
    assert not columns or max(map(len, printed.splitlines())) <= int(columns)


def test_config_takes_the_beginning_of_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "train.optimizer.l"]) == 0
    assert capsys.readouterr().out == "train.optimizer.lr  float = 0.0003  learning rate at its highest\n"
    assert cli.main(["config", "gate.m"]) == 0
    assert capsys.readouterr().out.startswith("mlflow.yml: gate.margin  float = 0.25  share of")
    assert cli.main(["config", "trian"]) == 2
    assert "no key begins with 'trian'; the first words of keys are ingest, validate" in capsys.readouterr().err
