"""ModelConfig and its kinds: every fact about a model that a graph needs, in Hugging Face's spelling. No field is optional by accident."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgelm.signature import CacheGeometry, LayerCache


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base, how frequencies are scaled, and the scaling's own numbers.

    Attributes:
        rotary_dim: leading dimensions of each head that turn; 0 means all.
        interleaved: the dimensions that turn together are neighbours, not half of rotary_dim apart.
        attention_factor: of cosines and sines.
        proportion: of the pairs of a head that turn, the others standing still (rope type "proportional").
        short_factor: divisors of the frequencies of contexts up to original_max_position_embeddings (rope type "longrope").
        long_factor: the same for longer contexts.
    """

    rope_theta: float
    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_position_embeddings: int = 0
    rotary_dim: int = 0
    interleaved: bool = False
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    proportion: float = 1.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def short_context(self, context_length: int) -> int | None:
        """The length beyond which other frequencies apply, where a context of that length may get there."""
        length = self.original_max_position_embeddings
        return length if self.rope_type == "longrope" and length < context_length else None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Facts that every transformer has, checked and complete; only the readers of read_config make one."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    context_length: int
    hidden_act: str
    pad_token_id: int
    tie_word_embeddings: bool
    qkv_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    notes: tuple[str, ...] = field(default=(), compare=False)  # what the user should hear about the source's config

    @property
    def heads(self) -> str:
        """What attends to what, in words."""
        return f"{self.num_attention_heads} query heads, {self.num_key_value_heads} key-value heads of {self.head_dim}"

    @property
    def attention_sizes(self) -> dict[str, int]:
        """Widths of the projections that attention reads, in their usual order."""
        return {"q_proj": self.query_size, "k_proj": self.key_value_size, "v_proj": self.key_value_size}

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """A decoder, which may serve as an encoder too."""

    norm_eps: float
    ropes: tuple[RopeConfig | None, ...]  # one entry a layer; None where positions are not rotary
    sliding_windows: tuple[int | None, ...]  # one entry a layer, below context_length; None attends to everything
    qk_norm: bool
    clip_qkv: float | None  # queries, keys and values stay within it
    causal: bool
    pads_by_id: bool  # the config names a padding token, so a classifier reads the last token that is not one
    attention_scale: float | None  # of the scores; None means 1 / sqrt(head_dim)
    attention_softcap: float | None  # scores are cap * tanh(score / cap)
    embedding_scale: float
    residual_scale: float  # of what attention and MLP add to the hidden states
    logits_scale: float
    logits_softcap: float | None

    def cache_geometry(self, dtype: str) -> CacheGeometry:
        """The KV cache of a program whose activations have `dtype`."""
        layers = (LayerCache(self.num_key_value_heads, self.head_dim, window) for window in self.sliding_windows)
        return CacheGeometry(tuple(layers), dtype, self.short_context)

    @property
    def short_context(self) -> int | None:
        """The length beyond which positions are others from the first token on, where a context may get so long."""
        lengths = (rope.short_context(self.context_length) for rope in self.ropes if rope is not None)
        return next((length for length in lengths if length is not None), None)


@dataclass(frozen=True, kw_only=True)
class Ministral3Config(DecoderConfig):
    """A decoder whose queries grow with their positions."""

    llama_4_scaling_beta: float  # how much
    original_max_position_embeddings: int  # after so many positions, and as many more again


@dataclass(frozen=True)
class Alibi:
    """A bias on attention scores that falls with the distance, in each head by another slope (Press et al. 2021, arXiv:2108.12409).

    Attributes:
        bias_max: the flattest slope is 2^-bias_max.
        scale: of the bias.
        rounded: slopes, positions and their products have the precision of bfloat16.
    """

    bias_max: float = 8.0
    scale: float = 1.0
    rounded: bool = False


@dataclass(frozen=True, kw_only=True)
class GptConfig(DecoderConfig):
    """A decoder of the GPT lineage: LayerNorms; positions that are learned, rotary, or a bias on the scores."""

    layer: str  # where norms and sums stand, a name of blocks/residual.py
    norm_parts: tuple[str, ...]  # what norms hold, of "weight" and "bias"
    norm_offset: float  # added to the weights of norms
    embedding_norm: bool
    final_norm: bool
    embedding_size: int  # width of token table and head; projections follow where it is not hidden_size
    max_position_embeddings: int  # positions of the learned table; 0 where there is none
    position_offset: int  # rows of the table before position 0
    alibi: Alibi | None
    lm_head_bias: bool


@dataclass(frozen=True, kw_only=True)
class EuroBertConfig(DecoderConfig):
    """A Llama-like model that sees its whole text."""

    classifier_pooling: str


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """A BERT-like encoder."""

    layer_norm_eps: float
    embedding_size: int  # width of the embedding tables; a projection follows where it is not hidden_size
    max_position_embeddings: int  # rows of the table of learned positions; 0 where there is none
    type_vocab_size: int  # rows of the table of token types; 0 where there is none
    relative_attention_num_buckets: int  # of a T5-like relative position bias; 0 where there is none

    @property
    def causal(self) -> bool:
        """Whether a token sees only what stands before it."""
        return False


@dataclass(frozen=True, kw_only=True)
class AlbertConfig(EncoderConfig):
    """An encoder whose layers share weights: consecutive layers form a group, and each runs the group's inner layers."""

    num_hidden_groups: int
    inner_group_num: int


