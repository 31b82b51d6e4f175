"""Names, dtypes and shapes of what goes into and comes out of a program: the contract exporter and runtime share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

INPUT_IDS = "input_ids"  # int64 [batch, sequence]
SEQLENS_K = "seqlens_k"  # int32 [batch]: valid tokens including the new ones, minus 1
TOTAL_SEQUENCE_LENGTH = "total_sequence_length"  # int32 []: the longest row, new tokens included
LONG_CONTEXT = (
    "long_context"  # int64 [batch]: 1 for rows longer than CacheGeometry.short_context, prompt to come included
)
LOGITS_INDEX = "logits_index"  # int64 [batch, n]: positions of this call whose logits are wanted
POSITION_IDS = "position_ids"  # int64 [batch, sequence]: of programs with a growing cache that want them
LOGITS = "logits"  # float32 [batch, n, vocab_size] of a language model; other heads: row_port, token_logits_port
LOG_PROBABILITIES = "log_probabilities"  # float32 [batch, n, vocab_size]: those of the logits

ATTENTION_MASK = "attention_mask"  # int64 [batch, sequence]: 1 for a token, 0 for padding, which stands on the right
TOKEN_TYPE_IDS = "token_type_ids"  # int64 [batch, sequence]
LAST_HIDDEN_STATE = "last_hidden_state"  # float32 [batch, sequence, hidden_size]
POOLER_OUTPUT = "pooler_output"  # float32 [batch, hidden_size]
SENTENCE_EMBEDDING = "sentence_embedding"  # float32 [batch, dimensions]

ENCODER_HIDDEN_STATES = "encoder_hidden_states"  # float32 [batch, source, hidden_size]
ENCODER_ATTENTION_MASK = "encoder_attention_mask"  # int64 [sources, source]: 1 for a token, 0 for padding on the right

KINDS = ("key", "value")

INT8 = "int8"  # of a cache: a whole number times a scale, which is in the program, of the head's channel

_LORA_A, _LORA_B = "lora_A", "lora_B"

# What a cache may be stored in.
_ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2, INT8: 1}

# Of a layer's cache, and of the number of layers: far above any model's, and a manifest cannot make a reader allocate more.
_LARGEST_SIZE = 2**20


def past(layer: int, kind: str) -> str:
    """Name of a layer's cache input, [batch, num_key_value_heads, max_length or window, head_dim]; a latent layer has but a key."""
    return f"past_key_values.{layer}.{kind}"


def present(layer: int, kind: str) -> str:
    """Name of a layer's cache output, bound to the same buffer as its input."""
    return f"present.{layer}.{kind}"


def cross(layer: int, kind: str) -> str:
    """Name of what a decoder layer attends to in the source, [sources, num_key_value_heads, source, head_dim].

    An output of the encoder, computed once, and an input of the decoder.
    """
    return f"cross_key_values.{layer}.{kind}"


def lora_a(projection: str) -> str:
    """Name of the first factor of what an adapter adds to a projection, [in_features, rank]; the rank may be 0."""
    return f"{projection}.{_LORA_A}"


def lora_b(projection: str) -> str:
    """Name of the second one, [rank, out_features]; the adapter's scale is in it."""
    return f"{projection}.{_LORA_B}"


def adapted_projections(names: Iterable[str]) -> list[str]:
    """The projections that adapters may change, of a program that takes inputs of these names."""
    return [name.removesuffix(f".{_LORA_A}") for name in names if name.endswith(f".{_LORA_A}")]


