"""Hands out raw config values, checked one by one, and collects what is wrong with them for one error that lists everything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgelm.errors import UnsupportedConfig

# Keys that describe training, storage or Python classes and leave the forward pass alone.
_IRRELEVANT = frozenset(
    " ".join(
        (
            "architectures attention_dropout auto_map bos_token_id eos_token_id pad_token_id torch_dtype dtype use_cache initializer_range",
            "transformers_version pretraining_tp _name_or_path name_or_path model_type is_llama_config rope_interleaved id2label label2id",
            "output_attentions output_hidden_states return_dict max_window_layers embd_pdrop resid_pdrop hidden_dropout classifier_dropout",
            "attn_implementation _attn_implementation _attn_implementation_autoset chunk_size_feed_forward is_encoder_decoder problem_type",
            "ignore_keys_at_rope_validation transformers.js_config unsloth_fixed unsloth_version num_labels finetuning_task",
            "attention_probs_dropout_prob hidden_dropout_prob gradient_checkpointing initializer_cutoff_factor sentence_transformers",
            "sbert_ce_default_activation_function",
            "sep_token_id cls_token_id mask_token_id is_decoder add_cross_attention cross_attention_hidden_size torchscript",
            "forced_eos_token_id forced_bos_token_id decoder_start_token_id encoder_no_repeat_ngram_size no_repeat_ngram_size num_beams",
            "length_penalty early_stopping max_length min_length do_sample temperature top_k top_p repetition_penalty bad_words_ids",
            "num_return_sequences diversity_penalty num_beam_groups task_specific_params prefix remove_invalid_values",
            "suppress_tokens begin_suppress_tokens output_scores return_dict_in_generate typical_p exponential_decay_length_penalty",
            "tie_word_embeddings type_vocab_size output_past language directionality vocab_size_or_config_json_file model_name",
            "output_router_logits router_aux_loss_coef aux_loss_alpha seq_aux router_jitter_noise input_jitter_noise moe_norm_min",
            "summary_type summary_use_proj summary_activation summary_last_dropout summary_first_dropout",
        )
    ).split()
)


_MOST_LAYERS = 512  # twice what any model has


class ConfigReader:
    """One raw config on its way to a ModelConfig; `context_length` is the context the export is for, None for all of it."""

    def __init__(self, raw: Mapping[str, Any], context_length: int | None = None) -> None:
        self._raw = raw
        self._context_length = context_length
        self._read: set[str] = set()
        self._problems: list[str] = []
        self._unread_within: list[str] = []
        self._spelt: dict[str, str] = {}  # the usual name of a key -> how this config spells it

    def __contains__(self, key: str) -> bool:
        """Whether the key is there, if only as null; asking does not count as reading it."""
        return key in self._raw

    def names(self) -> list[str]:
        """The keys that are there; asking does not count as reading them."""
        return list(self._raw)

    @property
    def problems(self) -> list[str]:
        """What was noted so far."""
        return list(self._problems)

    def get(self, key: str) -> Any:
        """The raw value, None where there is none."""
        self._read.add(key)
        return self._raw.get(key)

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives a family's own spellings of keys their usual names; of two spellings of one key, the later in the config holds."""
        self._spelt |= {names[key]: key for key in self._raw if key in names}
        self._raw = {names.get(key, key): value for key, value in self._raw.items()}

    def assume(self, key: str, value: Any) -> None:
        """What a key that is missing or null stands for, where that follows from other keys."""
        if self._raw.get(key) is None:
            self._raw = {**self._raw, key: value}
            self._read.add(key)

    def problem(self, text: str) -> None:
        """Notes something that stands in the way."""
        if text not in self._problems:
            self._problems.append(text)

    def absorb(self, inner: ConfigReader, where: str) -> None:
        """Takes over what stands in the way, and what was not read, in an object within this one."""
        for text in inner.problems:
            self.problem(f"{where}: {text}")
        self._unread_within += [f"{where}.{key}" for key in inner.unread()]

    def size(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number."""
        return self._whole(key, default, least, 2**31 - 1, f"a whole number from {least}")

    def layers(self, key: str, default: int | None = None) -> int:
        """How many layers; each takes time and memory before its first tensor is looked for."""
        return self._whole(key, default, 1, _MOST_LAYERS, f"a whole number from 1 to {_MOST_LAYERS}")

    def number(self, key: str, default: float | None = None, source: Mapping[str, Any] | None = None) -> float:
        """A positive number, of this config or of an object within it."""
        value = self.get(key) if source is None else source.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            self._unexpected(key, value, "a positive number")
            return 1.0
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """A positive number, None where there is none."""
        return None if self.get(key) is None else self.number(key)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            self._unexpected(key, value, "true or false")
            return False
        return value

    def one_of(self, key: str, known: Mapping[str, Any], default: str | None = None) -> str:
        """One of the names that are known."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, str) or value not in known:
            self.problem(f"{self._name(key)} {value!r} is not supported (known: {', '.join(sorted(known))})")
            return next(iter(known))
        return value

    def require(self, key: str, *allowed: Any) -> None:
        """Reads a key that must be absent, null, or one of `allowed`."""
        value = self.get(key)
        if value is not None and value not in allowed:
            self.problem(f"{self._name(key)} {value!r} is not supported (only {', '.join(map(repr, allowed))})")

    def head_dim(self, hidden_size: int, heads: int) -> int:
        """As stated, or an equal share of the hidden size."""
        if self.get("head_dim") is None and hidden_size % heads:
            self.problem(
                f"hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}, and head_dim is not given"
            )
        return self.size("head_dim", max(1, hidden_size // heads))

    def context(self, limit: int) -> int:
        """The context asked for, within `limit`; all of it by default."""
        asked = self._context_length
        if asked is not None and not 1 <= asked <= limit:
            self.problem(f"context length {asked} is outside 1..{limit} (max_position_embeddings)")
        return asked or limit

    def endless_context(self, usual: int) -> int:
        """The context asked for, `usual` by default, for positions that have no end."""
        return self.context(max(usual, self._context_length or 0))

    def finish(self) -> None:
        """Called when all was read.

        Raises:
            UnsupportedConfig: keys missing, contradictory or unsupported, all listed at once.
        """
        if self._problems:
            problems = "; ".join(self._problems)
            raise UnsupportedConfig(
                f"the config of this {self._raw.get('model_type')} checkpoint cannot be exported: {problems}"
            )

    def unread(self) -> list[str]:
        """Keys that nothing asked for and that might matter."""
        unread = sorted(self._name(key) for key in self._raw if key not in self._read and key not in _IRRELEVANT)
        return unread + self._unread_within

    def _whole(self, key: str, default: int | None, least: int, most: int, expected: str) -> int:
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._unexpected(key, value, expected)
            return max(least, 1)
        return value

    def _name(self, key: str) -> str:
        """A key as the config spells it."""
        return self._spelt.get(key, key)

    def _unexpected(self, key: str, value: Any, expected: str) -> None:
        name = self._name(key)
        self.problem(f"{name} is missing" if value is None else f"{name} is {value!r}, expected {expected}")