@dataclass(frozen=True, kw_only=True)
class DebertaConfig(EncoderConfig):
    """An encoder whose attention tells content from position."""

    relative_attention: bool  # whether the checkpoint holds a table for distances, used or not
    position_terms: tuple[
        str, ...
    ]  # what positions add to the scores: "c2p" (query content, key position), "p2c"; or nothing
    attention_scale: float  # of all scores; it counts the terms that the config names, used or not
    max_relative_positions: int
    position_buckets: int  # distances share this many rows on each side, by their logarithm; 0 where each has its own
    share_att_key: bool  # whether positions go through the projections of content
    pos_key_bias: bool
    norm_rel_ebd: bool
    pooler_hidden_act: str
    legacy: bool  # which head for masks transformers would take
    conv_kernel_size: int  # of the convolution beside the first layer; 0 where there is none
    conv_groups: int
    conv_act: str


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(EncoderConfig):
    """A pre-norm encoder with rotary positions whose layers attend to everything or to what is near."""

    norm_bias: bool
    decoder_bias: bool
    classifier_bias: bool
    classifier_pooling: str
    classifier_activation: str
    global_rope: RopeConfig
    local_rope: RopeConfig
    reaches: tuple[int | None, ...]  # one entry a layer: tokens seen on each side; None attends to everything


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(ModelConfig):
    """An encoder-decoder; the fields of ModelConfig are those of its encoder."""

    decoder: ModelConfig
    layer_norm_eps: float
    max_position_embeddings: int  # positions of each side's table; 0 where there are none
    position_offset: int  # rows of the tables before position 0
    embedding_scale: float
    pre_norm: bool  # norms stand before attention and MLP, not after the sums
    embedding_norm: bool
    final_norm: bool
    logits_bias: bool
    logits_scale: float  # of hidden states before the head
    relative_attention_num_buckets: int  # of T5's relative position bias; 0 where there is none
    relative_attention_max_distance: int

    def cache_geometry(self, dtype: str) -> CacheGeometry:
        """The decoder's own KV cache; the encoder's keys and values come beside it."""
        d = self.decoder
        return CacheGeometry((LayerCache(d.num_key_value_heads, d.head_dim),) * d.num_hidden_layers, dtype)


@dataclass(frozen=True, kw_only=True)
class T5Config(Seq2SeqConfig):
    """An encoder-decoder with relative positions."""

    gated: bool  # feed-forward layers are gated
    bias_in_every_layer: bool  # each layer has a table of position biases, not the first one for all


@dataclass(frozen=True, kw_only=True)
class BartConfig(Seq2SeqConfig):
    """An encoder-decoder with absolute positions."""

    positions: str  # "learned", "sinusoidal", or "counted": sinusoidal, and padding takes none
    norms_tokens_first: bool  # the decoder norms embeddings before it adds positions, not after
    shared_embeddings: bool  # encoder and decoder read the same table


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """A mixture of experts: how a token is routed, and what its experts are like.

    Attributes:
        scoring_func: what makes scores of the router's logits: "softmax", "sigmoid", or "sparsemixer", Phi's pair of experts
            that each count what they do among those near them.
        norm_topk_prob: the weights of the chosen experts are divided by their sum.
        routed_scaling_factor: of the routed experts' sum.
        n_group: groups of experts, of which the best `topk_group` may be chosen from.
        group_score: what a group is worth: "max", its best expert, or "top2", the sum of its best two.
        score_correction: a bias is added to the scores that choose, not to those that weigh.
        router_jitter_noise: how near is near, in a sparse mixer.
        swiglu_alpha: experts compute gate * sigmoid(alpha * gate) * (up + beta), with gate and up clamped to `swiglu_limit`.
        shared_intermediate_size: of the expert that every token goes to; 0 where there is none.
        shared_gate: that expert's output is multiplied by a gate of one sigmoid.
        sparse_layers: one entry a layer: whether it has experts; the others have an MLP.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    scoring_func: str = "softmax"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    group_score: str = "max"
    score_correction: bool = False
    router_bias: bool = False
    router_jitter_noise: float = 0.0
    expert_bias: bool = False
    swiglu_alpha: float = 1.0
    swiglu_beta: float = 0.0
    swiglu_limit: float | None = None
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    sparse_layers: tuple[bool, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(DecoderConfig):
    """A decoder with a mixture of experts in its layers, or in some."""

    moe: MoeConfig
    lm_head_bias: bool
    num_nextn_predict_layers: (
        int  # layers behind the last that predict tokens after the next; a checkpoint may hold them
    )


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention: keys and values of all heads come from one narrow latent a token, which is what is kept.

    Attributes:
        q_lora_rank: width of the queries' own latent; None where they come from the hidden states.
        kv_lora_rank: width of the latent of keys and values.
        qk_nope_head_dim: dimensions of each query and key without positions.
        qk_rope_head_dim: dimensions with rotary positions, of which all heads share one key.
        v_head_dim: of each value.
        norm_eps: of the norms of latents.
        scale: of the scores.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    norm_eps: float
    scale: float

    @property
    def qk_head_dim(self) -> int:
        """Width of a query."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def kept_dim(self) -> int:
        """What the cache keeps of a token: its latent, and the key that has its position."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, kw_only=True)
class DeepseekConfig(MixtureConfig):
    """A mixture of experts with latent attention. Heads attend to one and the same latent, so `num_key_value_heads` is 1."""

    latent: LatentConfig

    @property
    def heads(self) -> str:
        """What attends to what, in words."""
        m = self.latent
        return f"{self.num_attention_heads} query heads on one latent of {m.kv_lora_rank} and a rotary key of {m.qk_rope_head_dim}"

    def cache_geometry(self, dtype: str) -> CacheGeometry:
        """One buffer a layer, which serves as keys and as values."""
        return CacheGeometry((LayerCache(1, self.latent.kept_dim, latent=True),) * self.num_hidden_layers, dtype)
