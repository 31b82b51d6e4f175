"""GGUF metadata in; tokenizer.json, tokenizer_config.json and chat_template.jinja out, ids as llama.cpp gives them.

Where llama.cpp and the model's own tokenizer.json differ (regex dialects, Unicode composition), the model's own is
followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.errors import UnsupportedConfig
from edgelm_export.checkpoint.gguf_tokenizer_models import KINDS, Parts
from edgelm_export.checkpoint.gguf_vocabulary import TokenType, Vocabulary, read_vocabulary, setting
from edgelm_export.checkpoint.tokenizer_parts import Step, Text, added_token, template, to_json, tokenizer_json

_NO_CONFIG = ("eot_token", "eom_token")  # names tokenizer_config.json does not know
# Texts llama.cpp takes for the end of a turn where the file names no such id (src/llama-vocab.cpp).
_END_TEXTS = (
    *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"),
    *("<EOT>", "[EOT]", "<|return|>", "<|call|>", "<end_of_utterance>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
)


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Rebuilds the tokenizer's files from metadata that includes the tokenizer.ggml.* arrays.

    Raises:
        UnsupportedConfig: an unknown kind of vocabulary or an unknown pre-tokenizer.
        CorruptFile: arrays of different lengths, ids outside the vocabulary, merges that cannot be.
    """
    vocabulary = read_vocabulary(metadata)
    kind = setting(metadata, "model", "")
    if kind not in KINDS:
        raise UnsupportedConfig(
            f"tokenizer.ggml.model {kind!r} is an unknown kind of vocabulary; known are {', '.join(KINDS)}. "
            "Export from the model's folder in hub layout, which brings its own tokenizer.json"
        )
    parts = KINDS[kind](metadata, vocabulary)
    special = _special_ids(vocabulary)
    tokenizer = {
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": _template(vocabulary, parts),
        "decoder": parts.decoder,
        "model": parts.model,
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": parts.first == "bos_token",
        "add_eos_token": parts.last == "eos_token",
    }
    # A name makes its token special, so one that points at an ordinary token (padding often does) is left out.
    config |= {
        name: vocabulary.tokens[i] for name, i in vocabulary.ids.items() if i in special and name not in _NO_CONFIG
    }
    tokens = tokenizer_json(tokenizer, _added_tokens(vocabulary, special))
    return {"tokenizer.json": tokens, **_config_files(metadata, config)}


def end_token_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Ids that end a generation: eos, end of turn, end of message; the file's eos first.

    Files of chat models often name one of them only, so control tokens that read like an end count too.

    Raises:
        CorruptFile: as `tokenizer_files`.
    """
    vocabulary = read_vocabulary(metadata)
    named = [vocabulary.ids[name] for name in ("eos_token", "eot_token", "eom_token") if name in vocabulary.ids]
    texts = {text: i for i in vocabulary.of_type(TokenType.CONTROL) if (text := vocabulary.tokens[i]) in _END_TEXTS}
    if "<|return|>" in texts and "<|call|>" in texts:  # gpt-oss ends every message, not only the last, with <|end|>
        texts.pop("<|end|>", None)
    return list(dict.fromkeys([*named, *sorted(texts.values())]))


def _special_ids(vocabulary: Vocabulary) -> set[int]:
    """Ids of tokens that are no text: control tokens, and the ends even where types say otherwise or are missing."""
    ends = ("bos_token", "eos_token", "eot_token", "eom_token")
    named = {i for name, i in vocabulary.ids.items() if name in ends or not vocabulary.typed}
    return named | set(vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN))


def _added_tokens(vocabulary: Vocabulary, special: set[int]) -> list[dict[str, Any]]:
    """Tokens matched as a whole in the text: special ones, which decoded text leaves out, and user-defined ones."""
    added = sorted(special | set(vocabulary.of_type(TokenType.USER_DEFINED)))
    return [added_token(i, vocabulary.tokens[i], special=i in special) for i in added]


def _template(vocabulary: Vocabulary, parts: Parts) -> dict[str, Any] | None:
    ids = {name: vocabulary.ids[name] for name in (parts.first, parts.last) if name}
    if not ids:
        return None
    tokens = {name: vocabulary.tokens[i] for name, i in ids.items()}

    def wrapped(text: Text, type_id: int, first: str | None = parts.first) -> list[Step]:
        steps = (tokens.get(first or ""), text, tokens.get(parts.last or ""))
        return [(step, type_id) for step in steps if step is not None]

    second = wrapped(Text.B, 1, None if parts.last == "sep_token" else parts.first)
    return template(wrapped(Text.A, 0), wrapped(Text.A, 0) + second, {tokens[name]: i for name, i in ids.items()})


def _config_files(metadata: Mapping[str, Any], config: dict[str, Any]) -> dict[str, bytes]:
    prefix = "tokenizer.chat_template"
    templates = {
        key[len(prefix) + 1 :]: text for key, text in metadata.items() if key == prefix or key.startswith(prefix + ".")
    }
    for name, text in templates.items():
        if not isinstance(text, str):
            raise UnsupportedConfig(f"{prefix} {name or 'default'} is no text; drop it from the file or convert again")
    if len(templates) > 1:  # one file holds one template; several go where transformers 4 keeps them
        config = config | {
            "chat_template": [{"name": name or "default", "template": text} for name, text in templates.items()]
        }
    files = {"tokenizer_config.json": to_json(config)}
    if list(templates) == [""]:
        files["chat_template.jinja"] = templates[""].encode()
    return files
