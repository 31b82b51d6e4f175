"""The folder of a PEFT adapter in; its low-rank pairs by module name out. Nothing of the base model is known here.

LoRA adds scale * lora_B @ lora_A to a weight (Hu et al. 2021, arXiv:2106.09685); `scale` is lora_alpha / r, with use_rslora
lora_alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.checkpoint.base import LazyTensor
from edgelm_export.checkpoint.files import exists, is_plain_name, listing, read_object, shown
from edgelm_export.checkpoint.safetensors import read_safetensors
from edgelm_export.config_reader import ConfigReader
from edgelm_export.wording import listed

_CONFIG, _WEIGHTS, _PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_PAIR = re.compile(r"(.+)\.lora_([AB])\.weight")

# Keys that describe training, or what the tensors' names say as well. Any other has to be off, for it changes what is computed.
_HARMLESS = frozenset(
    " ".join(
        (
            "auto_mapping base_model_name_or_path revision inference_mode peft_version task_type target_modules exclude_modules",
            "lora_dropout fan_in_fan_out layers_to_transform layers_pattern runtime_config ensure_weight_tying",
            "eva_config megatron_core qalora_group_size loftq_config",
        )
    ).split()
)
# Ways to begin with that leave the base model as it is.
_INITS = (True, False, "gaussian", "eva", "orthogonal")

# A pattern is a regular expression of somebody else's: what could take exponential time, or any long time, is refused.
_MAX_PATTERN, _MAX_REPEATS = 200, 2


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to the weight [n, k] of one module: scale * b @ a."""

    a: LazyTensor  # [rank, k]
    b: LazyTensor  # [n, rank]
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An opened adapter; its tensors are still in their file.

    Attributes:
        folder: where it is.
        base: the model it says it was trained for, as its config spells it.
        pairs: by the name of the module, as the base model's own code spells it.
        files: every input file, for digests.
    """

    folder: Path
    base: str | None
    pairs: Mapping[str, Pair]
    files: tuple[Path, ...]

    @property
    def id(self) -> str:
        """The folder's own name."""
        return self.folder.name


def open_adapter(folder: str | Path) -> Adapter:
    """Opens a PEFT adapter; reads headers only.

    Raises:
        CheckpointError: the folder lacks a file, or holds a pickle only.
        CorruptFile: a file that cannot be true.
        UnsupportedConfig: settings or tensors that are not plain LoRA, all listed at once.
    """
    folder = Path(folder)
    config_file, weights_file = folder / _CONFIG, folder / _WEIGHTS
    if not exists(config_file):
        raise CheckpointError(
            f"{folder}: has no {_CONFIG}, so it is no PEFT adapter; give the folder that save_pretrained wrote"
        )
    if not exists(weights_file):
        pickle = f"; {_PICKLE} is a pickle, which is never read because that can run code: save the adapter again"
        why = pickle if exists(folder / _PICKLE) else f"; it holds {listing(folder)}"
        raise CheckpointError(f"{folder}: has no {_WEIGHTS}{why}")
    reader = ConfigReader(read_object(config_file))
    settings = _Settings(reader)
    pairs = _pairs(read_safetensors(weights_file), settings, reader)
    if reader.problems:
        raise UnsupportedConfig(f"{folder}: this adapter cannot be used: {'; '.join(reader.problems)}")
    base = reader.get("base_model_name_or_path")
    name = base if isinstance(base, str) and is_plain_name(base) else None
    return Adapter(folder.resolve(), name, pairs, (config_file, weights_file))


