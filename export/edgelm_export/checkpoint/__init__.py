"""Checkpoints: a folder in hub layout or a .gguf file in, one lazy view of config, tensors and tokenizer out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.checkpoint.files import CONVERT_PICKLE, PICKLE_SUFFIXES, exists, file_size, listing, opened
from edgelm_export.checkpoint.gguf import are_parts, open_gguf
from edgelm_export.checkpoint.quantized import dequantized
from edgelm_export.checkpoint.safetensors import open_hub_folder
from edgelm_export.checkpoint.sentence_transformers import find_modules

__all__ = ["Checkpoint", "LazyTensor", "open_checkpoint"]

_EXPECTED = "a folder with config.json and *.safetensors, or a .gguf file"


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens what is there: a folder in hub layout, a .gguf file, or a folder that holds nothing else but one.

    Raises:
        CheckpointError: nothing there, or nothing that could be a checkpoint.
        CorruptFile, UnsupportedConfig: as the readers say.
    """
    path = Path(path)
    if not exists(path):
        raise CheckpointError(f"{path}: does not exist; give {_EXPECTED}")
    if not path.is_dir():
        return _open_file(path)
    if exists(path / "config.json"):
        return replace(dequantized(open_hub_folder(path)), modules=find_modules(path))
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1 or (found and are_parts(found)):
        return open_gguf(found[0])
    if found:
        raise CheckpointError(f"{path}: holds {len(found)} .gguf files; give one of them: {listing(path)}")
    return open_hub_folder(path)


def _open_file(path: Path) -> Checkpoint:
    file_size(path)
    with opened(path) as handle:
        is_gguf = handle.read(4) == b"GGUF"
    if is_gguf or path.suffix.lower() == ".gguf":
        return open_gguf(path)
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: weights alone do not say what model they are; give their folder")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: is a pickle, which is never read because that can run code; {CONVERT_PICKLE}")
    raise CheckpointError(f"{path}: is no checkpoint; give {_EXPECTED}")
