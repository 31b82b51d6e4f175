"""`quant_method: gptq`: integers packed along the columns, zero points and scales for each group of columns, all of it turned.

    X.qweight  int32 [k * bits / 32, n]          codes of column 0, 1, 2 ... from the lowest bits on; 3 bits run across words
    X.qzeros   int32 [groups, n * bits / 32]     zero points, packed along the rows; version 1 of the format stores one less
    X.scales   float [groups, n]                 w = (code - zero point) * scale
    X.g_idx    int32 [k]                         the group of each column; in order where act-order was not used

The layout is that of AutoGPTQ's and GPTQModel's linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm_export.checkpoint.base import Bytes, LazyTensor
from edgelm_export.checkpoint.quantized.integers import (
    SCALE_TYPES,
    WORD_TYPES,
    Transposed,
    columns,
    read_group_size,
    unpacked,
)
from edgelm_export.checkpoint.quantized.tensors import Part, StoredTensors
from edgelm_export.config_reader import ConfigReader

_BITS = (2, 3, 4, 8)
_VERSIONS = {"gptq": 1, "gptq_v2": 2}
# How it was calibrated, and what a runtime would choose kernels by.
_RUNTIME_KEYS = (
    *("damp_percent", "damp_auto_increment", "true_sequential", "static_groups", "lm_head", "mse", "act_group_aware"),
    *("model_name_or_path", "model_file_base_name", "quantizer", "meta", "dataset", "tokenizer", "model_seqlen"),
    *("block_name_to_quantize", "module_name_preceding_first_block", "modules_in_block_to_quantize", "batch_size"),
    *("pad_token_id", "max_input_length", "use_cuda_fp16", "use_exllama", "exllama_config", "disable_exllama"),
    *("cache_block_outputs", "backend"),
)


@dataclass(frozen=True)
class _Settings:
    bits: int
    group_size: int | None  # None: the whole row
    symmetric: bool
    ordered: bool
    less_one: bool

    def __str__(self) -> str:
        size = "a row" if self.group_size is None else f"{self.group_size} columns"
        zeros = "symmetric" if self.symmetric else "zero points"
        return f"gptq ({self.bits} bits, one scale {size}, {zeros}{', act-order' if self.ordered else ''})"


def read_gptq(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes, zero points and scales together; says how the weights are stored."""
    settings = _settings(config)
    for name, words in tensors.matrices(".qweight", WORD_TYPES):
        n, k = words.shape[1], words.shape[0] * 32 // settings.bits
        groups = -(-k // (settings.group_size or k))
        parts = tensors.parts(
            name,
            Part(".qweight", WORD_TYPES, (k * settings.bits // 32, n)),
            Part(".qzeros", WORD_TYPES, (groups, -(-n * settings.bits // 32))),
            Part(".scales", SCALE_TYPES, (groups, n)),
            Part(".g_idx", ("int32", "int64"), (k,), optional=not settings.ordered),
        )
        if parts is not None:
            weight = _weight(f"{name}.weight", parts, settings)
            tensors.put(f"{name}.weight", f"gptq {settings.bits} bits", (n, k), weight.grid(), parts.values())
    for leaf in (".qzeros", ".scales", ".g_idx"):
        tensors.find_stray(leaf, ".qweight")
    return str(settings)


def _settings(config: ConfigReader) -> _Settings:
    for key in _RUNTIME_KEYS:
        config.get(key)
    config.require("pack_dtype", "int32")
    config.require("is_marlin_format", False)
    config.require("dynamic", {})  # other settings for some modules, by patterns
    bits = config.size("bits")
    if bits not in _BITS:
        config.problem(f"bits {bits} is not supported (known: {', '.join(map(str, _BITS))})")
        bits = 4
    version = config.one_of("checkpoint_format", _VERSIONS, "gptq")
    ordered, symmetric = config.flag("desc_act"), config.flag("sym", True)
    return _Settings(bits, read_group_size(config), symmetric, ordered, version == "gptq")


def _weight(name: str, parts: dict[str, LazyTensor], settings: _Settings) -> Transposed:
    words, zeros = parts[".qweight"], parts[".qzeros"]
    bits, n = settings.bits, words.shape[1]

    def codes(start: int, stop: int) -> Bytes:
        return unpacked(np.ascontiguousarray(columns(words, "<u4", start, stop).T).view(np.uint8), bits)

    def zero_points(start: int, stop: int) -> Bytes:
        stored = unpacked(zeros.read_raw(), bits)[:, :n][:, start:stop]
        # Zero is stored as all ones, which is what one less comes to.
        return stored + np.uint8(1) & np.uint8((1 << bits) - 1) if settings.less_one else stored

    group_size = settings.group_size or words.shape[0] * 32 // bits
    zero = 1 << (bits - 1) if settings.symmetric else None
    groups = parts.get(".g_idx")
    return Transposed(name, bits, group_size, zero, codes, zero_points, parts[".scales"], groups, settings.ordered)
