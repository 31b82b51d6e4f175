"""Who is measured: each contender is a worker script, the interpreter it runs in, and a folder that is made once under build/benchmarks."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from environments import BUILD, HERE, environment, versions

import edgelm

# The float package is what every other one is compared with; it is not measured for speed unless named.
REFERENCE = "edgelm-fp32"
PEER = "genai-int4"
_GENAI = ["onnxruntime-genai", "onnxruntime", "torch", "transformers"]
_EDGELM = ["edgelm", "onnxruntime", "numpy", "tokenizers"]


@dataclass(frozen=True)
class Contender:
    """Something that runs a model.

    Attributes:
        about: one line for the report.
        worker: script that speaks protocol.py.
        threads: threads to ask for; None leaves the contender's own choice.
        make: (checkpoint, folder) -> None, writes its package.
        peer: environment it runs in; None is ours.
    """

    name: str
    about: str
    worker: str
    threads: int | None
    make: Callable[[Path, Path], None]
    folder: str
    peer: str | None = None

    @property
    def python(self) -> Path:
        """The interpreter its worker runs in."""
        return Path(sys.executable) if self.peer is None else environment(self.peer)

    def versions(self) -> dict[str, str]:
        """Versions of what runs it."""
        return versions(self.python, _EDGELM if self.peer is None else _GENAI)


def contenders(threads: int) -> dict[str, Contender]:
    """All of them, by name."""
    described = [
        _edgelm("int4", "edgelm, default int4", threads),
        _edgelm("int4-plain", "edgelm, round to nearest, block 32, 8-bit head", threads),
        _edgelm("int8", "edgelm, int8", threads),
        _edgelm("fp32", "edgelm, float32", threads),
        _genai(PEER, f"onnxruntime-genai, int4, accuracy level 4, {threads} threads", threads),
        _genai("genai-int4-own-threads", "the same, with the number of threads it chooses itself", None),
    ]
    return {contender.name: contender for contender in described}


def prepare(contender: Contender, checkpoint: Path) -> Path:
    """The contender's package of the checkpoint, made anew when the checkpoint or what makes it has changed."""
    folder = BUILD / contender.folder
    stamp = folder.with_suffix(".stamp")
    wanted = json.dumps({"checkpoint": _digest(checkpoint), "made_by": _maker(contender)}, sort_keys=True)
    if folder.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return folder
    BUILD.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    contender.make(checkpoint, folder)
    stamp.write_text(wanted, encoding="utf-8")
    return folder


def run_worker(contender: Contender, task: dict[str, Any]) -> dict[str, Any]:
    """Runs a contender's worker on a task in a process of its own."""
    command = [str(contender.python), str(HERE / contender.worker)]
    task = {**task, "threads": contender.threads}
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{contender.name}: its worker failed with exit code {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _edgelm(precision: str, about: str, threads: int) -> Contender:
    name = f"edgelm-{precision}"
    return Contender(name, about, "worker_edgelm.py", threads, partial(_export, precision), name)


def _genai(name: str, about: str, threads: int | None) -> Contender:
    return Contender(name, about, "worker_genai.py", threads, _build_genai, PEER, peer="genai")


def _export(precision: str, checkpoint: Path, folder: Path) -> None:
    edgelm.export(checkpoint, folder, precision=precision, verify=False, force=True)


def _build_genai(checkpoint: Path, folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    command = [str(environment("genai")), str(HERE / "build_genai.py"), str(checkpoint), str(folder)]
    _quietly(command)


def _quietly(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def _maker(contender: Contender) -> str:
    """What the package depends on besides the checkpoint: versions, and for our own packages the exporter's source."""
    if contender.peer is not None:
        return json.dumps(contender.versions(), sort_keys=True)
    source = HERE.parents[1] / "export" / "edgelm_export"
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(checkpoint: Path) -> str:
    files = [checkpoint] if checkpoint.is_file() else sorted(path for path in checkpoint.iterdir() if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
