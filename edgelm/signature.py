"""Names, dtypes and shapes of what goes into and comes out of a program: the contract exporter and runtime share."""

from __future__ import annotations

from dataclasses import dataclass

INPUT_IDS = "input_ids"  # int64 [batch, sequence]
SEQLENS_K = "seqlens_k"  # int32 [batch]: valid tokens including the new ones, minus 1
TOTAL_SEQUENCE_LENGTH = "total_sequence_length"  # int32 []: the longest row, new tokens included
LOGITS_INDEX = "logits_index"  # int64 [batch, n]: positions of this call whose logits are wanted
LOGITS = "logits"  # float32 [batch, n, vocab_size]

KINDS = ("key", "value")


def past(layer: int, kind: str) -> str:
    """Name of a layer's cache input, [batch, num_key_value_heads, max_length, head_dim]."""
    return f"past_key_values.{layer}.{kind}"


def present(layer: int, kind: str) -> str:
    """Name of a layer's cache output, bound to the same buffer as its input."""
    return f"present.{layer}.{kind}"


@dataclass(frozen=True)
class Port:
    """One graph input or output: element type as NumPy spells it, shape with symbolic dimensions as text."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class CacheGeometry:
    """What one token costs in the KV cache; `dtype` as NumPy spells it."""

    num_layers: int
    num_key_value_heads: int
    head_dim: int
    dtype: str = "float32"

    @property
    def bytes_per_token(self) -> int:
        """Bytes one token takes over all layers, keys and values together."""
        itemsize = {"float32": 4, "float16": 2, "bfloat16": 2}[self.dtype]
        return 2 * self.num_layers * self.num_key_value_heads * self.head_dim * itemsize


def decoder_inputs(cache: CacheGeometry) -> list[Port]:
    """Inputs of a decoder program, in graph order."""
    ports = [
        Port(INPUT_IDS, "int64", ("batch", "sequence")),
        Port(SEQLENS_K, "int32", ("batch",)),
        Port(TOTAL_SEQUENCE_LENGTH, "int32", ()),
        Port(LOGITS_INDEX, "int64", ("batch", "n")),
    ]
    return ports + [cache_port(past(i, kind), cache) for i in range(cache.num_layers) for kind in KINDS]


def logits_port(vocab_size: int) -> Port:
    """The logits a decoder program puts out."""
    return Port(LOGITS, "float32", ("batch", "n", vocab_size))


def cache_port(name: str, cache: CacheGeometry) -> Port:
    """A cache buffer, as input or output."""
    return Port(name, cache.dtype, ("batch", cache.num_key_value_heads, "max_length", cache.head_dim))
