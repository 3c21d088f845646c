"""The whole pipeline on the real digits, with Prefect's own server, DVC, Great Expectations and MLflow's own store.

The tests follow one project from its clone on; each leaves it up to date for the next.
"""

import json
import re
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests import clones
from tests.clones import Clone

pytestmark = pytest.mark.slow
SHORT = {"generator": {"kind": "gan"}, "steps": 200, "log_every": 20, "pictures": 4, "checkpoint_every_steps": 50}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project with a short training, run once by the flow."""
    clone = clones.make(tmp_path_factory.mktemp("project"))
    clone.params(train=SHORT)
    clones.commit(clone, "a short training")
    done = clone.run("genpipe", "run")
    assert "alias champion" in done.stdout
    assert "Label agreement" in done.stdout
    assert re.search(r"augment .* [\d,]+ train, [\d,]+ validation, [\d,]+ test", done.stderr)
    assert "Finished in state" not in done.stderr  # each stage says itself what it has done
    return clone


@pytest.fixture(scope="module")
def client(clone: Clone) -> Any:
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")


def registered(clone: Clone) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((clone.root / ".genpipe" / "registered.json").read_text())
    return content


def test_the_data_come_back_byte_for_byte(clone: Clone) -> None:
    assert clone.git("status", "--porcelain", "data.dvc") == ""


def test_prefect_keeps_validation_scores_and_the_way_to_the_model(clone: Clone) -> None:
    with closing(sqlite3.connect(Path(clone.env["PREFECT_HOME"]) / "prefect.db")) as database:
        kept = dict(database.execute("select key, data from artifact").fetchall())
    assert set(kept) == {"validation", "data-docs", "scores", "registration", "verdict", "mlflow-run"}
    assert "expect_column_values_to_be_null" in kept["validation"]
    assert (clone.root / ".genpipe" / "data_docs" / "index.html").as_uri() in kept["data-docs"]
    assert str(scores(clone)["recall"]["value"]) in kept["scores"]
    assert registered(clone)["run"] in kept["mlflow-run"]
    assert "Near copies: limit" in kept["verdict"]


def test_after_a_flow_dvc_has_nothing_to_do_and_the_next_flow_starts_no_server(clone: Clone) -> None:
    assert json.loads(clone.run("dvc", "status", "--json").stdout) == {}
    assert "Running stage" not in clone.run("dvc", "repro").stdout
    again = clone.run("genpipe", "run")
    assert "Nothing has changed" in again.stdout
    assert "temporary server" not in again.stderr


def test_dvc_shows_parameters_metrics_and_plots(clone: Clone) -> None:
    assert "label_agreement" in clone.run("dvc", "metrics", "show").stdout
    clone.run("dvc", "metrics", "diff")
    assert "train.steps" in clone.run("dvc", "params", "diff", "HEAD~1").stdout
    clone.run("dvc", "plots", "show")
    assert "painter_loss" in (clone.root / "dvc_plots" / "index.html").read_text()


def test_editing_a_kind_concerns_pipelines_of_that_kind_alone(clone: Clone) -> None:
    for kind, stale in (("vae", set[str]()), ("gan", {"train", "evaluate"})):
        file = clone.root / "genpipe" / "generators" / f"{kind}.py"
        before = file.read_text()
        file.write_text(before + "# edited\n")
        assert set(json.loads(clone.run("dvc", "status", "--json").stdout)) == stale
        file.write_text(before)


def test_the_run_in_mlflow_tells_how_the_model_came_to_be(clone: Clone, client: Any) -> None:
    run = client.get_run(registered(clone)["run"].rpartition("/")[2])
    assert run.info.status == "FINISHED"
    assert run.data.params["generator.kind"] == "gan"
    assert run.data.params["ema_decay"] == "0.999"  # a default, written out
    assert run.data.tags["genpipe.flow_run"]
    data = json.loads(run.data.tags["genpipe.dataset"])
    assert (data["licence"], data["citation"][:11]) == ("CC-BY-4.0", "E. Alpaydin")
    assert "Licence: CC-BY-4.0. E. Alpaydin" in run.data.tags["mlflow.note.content"]
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert "Licence: CC-BY-4.0. E. Alpaydin" in version.description
    assert run.data.tags["mlflow.source.git.commit"] == clone.git("rev-parse", "HEAD").strip()
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.digest == yaml.safe_load((clone.root / "data.dvc").read_text())["outs"][0]["md5"]
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "painter_loss")]
    assert steps == list(range(20, 201, 20))
    names = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    pictured = [re.split(r"\W", name)[2] for name in names if name.endswith(".png")]
    assert sorted(pictured, key=int) == ["0", "50", "100", "150", "200"]
    assert run.data.metrics["label_agreement"] == pytest.approx(scores(clone)["label_agreement"]["value"])
    evaluation = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation")}
    assert {"evaluation/report.html", "evaluation/samples.png"} <= evaluation
    assert any(name.startswith("system/") for name in run.data.metrics)
    validation = {file.path for file in client.list_artifacts(run.info.run_id, "validation")}
    told = "validation/rows 0 to 1796.html", "validation/accepted rows.html"
    assert validation == {"validation/result.json", *told}
    assert run.data.tags["genpipe.validation"] == "; ".join(["pass: 0 of 1797 rows quarantined", *told])


def test_the_run_carries_the_ids_of_the_rows_that_the_model_knows(clone: Clone, client: Any) -> None:
    run = registered(clone)["run"].rpartition("/")[2]
    names = ("lineage/trained.parquet", "lineage/measured.parquet")
    kept = [pq.read_table(client.download_artifacts(run, name)) for name in names]
    for table, splits in zip(kept, (("train", "validation"), ("test",)), strict=True):
        ids = [name for split in splits for name in np.load(clone.root / f"artifacts/augment/{split}/id.npy")]
        assert [key.hex() for key in table["id"].to_pylist()] == ids
    assert set(kept[0]["split"].to_pylist()) == {"train", "validation"}


def scores(clone: Clone) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((clone.root / "artifacts" / "evaluate" / "metrics.json").read_text())
    return content


def test_the_registered_model_is_sampled_by_the_code_that_it_carries(clone: Clone, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    clone.run("genpipe", "sample", "artifacts/train", "-n", "20", "--seed", "3", "--out", str(here))
    file = clone.root / "genpipe" / "generators" / "gan.py"
    before = file.read_text()
    file.write_text("raise RuntimeError('the code of today')\n")
    clone.run("genpipe", "sample", "models:/digits@champion", "-n", "20", "--seed", "3", "--out", str(there))
    file.write_text(before)
    for name in ("00000.png", "00019.png"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    manifest = json.loads((there / "manifest.json").read_text())
    assert manifest["sampling"] == {"truncation": 1.0}
    assert [entry["label"] for entry in manifest["samples"][:3]] == ["0", "1", "2"]
    assert (manifest["data"]["name"], manifest["data"]["licence"]) == ("digits", "CC-BY-4.0")
    assert json.loads((here / "manifest.json").read_text())["data"] == manifest["data"]


def test_wrong_words_to_sample_are_answered_with_what_is_allowed(clone: Clone, tmp_path: Path) -> None:
    out = str(tmp_path / "new")
    told = clone.run("genpipe", "sample", "artifacts/train", "--out", out, "--trunc", "1", code=2).stderr
    assert "--trunc is no option of this model; known options: --truncation" in told
    told = clone.run("genpipe", "sample", "artifacts/train", "--out", out, "--label", "ten", code=2).stderr
    assert "--label ten: known labels: 0, 1, 2" in told
    told = clone.run("genpipe", "sample", "models:/digits@winner", "--out", out, code=1).stderr
    assert "'models:/digits@winner' is no version of digits; versions: " in told
    told = clone.run("genpipe", "sample", "artifacts/train", "--out", str(clone.root), code=1).stderr
    assert "is not empty" in told
    assert not (tmp_path / "new").exists()


def test_mlflow_serves_the_champion_without_pickles(clone: Clone) -> None:
    env = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{clone.root / 'mlflow.db'}",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    words = ("mlflow", "models", "serve", "-m", "models:/digits@champion", "--env-manager", "local")
    request = {"dataframe_split": {"columns": ["label"], "data": [[3], [7]]}, "params": {"seed": 5, "truncation": 0.5}}
    with served(clone, words, "/ping", env) as address:
        predicted = np.array(post(f"{address}/invocations", request)["predictions"])
        again = np.array(post(f"{address}/invocations", request)["predictions"])
    assert predicted.shape == (2, 1, 8, 8)
    assert 0 <= predicted.min() <= predicted.max() <= 255
    assert np.array_equal(predicted, again)


def test_mlflow_shows_the_runs_on_the_project_stores(clone: Clone) -> None:
    words = ("mlflow", "ui", "--backend-store-uri", f"sqlite:///{clone.root / 'mlflow.db'}")
    with served(clone, words, "/health", {}) as address:
        found = post(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 10})
    tags = {experiment["name"]: experiment.get("tags", []) for experiment in found["experiments"]}
    assert {"key": "mlflow.experimentKind", "value": "custom_model_development"} in tags["digits"]


@contextmanager
def served(clone: Clone, words: tuple[str, ...], health: str, env: dict[str, str]) -> Iterator[str]:
    """A server of MLflow's on loopback, for the time of a `with`."""
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", *words, "--host", "127.0.0.1", "--port", str(port)]
    log = clone.root / ".genpipe" / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=clone.root, env=clone.env | env, stdout=out, stderr=out)
    try:
        wait_for(address + health, server, log)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"{address} does not answer\n{log.read_text()}")


