"""ModelConfig: every fact about a model that a graph needs, in Hugging Face's spelling. Complete: no field is optional by accident."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgelm.signature import CacheGeometry


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base, how frequencies are scaled, and the scaling's own numbers."""

    rope_theta: float
    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_position_embeddings: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """Facts of one decoder, checked and complete; only `read_config` makes one."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    hidden_act: str
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]  # one entry a layer; None attends to everything
    notes: tuple[str, ...] = field(default=(), compare=False)  # what the user should hear about the source's config

    def cache_geometry(self, dtype: str) -> CacheGeometry:
        """The KV cache of a program whose activations have `dtype`."""
        return CacheGeometry(self.num_hidden_layers, self.num_key_value_heads, self.head_dim, dtype)

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim
