"""Encoder-decoders of transformers, major version 4 or 5: a config in, a model with random weights and its answers out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoConfig

from tests.architectures.encoding import Array, Batch
from tests.architectures.random_configs import Config
from tests.architectures.running import Logits
from tests.parity.encoder_reference import parameters
from tests.parity.reference import READS_ROPE_PARAMETERS, quiet

SINCE_5 = READS_ROPE_PARAMETERS

# An end token's vectors are longer, so that texts end now and then.
END = 1.4


def is_known(config: Config) -> bool:
    """Whether this version of transformers reads all of a config's keys as it stands there.

    Version 5 writes its own number into T5's files, where their tied heads no longer mean what they meant to version 4.
    Version 4 saves a Marian with two vocabularies under shapes that contradict its own config.
    """
    if "decoder_vocab_size" in config and not SINCE_5:
        return False
    written_by_5 = "transformers_version" in config
    if config["model_type"] == "mt5" and SINCE_5 and not written_by_5:
        return config.get("tie_word_embeddings") is not True
    return SINCE_5 or not written_by_5


def has_own_head(config: Config) -> bool:
    """Whether the head is no token table."""
    if "transformers_version" in config:
        return not config.get("scale_decoder_outputs", False)
    return not config.get("tie_word_embeddings", config["model_type"] != "mt5")


def random_seq2seq(config: Config, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """The class that the config names, with weights that fit `dtype` and keep every part of it from being trivial."""
    kind = getattr(transformers, config["architectures"][0])
    with quiet(), torch.no_grad():
        model = kind._from_config(AutoConfig.for_model(**config), attn_implementation="eager", dtype=torch.float32)
        if has_own_head(config) and model.lm_head.weight is model.get_input_embeddings().weight:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        for key, values in drawn(model):
            rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
            new = torch.from_numpy(_draw(rng, key, values, model.config).astype(np.float32))
            values.copy_(new.to(dtype).float())
    return model.eval()


def drawn(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that is not the same in all models of its kind, once, with its name."""
    fixed = {
        id(module.weight)
        for module in model.modules()
        if "Sinusoidal" in type(module).__name__ and hasattr(module, "weight")
    }
    for key, parameter in parameters(model).items():
        if id(parameter) not in fixed:
            yield key, parameter
    if hasattr(model, "final_logits_bias"):
        yield "final_logits_bias", model.final_logits_bias


def encoder_answer(model: Any, batch: Batch) -> Array:
    """The encoder's last hidden states, [sources, source, hidden_size]."""
    with torch.inference_mode():
        found = model.get_encoder()(**_sources(batch))
    return found.last_hidden_state.numpy()


def forced_answer(model: Any, batch: Batch, targets: NDArray[np.int64]) -> Logits:
    """Logits after every token of given targets in one pass without a cache, [sources, tokens, vocab_size]."""
    with torch.inference_mode():
        output = model(**_sources(batch), decoder_input_ids=torch.from_numpy(targets), use_cache=False)
    return output.logits.numpy()


@dataclass(frozen=True)
class Found:
    """One sequence that a search found: new tokens without the end token, and with beams a score."""

    tokens: list[int]
    score: float | None


def searched(model: Any, batch: Batch, **options: Any) -> list[list[Found]]:
    """What `generate` finds for each source, with the checkpoint's own settings where no others are given."""
    if getattr(model.config, "num_decoder_layers", 0) > model.config.num_hidden_layers:
        options["use_cache"] = False  # of T5 it makes one for as many layers as the encoder has
    with torch.inference_mode(), quiet():
        made = model.generate(
            **_sources(batch), do_sample=False, output_scores=True, return_dict_in_generate=True, **options
        )
    end = model.generation_config.eos_token_id
    tokens = [row[: row.index(end)] if end in row else row for row in made.sequences[:, 1:].tolist()]
    scores = getattr(made, "sequences_scores", None)
    listed = [None] * len(tokens) if scores is None else scores.tolist()
    found, each = [Found(*one) for one in zip(tokens, listed, strict=True)], len(tokens) // len(batch.ids)
    return [found[i : i + each] for i in range(0, len(found), each)]


def _sources(batch: Batch) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.from_numpy(batch.ids), "attention_mask": torch.from_numpy(batch.mask)}


def _draw(rng: np.random.Generator, name: str, values: torch.Tensor, config: Any) -> NDArray[np.float64]:
    """Activations near 1, attention far from uniform, norms and biases that are missed when they are left out."""
    shape = tuple(values.shape)
    if "norm" in name:
        return rng.uniform(0.5, 1.5, shape) if name.endswith("weight") else rng.normal(0, 0.3, shape)
    if name == "final_logits_bias" or len(shape) < 2:
        return rng.normal(0, 0.3, shape)
    if "relative_attention_bias" in name:
        return rng.normal(0, 1.5, shape)
    if any(part in name for part in ("shared", "embed_tokens", "lm_head")):
        # What T5 scales down before its tied head is as large as its own initialisation has it.
        scaled = (
            getattr(config, "scale_decoder_outputs", config.model_type in ("t5", "mt5", "umt5"))
            and config.tie_word_embeddings
        )
        table = rng.normal(0, 2 if scaled else 2 / np.sqrt(shape[-1]), shape)
        table[config.eos_token_id] *= END
        return table
    if "embed_positions" in name:
        return rng.normal(0, 2 / np.sqrt(shape[-1]), shape)
    head = getattr(config, "d_kv", 1) if name.endswith(".q.weight") else 1  # T5 does not scale its scores
    return rng.normal(0, 1.5 / np.sqrt(shape[-1] * head), shape)