def post(address: str, content: dict[str, Any]) -> Any:
    data = json.dumps(content).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_after_dvc_repro_the_flow_has_only_register_to_do(clone: Clone, client: Any) -> None:
    clone.params(train={**SHORT, "steps": 220})
    assert "Running stage 'train'" in clone.run("dvc", "repro").stdout
    printed = clone.run("genpipe", "run")
    assert "Running stage" not in printed.stderr + printed.stdout
    assert registered(clone)["version"] == 2
    assert "Gate        held back, since" in printed.stdout or "Gate        stays challenger" in printed.stdout
    aliases = {alias: int(number) for alias, number in client.get_registered_model("digits").aliases.items()}
    assert aliases == {"champion": 1, "challenger": 2}


def test_a_registration_that_failed_leaves_the_run_as_it_was_and_is_made_good(clone: Clone, client: Any) -> None:
    clone.params(train={**SHORT, "steps": 240})
    clone.run("dvc", "repro")
    before = [(run.info.run_id, run.info.status, run.info.end_time) for run in runs(client)]
    store = clone.root / "mlartifacts"
    store.rename(clone.root / "mlartifacts.away")
    store.write_text("no folder any more")
    clone.run("genpipe", "stage", "register", code=1)
    store.unlink()
    (clone.root / "mlartifacts.away").rename(store)
    assert [(run.info.run_id, run.info.status, run.info.end_time) for run in runs(client)] == before
    clone.run("genpipe", "stage", "register")
    assert [(run.info.run_id, run.info.status, run.info.end_time) for run in runs(client)] == before
    assert registered(clone)["version"] == 3
    assert registered(clone)["run"].endswith(before[0][0])


