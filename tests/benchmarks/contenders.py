"""What a contender is: a worker script, the interpreter it runs in, and a folder that is made once under build/benchmarks."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from environments import BUILD, HERE, environment, versions

import edgelm

EDGELM = ("edgelm", "onnxruntime", "numpy", "tokenizers")


@dataclass(frozen=True)
class Contender:
    """Something that runs a model.

    Attributes:
        about: one line for the report.
        worker: script that speaks protocol.py.
        distributions: what its versions are quoted of.
        threads: threads to ask for; None leaves the contender's own choice.
        make: (checkpoint, folder) -> None, writes its package; None where it reads the checkpoint itself.
        folder: where the package lies; contenders that run one package in several ways share it.
        peer: environment it runs in; None is ours.
        options: further keys of every task.
    """

    name: str
    about: str
    worker: str
    distributions: Sequence[str]
    threads: int | None
    make: Callable[[Path, Path], None] | None
    folder: str
    peer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def python(self) -> Path:
        """The interpreter its worker runs in."""
        return Path(sys.executable) if self.peer is None else environment(self.peer)

    def versions(self) -> dict[str, str]:
        """Versions of what runs it."""
        return versions(self.python, [*self.distributions])

    def facts(self, package: Path) -> dict[str, Any]:
        """What the report says about it besides figures."""
        size = folder_size(package)
        return {"about": self.about, "package": self.folder, "bytes": size, "versions": self.versions()}


Entered = Mapping[str, tuple[Contender, Path]]


def enter(
    names: Sequence[str], known: Mapping[str, Contender], checkpoint: Path, say: Callable[[str], None]
) -> Entered:
    """The contenders of these names, each with its package of the checkpoint."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(known)}")
    entered: dict[str, tuple[Contender, Path]] = {}
    for name in names:
        say(f"preparing {name}")
        entered[name] = known[name], prepare(known[name], checkpoint)
    return entered


def prepare(contender: Contender, checkpoint: Path) -> Path:
    """The contender's package of the checkpoint, made anew when the checkpoint or what makes it has changed."""
    if contender.make is None:
        return checkpoint
    folder = BUILD / contender.folder
    stamp = folder.with_name(f"{folder.name}.stamp")
    wanted = json.dumps({"checkpoint": _digest(checkpoint), "made_by": _maker(contender)}, sort_keys=True)
    if folder.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return folder
    BUILD.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    contender.make(checkpoint, folder)
    stamp.write_text(wanted, encoding="utf-8")
    return folder


def run_worker(contender: Contender, task: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a contender's worker on a task in a process of its own."""
    command = [str(contender.python), str(HERE / contender.worker)]
    task = {**task, **contender.options, "threads": contender.threads}
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{contender.name}: its worker failed with exit code {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def export_package(precision: str, checkpoint: Path, folder: Path, kv_cache: str | None = None) -> None:
    """Our own package of a checkpoint."""
    edgelm.export(checkpoint, folder, precision=precision, kv_cache=kv_cache, verify=False, force=True)


def build_in(peer: str, script: str, checkpoint: Path, folder: Path, *arguments: str) -> None:
    """Runs a peer's own exporter: SCRIPT CHECKPOINT FOLDER ARGUMENTS, inside its environment."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(environment(peer)), str(HERE / script), str(checkpoint), str(folder), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def _maker(contender: Contender) -> str:
    """What the package depends on besides the checkpoint: versions and scripts, for our own packages the exporter's source."""
    if contender.peer is not None:
        return json.dumps([contender.versions(), *(_sha256(path) for path in sorted(HERE.glob("build_*.py")))])
    source = HERE.parents[1] / "export" / "edgelm_export"
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source.rglob("*.py")))).hexdigest()


def _digest(checkpoint: Path) -> str:
    files = [checkpoint] if checkpoint.is_file() else sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return hashlib.sha256("".join(map(_sha256, files)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
