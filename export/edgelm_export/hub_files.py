"""Which files of a hub repository make a checkpoint: chosen from a listing, and found again in the cache."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint.files import CONVERT_PICKLE, PICKLE_SUFFIXES
from edgelm_export.wording import listed

_CONFIG = "config.json"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# Everything else stays on the hub: pickled weights, other frameworks' copies (onnx/, original/, *.bin), and all code.
_COMPANIONS = (
    _CONFIG,
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "target_vocab.json",
    "vocab*.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "chat_template*.jinja",
    "chat_template*.json",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
)
_SHARD = re.compile(r"model[^/]*-\d+-of-\d+\.safetensors")
# The modules after the transformer in a sentence-transformers repository, as 1_Pooling and 2_Dense: their weights are small.
_MODULE = re.compile(r"\d+_\w+/(config\.json|model\.safetensors)")
_TEMPLATE = re.compile(r"additional_chat_templates/[^/]+\.jinja")


def wanted_files(names: Collection[str], file: str | None, repository: str) -> tuple[list[str], list[str]]:
    """What to download: the small files, then the weights.

    Args:
        names: every path in the repository.
        file: the `.gguf` file that was asked for, if one was.
        repository: its id, for messages.

    Raises:
        CheckpointError: the repository holds no weights edgelm reads, or several `.gguf` files and none was chosen.
    """
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf"))
    if file is not None:
        if file not in names:
            near = get_close_matches(file, ggufs, n=5, cutoff=0.0) or ["no .gguf file at all"]
            raise CheckpointError(f"{repository} holds no file {file!r} (it has {', '.join(near)})")
        return [], [file]
    weights = _safetensors(names)
    if _CONFIG in names and weights:
        return sorted(name for name in names if _is_companion(name)), weights
    if len(ggufs) == 1:
        return [], ggufs
    if ggufs:
        raise CheckpointError(
            f"{repository} holds {len(ggufs)} .gguf files: name one as {repository}:FILE, from {listed(ggufs, ', ', 12)}"
        )
    raise CheckpointError(_nothing_to_read(names, repository))


def before_weights(small: Sequence[str], weights: Sequence[str]) -> tuple[list[str], list[str]]:
    """What must be there before the weights are chosen, their index among it, and the weights."""
    return [*small, *(name for name in weights if name == _INDEX)], [name for name in weights if name != _INDEX]


def indexed(snapshot: Path, weights: Sequence[str]) -> list[str]:
    """Those that the snapshot's index names, if it has one: a repository may hold the shards of another precision besides."""
    named = _shards(snapshot) if (snapshot / _INDEX).is_file() else None
    return [name for name in weights if named is None or name in named]


def cached_snapshot(cache: Path, repository: str, revision: str) -> Path | None:
    """The folder of a revision in huggingface-hub's cache (its documented layout), complete or not.

    `cache` is the folder that holds all repositories.
    """
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = revision
    if not is_commit(revision):
        if ".." in PurePosixPath(revision).parts:
            return None
        try:
            commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if is_commit(commit) and snapshot.is_dir() else None


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit, which never changes."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def usable(snapshot: Path, file: str | None) -> Path | None:
    """The checkpoint in a snapshot, a folder or a `.gguf` file; None while any of its weights is missing."""
    if file is not None:
        return snapshot / file if (snapshot / file).is_file() else None
    if (snapshot / _CONFIG).is_file() and _weights_complete(snapshot):
        return snapshot
    ggufs = [path for path in snapshot.glob("*") if path.suffix.lower() == ".gguf" and path.is_file()]
    return ggufs[0] if len(ggufs) == 1 else None


def _safetensors(names: Collection[str]) -> list[str]:
    if _SINGLE in names:
        return [_SINGLE]
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    return [_INDEX, *shards] if _INDEX in names and shards else []


def _is_companion(name: str) -> bool:
    if "/" in name:
        return _TEMPLATE.fullmatch(name) is not None or _MODULE.fullmatch(name) is not None
    return any(fnmatchcase(name, pattern) for pattern in _COMPANIONS)


def _weights_complete(snapshot: Path) -> bool:
    if (snapshot / _SINGLE).is_file():
        return True
    shards = _shards(snapshot)
    return bool(shards) and all((snapshot / shard).is_file() for shard in shards or ())


def _shards(snapshot: Path) -> set[str] | None:
    """The names of files that the index of a snapshot lists; None where there is none that says so."""
    try:
        listed_there = json.loads((snapshot / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return {Path(shard).name for shard in listed_there}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _nothing_to_read(names: Collection[str], repository: str) -> str:
    if _safetensors(names):
        return f"{repository} holds weights but no {_CONFIG}, so it is no checkpoint in hub layout: is it an adapter?"
    pickled = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES))
    if pickled:
        return (
            f"{repository} holds neither {_SINGLE} nor a .gguf file (only {pickled[0]}, and edgelm reads no pickle): "
            f"look for a copy that has one of them, or {CONVERT_PICKLE}"
        )
    return (
        f"{repository} holds neither {_SINGLE} nor a .gguf file ({len(names)} other files): "
        "look for a copy that has one of them"
    )