def runs(client: Any) -> list[Any]:
    """The runs of the experiment, newest first."""
    return list(client.search_runs([client.get_experiment_by_name("digits").experiment_id]))


def test_going_back_to_an_older_model_names_that_version_and_moves_no_alias(clone: Clone, client: Any) -> None:
    clone.params(train=SHORT)
    clone.run("genpipe", "run")
    assert (registered(clone)["version"], registered(clone)["alias"]) == (1, "champion")
    client.set_registered_model_alias("digits", "champion", "2")  # as somebody would in MLflow's page
    again = clone.run("genpipe", "run").stdout
    assert "version 1, without an alias" in again
    aliases = {alias: int(number) for alias, number in client.get_registered_model("digits").aliases.items()}
    assert aliases == {"champion": 2, "challenger": 3}
    client.set_registered_model_alias("digits", "champion", "1")


def test_a_store_that_has_not_seen_the_training_gets_a_run_from_its_outputs(clone: Clone, tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'other.db'}"
    clone.run("genpipe", "stage", "register", env={"MLFLOW_TRACKING_URI": uri})
    client = mlflow.MlflowClient(uri)
    run = client.get_run(client.get_model_version_by_alias("digits", "champion").run_id)
    assert run.data.tags["genpipe.restored"] == "true"
    assert max(point.step for point in client.get_metric_history(run.info.run_id, "painter_loss")) == 200
    clone.run("genpipe", "stage", "register")


def test_a_toy_kind_is_found_trained_registered_sampled_and_gone_again(clone: Clone, tmp_path: Path) -> None:
    clone.add_plugins("generators/blot.py")
    assert "blot" in clone.run("genpipe", "generators").stdout
    before = (clone.root / "params.yaml").read_text()
    clone.params(train={"generator": {"kind": "blot"}, "steps": 60, "optimizer": {"lr": 0.1}, "ema_decay": 0.5})
    clone.run("genpipe", "run")
    clone.run(
        "genpipe", "sample", "models:/digits@challenger", "-n", "10", "--spread", "0", "--out", str(tmp_path / "blots")
    )
    zero, one = (np.asarray(Image.open(tmp_path / "blots" / f"0000{n}.png"), float) for n in (0, 1))
    assert zero[3:5, 3:5].mean() < 60 < 150 < one[3:5, 3:5].mean()  # a nought is empty in the middle, a one is not
    (clone.root / "genpipe" / "generators" / "blot.py").unlink()
    told = clone.run("genpipe", "run", code=2).stderr
    assert "train.generator.kind is 'blot'; known generators: gan, vae" in told
    (clone.root / "params.yaml").write_text(before)


def test_a_toy_modality_goes_through_all_stages(tmp_path_factory: pytest.TempPathFactory) -> None:
    clone = clones.make(tmp_path_factory.mktemp("tokens"))
    clone.add_plugins("sources/topics.py", "modalities/tokens.py", "suites/tokens.yaml", "generators/bigram.py")
    (clone.root / "data.dvc").unlink()
    clone.params(
        ingest={"source": "topics"},
        validate={"max_quarantined": 0.3},
        augment={"augmentation": {"dropped": 0.02}},
        train={"generator": {"kind": "bigram"}, "steps": 150, "optimizer": {"lr": 0.1}, "ema_decay": 0.9},
    )
    clones.commit(clone, "another modality")
    clone.run("genpipe", "run")
    nats = np.genfromtxt(clone.root / "artifacts" / "train" / "curves.csv", delimiter=",", names=True)["nats_per_token"]
    assert nats[-1] < 3.2  # chance is log 128 = 4.85
    assert 0 <= scores(clone)["label_agreement"]["value"] <= 1
    clone.run("genpipe", "sample", "models:/digits@champion", "-n", "4", "--label", "debugger", "--out", "lines")
    assert len((clone.root / "lines" / "00000.txt").read_text()) == 24
