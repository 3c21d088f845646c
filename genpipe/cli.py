"""The command `genpipe`: reads the words and calls the library. Exit code 0 done, 1 failed, 2 bad usage or settings.

Everything heavy is imported in the command that needs it, so that `--help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genpipe import __version__
from genpipe.errors import INTERRUPTED, ConfigError, GenpipeError


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can mend go to stderr without a traceback, unless `--debug`."""
    arguments, rest = parser().parse_known_args(words)
    if rest and arguments.command != "sample":
        parser().error(f"unknown words: {' '.join(rest)}")
    arguments.rest = rest
    try:
        return int(arguments.do(arguments) or 0)
    except GenpipeError as error:
        if arguments.debug:
            raise
        print(f"genpipe: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt as interrupt:
        print(f"genpipe: {interrupt}; {INTERRUPTED}" if interrupt.args else "genpipe: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-C", dest="directory", type=Path, default=Path(), metavar="DIR", help="the project's folder")
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    whole = argparse.ArgumentParser(prog="genpipe", description="Data in, an evaluated and registered generator out.")
    whole.add_argument("--version", action="version", version=f"genpipe {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, do: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(do=do)
        return command

    add_init(add)
    add_run(add)
    stage = add("stage", "run one stage itself, as dvc.yaml does", command_stage)
    stage.add_argument("name", metavar="NAME", help="ingest, validate, augment, calibrate, train, evaluate or register")

    sample = add("sample", "draw samples from a registered model or a folder of train's outputs", command_sample)
    sample.add_argument("model", help="models:/NAME@champion, models:/NAME/3, or a folder such as artifacts/train")
    sample.add_argument("-n", dest="count", type=int, default=64, metavar="COUNT", help="how many (64)")
    sample.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that is empty or absent")
    sample.add_argument("--seed", type=int, default=0, help="equal seed, equal samples (0)")
    sample.add_argument("--label", help="only this class; all of them in turn unless given")
    sample.epilog = "Further options are the kind's own, such as --truncation 0.7; a wrong one lists those there are."

    add_data(commands.add_parser("data", help="compare versions of the data, take examples out of them"), common)
    add_promotions(add)
    add_compare(add)
    add_watching(add)
    add("recipes", "list the ready sets of settings", command_recipes)
    add("generators", "list the kinds of models, with what each can do", command_generators)
    config = add("config", "list the keys of params.yaml and mlflow.yml with type, default and meaning", command_config)
    config.add_argument("start", metavar="START", nargs="?", default="", help="list those that begin so: train.opt")
    pending = add("pending", "tell what a run would do, and why: new data, settings, code", command_pending)
    pending.add_argument("--json", action="store_true", help="as JSON")
    add(
        "notify-data",
        "tell the Prefect server that there are new data",
        command_notify_data,
    )
    add("dvc", "print dvc.yaml from the table of stages", command_dvc)
    add("ui", "serve MLflow's pages on the project's stores", command_ui)
    return whole


def add_init(add: Callable[..., argparse.ArgumentParser]) -> None:
    init = add("init", "make a project: a folder under git and DVC that runs at once", command_init)
    init.add_argument("folder", type=Path, metavar="DIR", help="a folder that is empty or absent")
    init.add_argument("--recipe", default="", metavar="R", help="its settings (`genpipe recipes` lists them)")
    init.add_argument("--data", type=Path, metavar="FOLDER", help="pictures of your own; sub-folders are classes")
    init.add_argument("--name", default="", help="of the data, the experiment and the model; that of the folder")


def add_run(add: Callable[..., argparse.ArgumentParser]) -> None:
    run = add("run", "run the pipeline: every stage that has something to do", command_run)
    run.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change params.yaml"
    )
    tried = run.add_mutually_exclusive_group()
    text = "say what would run, and what it would take: time, memory, disk; change nothing"
    tried.add_argument("--dry-run", action="store_true", help=text)
    text = "try every stage with 20 steps and few examples, in a throw-away project; change nothing"
    tried.add_argument("--smoke", action="store_true", help=text)
    run.add_argument(
        "--allow-dirty", action="store_true", help="a model from uncommitted code may become champion, too"
    )


def add_data(data: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """The commands below `genpipe data`."""
    commands = data.add_subparsers(dest="what", required=True, metavar="COMMAND")
    text = "show which examples were added, removed, relabelled or quarantined between two git revisions"
    diff = commands.add_parser("diff", help=text, description=text, parents=[common])
    diff.add_argument("old", metavar="A", help="a commit, branch or tag")
    diff.add_argument("new", metavar="B", nargs="?", default=".", help="another, or . for the working tree (.)")
    diff.add_argument("--json", action="store_true", help="all of it, as JSON")
    diff.set_defaults(do=command_data_diff)

    text = "take examples out for good (consent withdrawn): out of data, arrays and caches; tell which models knew them"
    remove = commands.add_parser("remove", help=text, description=text, parents=[common])
    remove.add_argument("ids", metavar="ID", nargs="*", help="an example's id, or the beginning of one")
    remove.add_argument("--path", metavar="PATTERN", help="those whose original file matches, such as 'portraits/7*'")
    remove.add_argument("--from", dest="file", type=Path, metavar="FILE", help="a file with an id a line")
    remove.add_argument("--gc", action="store_true", help="clean DVC's cache, which drops all versions but this one")
    remove.add_argument("--cloud", action="store_true", help="clean DVC's remote too")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.set_defaults(do=command_data_remove)


def add_promotions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that move the champion and tell how it has moved."""
    promote = add("promote", "make a registered version the champion, after sampling it", command_promote)
    promote.add_argument(
        "version", metavar="VERSION", help="its number, an alias such as challenger, or models:/NAME/3"
    )
    promote.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    promote.add_argument("--allow-dirty", action="store_true", help="take a model from uncommitted code, too")
    rollback = add("rollback", "put back the champion that the present one replaced", command_rollback)
    rollback.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    lineage = add("lineage", "tell what belongs together: data, code, training, model, evaluation", command_lineage)
    what = "a file or folder, a version (3, champion, models:/NAME/3), or the beginning of a digest"
    lineage.add_argument("what", metavar="WHAT", help=what)
    lineage.add_argument("--json", action="store_true", help="all of it, as JSON")
    history = add("history", "list which version was champion, since when, by whom and why", command_history)
    history.add_argument("--json", action="store_true", help="all of it, as JSON")


def add_compare(add: Callable[..., argparse.ArgumentParser]) -> None:
    compare = add("compare", "score two models anew with the same evaluator, labels, seed and counts", command_compare)
    for name in ("first", "second"):
        compare.add_argument(name, metavar=name.upper(), help="a version (3, champion, models:/NAME/3) or a folder")


def add_watching(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands for whoever looks after a project."""
    text = "show the champion, the last runs and their failures, who works on the project, and what is due"
    status = add("status", text, command_status)
    status.add_argument("--json", action="store_true", help="all of it, as JSON")
    text = "look at versions, disk, device, stores, servers, locks and settings, and say what to do about what is amiss"
    doctor = add("doctor", text, command_doctor)
    doctor.add_argument("--json", action="store_true", help="all of it, as JSON")


def command_init(arguments: argparse.Namespace) -> None:
    from genpipe import init, run

    run.set_defaults()
    folder, data = (place and arguments.directory / place for place in (arguments.folder, arguments.data))
    init.init(folder, arguments.recipe, data, arguments.name)


def command_run(arguments: argparse.Namespace) -> None:
    from genpipe import run

    if arguments.dry_run:
        run.foretell(arguments.directory, arguments.changes)
    elif arguments.smoke:
        run.try_out(arguments.directory, arguments.changes)
    else:
        run.run(arguments.directory, arguments.changes, allow_dirty=arguments.allow_dirty)


def command_stage(arguments: argparse.Namespace) -> None:
    from genpipe import run

    run.run_stage(arguments.directory, arguments.name)


def command_sample(arguments: argparse.Namespace) -> None:
    from genpipe import drawing

    options = drawing.options(arguments.rest)
    drawing.write_samples(
        arguments.directory, arguments.model, arguments.count, arguments.out, arguments.seed, arguments.label, options
    )


def command_promote(arguments: argparse.Namespace) -> None:
    from genpipe.champion import promotion

    promotion.promote(arguments.directory, arguments.version, arguments.why, allow_dirty=arguments.allow_dirty)


def command_rollback(arguments: argparse.Namespace) -> None:
    from genpipe.champion import promotion

    promotion.rollback(arguments.directory, arguments.why)


def command_history(arguments: argparse.Namespace) -> None:
    from genpipe.champion import promotion

    promotion.history(arguments.directory, as_json=arguments.json)


def command_lineage(arguments: argparse.Namespace) -> None:
    from genpipe import lineage

    lineage.show(arguments.directory, arguments.what, as_json=arguments.json)


def command_compare(arguments: argparse.Namespace) -> None:
    from genpipe.champion import comparing

    comparing.compare(arguments.directory, arguments.first, arguments.second)


def command_data_diff(arguments: argparse.Namespace) -> None:
    from genpipe import changes

    changes.show(arguments.directory, arguments.old, arguments.new, as_json=arguments.json)


def command_data_remove(arguments: argparse.Namespace) -> None:
    from genpipe import removal

    ids = [*arguments.ids, *(arguments.file.read_text(encoding="utf-8").split() if arguments.file else [])]
    removal.remove(arguments.directory, ids, arguments.path, gc=arguments.gc, cloud=arguments.cloud, yes=arguments.yes)


def command_status(arguments: argparse.Namespace) -> int:
    from genpipe import run
    from genpipe.watching import status_shown

    run.set_defaults()
    return status_shown.show(arguments.directory, seen_by_server if server_named() else None, as_json=arguments.json)


def command_doctor(arguments: argparse.Namespace) -> int:
    from genpipe.watching import doctor

    return doctor.doctor(arguments.directory, told_by_server if server_named() else None, as_json=arguments.json)


def server_named() -> bool:
    """Whether there is a Prefect server to ask; none is started to look."""
    return bool(os.environ.get("PREFECT_API_URL"))


def seen_by_server(names: Sequence[str], count: int) -> dict[str, Any]:
    from flows import deployments

    return deployments.seen(names, count)


def told_by_server(names: Sequence[str]) -> dict[str, Any]:
    from flows import deployments

    return deployments.server(names)


def command_recipes(arguments: argparse.Namespace) -> None:
    from genpipe import catalogue

    catalogue.show_recipes()


def command_generators(arguments: argparse.Namespace) -> None:
    from genpipe import catalogue

    catalogue.show_generators()


def command_config(arguments: argparse.Namespace) -> None:
    from genpipe import catalogue

    catalogue.show_config(arguments.start)


def command_pending(arguments: argparse.Namespace) -> None:
    from genpipe.unattended import reasons

    reasons.show(arguments.directory, as_json=arguments.json)


def command_notify_data(arguments: argparse.Namespace) -> None:
    from genpipe import run

    run.notify_data(arguments.directory)


def command_dvc(arguments: argparse.Namespace) -> None:
    from genpipe import dag
    from genpipe.project import Project

    print(dag.document(Project.find(arguments.directory)), end="")


def command_ui(arguments: argparse.Namespace) -> None:
    from genpipe.project import Project

    project = Project.find(arguments.directory)
    server, ui = project.mlflow.server, project.mlflow.ui
    # By environment: words are seen by all who list the machine's processes, and a URI may hold a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = server.mlflow_tracking_uri
    os.environ["MLFLOW_REGISTRY_STORE_URI"] = str(server.mlflow_registry_uri)
    words = ["--default-artifact-root", project.mlflow.tracking.artifacts, "--host", ui.host, "--port", str(ui.port)]
    words += ["--workers", "1"]  # four, MLflow's default, start a minute long on two cores
    print(f"MLflow will be on http://{ui.host}:{ui.port} within seconds (Control-C ends it)", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *words])