class _Settings:
    """Rank and scale of each module; what stands in the way is noted in the reader."""

    def __init__(self, reader: ConfigReader) -> None:
        reader.require("peft_type", "LORA")
        reader.require("bias", "none")
        init = reader.get("init_lora_weights")
        if init is not None and not any(
            init is known or (init == known and init != 1 and init != 0) for known in _INITS
        ):
            reader.problem(
                f"init_lora_weights {_brief(init)} changes the base model's weights, which are not in the adapter"
            )
        self._rank = reader.size("r")
        self._alpha = reader.number("lora_alpha")
        self._root = reader.flag("use_rslora")
        self._ranks = _patterns(reader, "rank_pattern")
        self._alphas = _patterns(reader, "alpha_pattern")
        for key in reader.unread():
            if key not in _HARMLESS and (value := reader.get(key)):
                reader.problem(f"{key} {_brief(value)} is not supported")

    def rank(self, module: str) -> float:
        """The rank that the config gives a module."""
        return _matching(self._ranks, module, self._rank)

    def scale(self, module: str, rank: int) -> float:
        """What the product of a module's pair is multiplied by."""
        alpha = _matching(self._alphas, module, self._alpha)
        return alpha / (math.sqrt(rank) if self._root else rank)


def _pairs(tensors: Mapping[str, LazyTensor], settings: _Settings, reader: ConfigReader) -> dict[str, Pair]:
    halves: dict[str, dict[str, LazyTensor]] = {}
    others: list[str] = []
    for name, tensor in tensors.items():
        found = _PAIR.fullmatch(name.removeprefix(_PREFIX))
        if found is None or not name.startswith(_PREFIX):
            others.append(name)
        else:
            halves.setdefault(found[1], {})[found[2]] = tensor
    if others:
        reader.problem(
            f"tensors that are no lora_A or lora_B of a linear layer: {listed([*map(shown, sorted(others))], ', ')}"
        )
    if not halves:
        reader.problem("it changes no linear layer")
    return {module: pair for module, half in halves.items() for pair in _pair(module, half, settings, reader)}


def _pair(module: str, half: Mapping[str, LazyTensor], settings: _Settings, reader: ConfigReader) -> Iterator[Pair]:
    a, b = half.get("A"), half.get("B")
    if a is None or b is None:
        reader.problem(f"{module} has a lora_{'B' if a is None else 'A'} and no lora_{'A' if a is None else 'B'}")
        return
    rank = a.shape[0] if a.shape else 0
    if len(a.shape) != 2 or len(b.shape) != 2 or rank != b.shape[1] or not rank:
        reader.problem(f"{module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}, which do not multiply")
        return
    if rank != settings.rank(module):
        reader.problem(f"{module} has rank {rank} in the file and {settings.rank(module):g} in {_CONFIG}")
        return
    yield Pair(a, b, settings.scale(module, rank))


def _patterns(reader: ConfigReader, key: str) -> list[tuple[re.Pattern[str], float]]:
    """The patterns of modules in an object of the config, each with its number, in their order."""
    raw = reader.get(key) or {}
    if not isinstance(raw, dict):
        reader.problem(f"{key} is {_brief(raw)}, expected an object of pattern: number")
        return []
    found: list[tuple[re.Pattern[str], float]] = []
    for pattern, value in cast("dict[str, Any]", raw).items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31
        compiled = _compiled(pattern)
        if not number or compiled is None:
            what = "is no positive number" if not number else "is no pattern that is safe to match"
            reader.problem(f"{key}: {shown(pattern)} {what}")
        elif compiled is not None:
            found.append((compiled, float(value)))
    return found


def _compiled(pattern: str) -> re.Pattern[str] | None:
    """How PEFT matches a pattern: the whole name of a module, or its end from a dot on. None where that could take long."""
    repeats = re.findall(r"(?<!\\)[*+?{]", pattern)
    if len(pattern) > _MAX_PATTERN or len(repeats) > _MAX_REPEATS or re.search(r"\)[*+?{]|\(\?|\\\d", pattern):
        return None
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError):
        return None


def _matching(patterns: list[tuple[re.Pattern[str], float]], module: str, default: float) -> float:
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _brief(value: Any) -> str:
    return shown(str(value)) if not isinstance(value, bool) else str(value).lower()
