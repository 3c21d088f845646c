"""Checks of what stands on this machine, in a project or outside of one: Python, packages, tools, device, threads."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from genpipe.watching.doctor import Check, Finding

# Why a package is held where its requirement holds it; the bounds themselves stand in the package's own metadata.
PINNED = {
    "fastapi": "with others Prefect sends what its own server refuses, or does not start",
    "torch": "checkpoints and figures are those of one version",
    "torchvision": "it is built for one version of torch",
    "numpy": "one version on every Python that genpipe runs on",
    "prefect": "the server's and the client's version have to agree",
    "sqlalchemy": "with 2.1 the server of Prefect 3.8 plans no run of a schedule",
    "mlflow": "the tables of its database belong to its version",
}
MANY_PROCESSES = 2  # threads a core; beyond that they only wait for each other


def python() -> Iterator[Finding]:
    """The interpreter against what the package asks for."""
    version = ".".join(map(str, sys.version_info[:3]))
    asked = metadata.metadata("genpipe")["Requires-Python"]
    if SpecifierSet(asked).contains(version):
        yield Finding("Python", "ok", f"{version} ({sys.executable})")
    else:
        remedy = "make an environment with another Python, and install genpipe there"
        yield Finding("Python", "wrong", f"{version}, and genpipe asks for {asked}", remedy)


def packages() -> Iterator[Finding]:
    """Each package that genpipe requires against the installed one, as the metadata of genpipe says it."""
    asked = [Requirement(line) for line in metadata.requires("genpipe") or ()]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = {one.name: fault for one in needed if (fault := unlike(one))}
    for one in needed:
        if one.name in wrong:
            why = f": {PINNED[one.name]}" if one.name in PINNED else ""
            text = f"{wrong[one.name]}, and genpipe asks for {one.name}{one.specifier}{why}"
            yield Finding(one.name, "wrong", text, f"pip install '{one}'")
    fits = ", ".join(f"{one.name} {metadata.version(one.name)}" for one in needed if one.name in PINNED.keys() - wrong)
    if len(wrong) < len(needed):
        text = f"{len(needed) - len(wrong)} of the {len(needed)} that genpipe asks for fit, among them {fits}"
        yield Finding("packages", "ok", text)


def unlike(asked: Requirement) -> str:
    """What is wrong with an installed package; empty where nothing is."""
    try:
        version = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return "it is not installed"
    return "" if asked.specifier.contains(version, prereleases=True) else f"{version} is installed"


def tools() -> Iterator[Finding]:
    """The programs that genpipe calls."""
    yield tool("git", ["git", "--version"], "install git; without it no version is known by its commit")
    yield tool("dvc", [sys.executable, "-m", "dvc", "--version"], "pip install dvc")


def tool(name: str, command: list[str], remedy: str) -> Finding:
    if shutil.which(command[0]) is None:
        return Finding(name, "wrong", "there is no such command on PATH", remedy)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Finding(name, "wrong", f"`{' '.join(command)}` fails: {done.stderr.strip()[-300:]}", remedy)
    return Finding(name, "ok", done.stdout.strip().removeprefix("git version "))


def device() -> Iterator[Finding]:
    """What PyTorch can compute on, and in which precision."""
    import torch

    built = f"torch {torch.__version__}, " + (
        f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    )
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
            yield Finding("GPU", "ok", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {bf16} ({built})")
    elif torch.version.cuda and shutil.which("nvidia-smi"):
        remedy = "see what `nvidia-smi` says: the driver may be older than this build of torch asks for"
        yield Finding("GPU", "warning", f"there is a driver, but torch sees no GPU ({built})", remedy)
    else:
        yield Finding("GPU", "ok", f"none: CPU only ({built})")
    amx = torch.cpu.get_capabilities().get("amx_bf16", False)
    yield Finding("CPU", "ok", f"{os.cpu_count()} cores, {'bf16 by AMX' if amx else 'no AMX, so fp32 pays'}")


def threads() -> Iterator[Finding]:
    """The environment's settings for OpenMP, which PyTorch computes with."""
    policy, count = os.environ.get("OMP_WAIT_POLICY", "PASSIVE"), os.environ.get("OMP_NUM_THREADS", "")
    if policy.upper() != "PASSIVE":
        text = f"OMP_WAIT_POLICY is {policy}: threads that spin while they wait slow each other down on a busy machine"
        yield Finding("threads", "warning", text, "unset OMP_WAIT_POLICY; genpipe then takes PASSIVE")
    cores = os.cpu_count() or 1
    if count.isdecimal() and int(count) > MANY_PROCESSES * cores:
        text = f"OMP_NUM_THREADS is {count} on {cores} cores"
        yield Finding("threads", "warning", text, f"unset OMP_NUM_THREADS, or set it to {cores} or less")
    elif policy.upper() == "PASSIVE":
        yield Finding("threads", "ok", f"OMP_WAIT_POLICY {policy}, OMP_NUM_THREADS {count or 'not set'}")


CHECKS: dict[str, Check] = {
    "Python": python,
    "packages": packages,
    "tools": tools,
    "device": device,
    "threads": threads,
}
