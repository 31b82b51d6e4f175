"""Names, dtypes and shapes of what goes into and comes out of a program: the contract exporter and runtime share."""

from __future__ import annotations

from dataclasses import dataclass

INPUT_IDS = "input_ids"  # int64 [batch, sequence]
SEQLENS_K = "seqlens_k"  # int32 [batch]: valid tokens including the new ones, minus 1
TOTAL_SEQUENCE_LENGTH = "total_sequence_length"  # int32 []: the longest row, new tokens included
LOGITS_INDEX = "logits_index"  # int64 [batch, n]: positions of this call whose logits are wanted
LOGITS = "logits"  # float32 [batch, n, vocab_size] of a language model; other heads: row_port, token_logits_port

ATTENTION_MASK = "attention_mask"  # int64 [batch, sequence]: 1 for a token, 0 for padding, which stands on the right
TOKEN_TYPE_IDS = "token_type_ids"  # int64 [batch, sequence]
LAST_HIDDEN_STATE = "last_hidden_state"  # float32 [batch, sequence, hidden_size]
POOLER_OUTPUT = "pooler_output"  # float32 [batch, hidden_size]
SENTENCE_EMBEDDING = "sentence_embedding"  # float32 [batch, dimensions]

ENCODER_HIDDEN_STATES = "encoder_hidden_states"  # float32 [batch, source, hidden_size]
ENCODER_ATTENTION_MASK = "encoder_attention_mask"  # int64 [sources, source]: 1 for a token, 0 for padding on the right

KINDS = ("key", "value")


def past(layer: int, kind: str) -> str:
    """Name of a layer's cache input, [batch, num_key_value_heads, max_length, head_dim]."""
    return f"past_key_values.{layer}.{kind}"


def present(layer: int, kind: str) -> str:
    """Name of a layer's cache output, bound to the same buffer as its input."""
    return f"present.{layer}.{kind}"


def cross(layer: int, kind: str) -> str:
    """Name of what a decoder layer attends to in the source, [sources, num_key_value_heads, source, head_dim].

    An output of the encoder, computed once, and an input of the decoder.
    """
    return f"cross_key_values.{layer}.{kind}"


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


def encoder_inputs(*, token_types: bool, positions: bool) -> list[Port]:
    """Inputs of an encoder program, in graph order; `positions` are those whose logits a masked language model is asked for."""
    ports = [Port(INPUT_IDS, "int64", ("batch", "sequence")), Port(ATTENTION_MASK, "int64", ("batch", "sequence"))]
    ports += [Port(TOKEN_TYPE_IDS, "int64", ("batch", "sequence"))] if token_types else []
    return ports + ([Port(LOGITS_INDEX, "int64", ("batch", "n"))] if positions else [])


def hidden_port(hidden_size: int) -> Port:
    """The hidden states every encoder program puts out."""
    return Port(LAST_HIDDEN_STATE, "float32", ("batch", "sequence", hidden_size))


def row_port(name: str, size: int) -> Port:
    """One vector a text: POOLER_OUTPUT, SENTENCE_EMBEDDING, or the LOGITS of a sequence classifier."""
    return Port(name, "float32", ("batch", size))


def token_logits_port(size: int) -> Port:
    """The logits a head gives for each token; for question answering, of start and end."""
    return Port(LOGITS, "float32", ("batch", "sequence", size))


def cross_ports(cache: CacheGeometry) -> list[Port]:
    """Keys and values of the source for every decoder layer: outputs of the encoder, inputs of the decoder."""
    shape = ("sources", cache.num_key_value_heads, "source", cache.head_dim)
    return [Port(cross(i, kind), cache.dtype, shape) for i in range(cache.num_layers) for kind in KINDS]


def source_mask_port() -> Port:
    """Which positions of the sources are tokens. Rows of the decoder belong to them in turn, equally many to each."""
    return Port(ENCODER_ATTENTION_MASK, "int64", ("sources", "source"))


def source_port(hidden_size: int) -> Port:
    """The encoder's last hidden states."""
    return Port(ENCODER_HIDDEN_STATES, "float32", ("sources", "source", hidden_size))
