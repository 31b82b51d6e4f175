"""Writes a package: data files tensor by tensor, graphs, manifest; in a temporary folder that takes its final name only when complete."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm.errors import CheckpointError, PackageError
from edgelm.manifest import MANIFEST, PROBES
from edgelm.package import sha256
from edgelm.progress import progress
from edgelm.providers import Provider
from edgelm.replacing import umask
from edgelm_export.assemble import Assembly, assemble, plan
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.checkpoint.slow_tokenizer import VOCABULARIES
from edgelm_export.graph import Produce
from edgelm_export.known_answers import known_answers
from edgelm_export.model import Model
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.scratch import scratch_folder

# Tensors start on cache lines, so that kernels may read the mapped file directly.
_ALIGNMENT = 64


class DataFile:
    """A store that appends tensors to one file as their rows are produced.

    Args:
        path: the file.
        wrote: told of bytes as they are written.
        hashed: whether `sha256` is wanted, which is cheaper now than by reading the file.
    """

    def __init__(self, path: Path, wrote: Callable[[int], None] = lambda _: None, *, hashed: bool = False) -> None:
        self._name = path.name
        self._file = path.open("wb")
        self._wrote = wrote
        self._digest = hashlib.sha256() if hashed else None

    def add(self, dtype: np.dtype[Any], shape: Sequence[int], produce: Produce) -> tuple[str, int, int]:
        """Writes the pieces one after another at an aligned offset."""
        self._write(bytes(-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        for piece in produce():
            if piece.dtype != dtype:
                raise TypeError(f"a piece is {piece.dtype}, the tensor {dtype}")
            self._write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
            self._wrote(piece.nbytes)
        length, expected = self._file.tell() - offset, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if length != expected:
            raise ValueError(f"{length} bytes were produced for a tensor of {expected}")
        return self._name, offset, length

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()

    @property
    def sha256(self) -> str:
        """Hex digest of what was written."""
        if self._digest is None:
            raise ValueError(f"{self._name} was not hashed")
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        if self._digest is not None:
            self._digest.update(data)


@contextmanager
def package_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it at the end, or vanishes on any error.

    Raises:
        PackageError: the target exists and may not be replaced, or the disk is full.
    """
    check_target(target, force=force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = scratch_folder(target.parent, f".{target.name}.edgelm-")
    except OSError as error:
        raise PackageError(f"{target} cannot be written: {error.strerror}; choose another folder with -o") from error
    with scratch as folder:
        try:
            yield folder
            folder.chmod(0o777 & ~umask())
            _replace(folder, target)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise PackageError(
                    f"the disk of {target.parent} is full; nothing was left behind. Free space, lift a limit on the size of files "
                    "(ulimit -f), or choose another folder with -o"
                ) from error
            raise


def check_target(target: Path, *, force: bool) -> None:
    """Refuses to replace what is there, unless it is a package and `force` says so.

    Raises:
        PackageError: the target is in the way.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MANIFEST).is_file():
        raise PackageError(
            f"{target} exists and is not an edgelm package; it will not be replaced, choose another folder with -o"
        )
    if not force:
        raise PackageError(f"{target} holds a package already; --force replaces it")


def check_space(target: Path, nbytes: int) -> None:
    """Fails before the first byte when the disk cannot hold the package.

    Raises:
        PackageError: too little space.
    """
    existing = next(folder for folder in (target, *target.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise PackageError(
            f"{target}: the export needs {nbytes / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB free"
        )


def write_programs(
    model: Model,
    recipe: Recipe,
    providers: Sequence[Provider],
    folder: Path,
    taps: Sequence[str] = (),
    sha256s: dict[str, str] | None = None,
) -> Assembly:
    """Writes every program's graph and data file into `folder`; values whose names match `taps` become outputs as well.

    `sha256s` gains the digest of each data file, by its name.
    """
    total = plan(model, recipe, *providers).nbytes
    files: dict[str, DataFile] = {}
    with progress(total, f"Writing {recipe.name}", "B") as bar:
        try:

            def store_for(name: str) -> DataFile:
                if name not in files:
                    path = folder / f"{name}.onnx.data"
                    files[name] = DataFile(path, bar.advance, hashed=sha256s is not None)
                return files[name]

            assembly = assemble(model, recipe, providers, store_for, taps)
        finally:
            for file in files.values():
                file.close()
    if sha256s is not None:
        sha256s |= {f"{name}.onnx.data": file.sha256 for name, file in files.items()}
    for form in assembly.forms:
        for name, file in form.files.items():
            write_graph(form.programs[name], folder / file)
    return assembly


def write_probes(
    programs: Iterable[ir.Model], provider: Provider, folder: Path, file: str = PROBES
) -> Mapping[str, Mapping[str, Any]]:
    """Writes the known answers of the operators that programs use, and says what the manifest says of them."""
    answers = known_answers(programs, provider.activation_dtype)
    if answers.probes:
        (folder / file).write_bytes(answers.graph)
    return answers.probes


def write_graph(program: ir.Model, file: Path) -> None:
    """Writes a program's graph, the same bytes each time; its data lies beside it already."""
    file.write_bytes(ir.to_proto(program).SerializeToString(deterministic=True))


def write_texts(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the tokenizer, and the configs of a source that has them as files.

    Raises:
        CheckpointError: the source has no tokenizer that edgelm reads.
    """
    texts = checkpoint.tokenizer_files()
    if "tokenizer.json" not in texts:
        raise CheckpointError(
            f"{checkpoint.files[0].parent} has no tokenizer.json; save the tokenizer in its fast form into that folder "
            "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)) and export again. "
            f"It could also be made of one of {', '.join(VOCABULARIES)}, and none of them is there"
        )
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    for file in checkpoint.files:
        if file.name in ("config.json", "generation_config.json"):
            (folder / file.name).write_bytes(file.read_bytes())


def digests(
    folder: Path, names: Iterable[str] | None = None, known: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of those files of a folder, by default of all but the manifest; `known` has digests by name."""
    known = known or {}
    everything = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = sorted(everything if names is None else (folder / name for name in names))
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: {"sha256": known.get(name) or sha256(path), "size": path.stat().st_size} for name, path in named.items()
    }


def _replace(folder: Path, target: Path) -> None:
    if not target.exists():
        os.replace(folder, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        os.replace(target, old / "package")
        os.replace(folder, target)
    except BaseException:
        if not target.exists():
            os.replace(old / "package", target)
        raise
    finally:
        shutil.rmtree(old)
