"""Raw keys of DeepSeek's models in, DeepseekConfig out."""

from __future__ import annotations

from edgelm_export.config import DeepseekConfig, LatentConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import HEAD_MULTIPLE, decoder_values
from edgelm_export.read_moe_config import SPELLINGS, read_moe
from edgelm_export.read_rope import rope_values, yarn_mscale

# DeepSeek's code and transformers norm latents with it, whatever rms_norm_eps says.
_LATENT_EPS = 1e-6

# Of training, or facts that follow from others: the keys of attention have as many heads as queries.
_UNUSED = (
    "num_key_value_heads",
    "qk_head_dim",
    "stated_head_dim",
    "aux_loss_alpha",
    "seq_aux",
    "ep_size",
    "n_group",
    "topk_group",
)

_FURTHER_LAYERS = (
    "num_nextn_predict_layers: {} layers that predict tokens beyond the next are left out; they only serve speculation"
)

# Heads turn by as many dimensions as have positions; transformers writes that down as head_dim too.
_SPELLINGS = SPELLINGS | {
    "head_dim": "stated_head_dim",
    "qk_rope_head_dim": "head_dim",
    "rope_interleave": "interleaved_rotary",
}


def read_deepseek_config(reader: ConfigReader) -> DeepseekConfig:
    """The config of a model with latent attention; problems are left with the reader."""
    reader.rename(_SPELLINGS)
    for key in _UNUSED:
        reader.get(key)
    values = decoder_values(reader)
    latent = _read_latent(reader, values["head_dim"])
    further = reader.size("num_nextn_predict_layers", 0, least=0)
    values |= {"num_key_value_heads": 1, "attention_scale": latent.scale}
    if values["qkv_bias"] and latent.q_lora_rank is None:
        reader.problem("attention_bias is supported with q_lora_rank only")
    notes = (_FURTHER_LAYERS.format(further),) if further else ()
    moe = read_moe(reader, values["num_hidden_layers"])
    if moe.scoring_func == "softmax":
        # DeepSeek's code for V2 would normalize instead of scaling, transformers ignores it, and no model sets it.
        reader.require("norm_topk_prob", False)
    return DeepseekConfig(
        **values, moe=moe, lm_head_bias=False, latent=latent, num_nextn_predict_layers=further, notes=notes
    )


def _read_latent(reader: ConfigReader, turning: int) -> LatentConfig:
    still = reader.size("qk_nope_head_dim")
    latent = LatentConfig(
        q_lora_rank=None if reader.get("q_lora_rank") is None else reader.size("q_lora_rank"),
        kv_lora_rank=reader.size("kv_lora_rank"),
        qk_nope_head_dim=still,
        qk_rope_head_dim=turning,
        v_head_dim=reader.size("v_head_dim"),
        norm_eps=_LATENT_EPS,
        scale=_scale(reader, still + turning),
    )
    if latent.kept_dim % HEAD_MULTIPLE:
        reader.problem(
            f"kv_lora_rank {latent.kv_lora_rank} and qk_rope_head_dim {turning} add up to no multiple of {HEAD_MULTIPLE}, which "
            "the fused attention of ONNX Runtime needs"
        )
    return latent


def _scale(reader: ConfigReader, width: int) -> float:
    """Of the scores: DeepSeek puts YaRN's sharpening here, `mscale_all_dim`, and only what is left of it on the rotary part."""
    scale, rope = width**-0.5, rope_values(reader)
    if rope.get("rope_type", rope.get("type")) != "yarn" or not rope.get("mscale_all_dim"):
        return scale
    numbers = (reader.number(key, source=rope) for key in ("factor", "mscale_all_dim"))
    return scale * yarn_mscale(*numbers) ** 2