@dataclass(frozen=True)
class Port:
    """One graph input or output: element type as NumPy spells it, shape with symbolic dimensions as text."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class LayerCache:
    """What a layer keeps of every token.

    Attributes:
        num_key_value_heads, head_dim: of a key, and of a value.
        window: how many positions a query sees, its own among them; only the last ones are kept. None keeps all.
        latent: one buffer serves as keys and as values (multi-head latent attention).
    """

    num_key_value_heads: int
    head_dim: int
    window: int | None = None
    latent: bool = False

    @property
    def buffers(self) -> tuple[str, ...]:
        """The kinds that have a buffer of their own."""
        return KINDS[:1] if self.latent else KINDS

    @property
    def values_per_token(self) -> int:
        """Numbers one token takes, in all buffers."""
        return len(self.buffers) * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True)
class CacheGeometry:
    """The KV cache, layer by layer; `dtype` as NumPy spells it, which need not be that of activations.

    Attributes:
        short_context: keys of sequences of more tokens than this are others from the first one on (LongRoPE), so a cache that
            outgrows it has to be filled anew; None where there is no such length.
    """

    layers: tuple[LayerCache, ...]
    dtype: str = "float32"
    short_context: int | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes one more token takes over all layers, however long the sequence is: layers with a window are not counted."""
        return self._itemsize * sum(layer.values_per_token for layer in self.layers if layer.window is None)

    @property
    def window_bytes(self) -> int:
        """Bytes of what all layers with a window keep of a sequence that is longer than it."""
        return self._itemsize * sum(layer.values_per_token * (layer.window or 0) for layer in self.layers)

    def without_windows(self) -> CacheGeometry:
        """The same where every layer keeps all positions, and a window only hides them."""
        return replace(self, layers=tuple(replace(layer, window=None) for layer in self.layers))

    def facts(self) -> dict[str, int]:
        """What it costs, as `edgelm inspect` puts it."""
        windows = {"cache_bytes_of_windows": self.window_bytes} if self.window_bytes else {}
        return {"cache_bytes_per_1000_tokens": 1000 * self.bytes_per_token, **windows}

    @property
    def _itemsize(self) -> int:
        return _ITEMSIZES[self.dtype]

    def as_manifest(self) -> dict[str, Any]:
        """The manifest's entry: neighbours that are alike are one entry with their `count`, and false and null are left out."""
        groups = [(layer, len(list(group))) for layer, group in groupby(self.layers)]
        layers = [
            {"count": count} | {key: value for key, value in vars(layer).items() if value} for layer, count in groups
        ]
        short = {} if self.short_context is None else {"short_context": self.short_context}
        return {"dtype": self.dtype, "layers": layers, **short}

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> CacheGeometry:
        """What `as_manifest` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if values["dtype"] not in _ITEMSIZES:
            raise ValueError(f"unknown dtype {values['dtype']!r}")
        layers: list[LayerCache] = []
        for entry in values["layers"]:
            count, layer = entry["count"], LayerCache(**{key: value for key, value in entry.items() if key != "count"})
            sizes = (count, layer.num_key_value_heads, layer.head_dim, 1 if layer.window is None else layer.window)
            if not all(type(size) is int and 0 < size < _LARGEST_SIZE for size in sizes):
                raise ValueError(f"sizes must be whole numbers from 1, in {entry}")
            if type(layer.latent) is not bool:
                raise ValueError(f"latent must be true or false, in {entry}")
            layers += [layer] * count
        if not layers:
            raise ValueError("it has no layers")
        short = values.get("short_context")
        if short is not None and not (type(short) is int and short > 0):
            raise ValueError(f"short_context must be a whole number from 1, not {short!r}")
        return cls(tuple(layers), values["dtype"], short)


def decoder_inputs(cache: CacheGeometry) -> list[Port]:
    """Inputs of a decoder program, in graph order."""
    ports = [
        Port(INPUT_IDS, "int64", ("batch", "sequence")),
        Port(SEQLENS_K, "int32", ("batch",)),
        Port(TOTAL_SEQUENCE_LENGTH, "int32", ()),
        Port(LOGITS_INDEX, "int64", ("batch", "n")),
    ]
    ports += [] if cache.short_context is None else [Port(LONG_CONTEXT, "int64", ("batch",))]
    buffers = [(i, kind) for i, layer in enumerate(cache.layers) for kind in layer.buffers]
    return ports + [cache_port(past(i, kind), cache, i) for i, kind in buffers]


def logits_port(vocab_size: int) -> Port:
    """The logits a decoder program puts out."""
    return Port(LOGITS, "float32", ("batch", "n", vocab_size))


def log_probabilities_port(vocab_size: int) -> Port:
    """What beam search sums up; the program of an encoder-decoder puts it out, for that is how it is searched as a rule."""
    return Port(LOG_PROBABILITIES, "float32", ("batch", "n", vocab_size))


def cache_port(name: str, cache: CacheGeometry, i: int) -> Port:
    """A cache buffer of layer `i`, as input or output."""
    layer = cache.layers[i]
    length = "max_length" if layer.window is None else f"window_{layer.window}"
    return Port(name, cache.dtype, ("batch", layer.num_key_value_heads, length, layer.head_dim))


def adapter_ports(projection: str, in_features: int, out_features: int, dtype: str) -> tuple[Port, Port]:
    """What a projection takes from an adapter: x @ lora_A @ lora_B is added to its output. Each has a rank of its own."""
    rank = f"{projection}.rank"
    a, b = Port(lora_a(projection), dtype, (in_features, rank)), Port(lora_b(projection), dtype, (rank, out_features))
    return a, b


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
    return [
        Port(cross(i, kind), cache.dtype, ("sources", layer.num_key_value_heads, "source", layer.head_dim))
        for i, layer in enumerate(cache.layers)
        for kind in KINDS
    ]


def source_mask_port() -> Port:
    """Which positions of the sources are tokens. Rows of the decoder belong to them in turn, equally many to each."""
    return Port(ENCODER_ATTENTION_MASK, "int64", ("sources", "source"))


def source_port(hidden_size: int) -> Port:
    """The encoder's last hidden states."""
    return Port(ENCODER_HIDDEN_STATES, "float32", ("sources", "source", hidden_size))
