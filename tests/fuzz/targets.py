"""Every parser of files that others wrote: valid files, which of them to damage, and what users do with them.

A new parser gets an entry in `TARGETS`, a new kind of quantized checkpoint one in `QUANTIZED`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer as Backend

from edgelm.chat import ChatTemplate
from edgelm.cli.facts import package_facts
from edgelm.errors import InvalidOption
from edgelm.generation_defaults import read_generation_config, unsupported_keys
from edgelm.manifest import MANIFEST, PROBES, sealed
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm.signature import CacheGeometry, LayerCache
from edgelm.tokenizer import Tokenizer
from edgelm_export.assemble import plan
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.adapter import open_adapter
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.checkpoint.gguf import open_gguf
from edgelm_export.checkpoint.slow_tokenizer import convert
from edgelm_export.model import understand
from edgelm_export.quantize.recipe import preset
from edgelm_export.quantize.recipe_file import recipe_from_file
from tests.architectures.random_checkpoints import random_tensors, tiny_tokenizer
from tests.architectures.random_configs import base_config
from tests.export.adapters import adapter_config, factors
from tests.export.builders import mixed_gguf, safetensors_bytes, safetensors_header
from tests.export.quantized_checkpoints import FP8
from tests.export.test_slow_tokenizer_fuzz import FILES as SLOW
from tests.fuzz.mutations import DAMAGES, Damage, damaged_bytes, damaged_text
from tests.runtime.test_chat import CHATML, LLAMA3, MISTRAL, QWEN3

Files = Mapping[str, bytes]
Use = Callable[[Path], Any]


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        files: valid files of one folder.
        use: opens what is in the folder, as far as users would get.
        damaged: the files that are damaged, one at a time.
        damages: how, by suffix, where it is not as usual.
    """

    files: Files
    use: Use
    damaged: tuple[str, ...]
    damages: Mapping[str, Damage] = field(default_factory=dict[str, Damage])

    def damage_of(self, file: str) -> Damage:
        """How a file is damaged."""
        suffix = Path(file).suffix
        return self.damages.get(suffix) or DAMAGES.get(suffix, damaged_bytes)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _safetensors(tensors: Mapping[str, Any]) -> bytes:
    data = b"".join(np.ascontiguousarray(values).tobytes() for values in tensors.values())
    return safetensors_bytes(safetensors_header(tensors, {"format": "pt"}), data)


def _read(checkpoint: Checkpoint) -> None:
    for tensor in checkpoint.tensors.values():
        assert tensor.read().shape == tensor.shape
    checkpoint.tokenizer_files()


# Checkpoints: weights, their index, config and settings.

_VALUES = np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)
_TENSORS = {
    "a": _VALUES,
    "b": _VALUES.astype(ml_dtypes.bfloat16),
    "c": np.arange(4),
    "d": _VALUES[0].astype(np.float16),
}
_CONFIG = base_config("llama", num_hidden_layers=1, hidden_size=32, vocab_size=99, intermediate_size=32)
_WEIGHTS = _safetensors(random_tensors(_CONFIG, 0))
_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _planned(folder: Path) -> None:
    model = understand(open_checkpoint(folder))
    plan(model, preset("int4", model.config.num_hidden_layers), PROVIDERS["cpu"])


def _module(kind: str, path: str) -> dict[str, Any]:
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}


# Quantized checkpoints: settings and tensors by method.
_CODES = (_VALUES / 4).astype(FP8)
_WEIGHT_ARGUMENTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
QUANTIZED: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fp8": (
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [4, 8], "activation_scheme": "dynamic"},
        {"a.weight": _CODES, "a.weight_scale_inv": np.ones((2, 4), np.float32)},
    ),
    "compressed-tensors": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": _WEIGHT_ARGUMENTS}},
        },
        {"a.weight": _CODES, "a.weight_scale": np.ones((6, 1), np.float32)},
    ),
    "mxfp4": (
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        {"a_blocks": np.ones((2, 3, 2, 16), np.uint8), "a_scales": np.full((2, 3, 2), 127, np.uint8)},
    ),
}


def _quantized(settings: dict[str, Any], tensors: dict[str, Any]) -> Target:
    files = {"config.json": _json({"quantization_config": settings}), "model.safetensors": _safetensors(tensors)}
    return Target(
        {**files, "tokenizer.json": b"{}"}, lambda folder: _read(open_checkpoint(folder)), ("config.json", *files)
    )


# Adapters and packages.

_Q = "model.layers.0.self_attn.q_proj"
_ADAPTER = adapter_config(rank_pattern={"v_proj": 4}, alpha_pattern={"q_proj": 8}, eva_config=None)


def _adapter(folder: Path) -> None:
    for pair in open_adapter(folder).pairs.values():
        assert pair.b.read().shape[1] == pair.a.read().shape[0]


def _package() -> dict[str, bytes]:
    graph = b"graph"
    values = {
        "family": "decoder",
        "task": "text-generation",
        "architecture": "llama",
        "programs": {"decoder": "decoder.onnx"},
        "context_length": 64,
        "vocab_size": 99,
        "parameters": 100,
        "device": "cpu",
        "precision": "int4",
        "recipe": {"layers.*": "int4-b32"},
        "source": {"id": "x", "files": {"config.json": "00"}},
        "generation": {"eos_token_id": 2, "temperature": 0.7, "do_sample": True},
        "quality": {"decode": {"mean_kld": 0.1}},
        "versions": {"edgelm": "0.1.0"},
        "encoder": None,
        "exporter": "edgelm",
        "format_version": 1,
        "notes": ["a note"],
    }
    values["cache"] = CacheGeometry((LayerCache(1, 16), LayerCache(1, 16, 8)), short_context=32).as_manifest()
    digest = "dd18ea3ea7c0ba9ee7ba9fc3ad2ddb1c5dd9ed0c86f8c3b8d8e2b4d2ac4b6f4b"
    names = ("decoder.onnx", PROBES, "adapter-x.data")
    values["files"] = {name: {"sha256": digest, "size": len(graph)} for name in names}
    values["probes"] = {"probe_0": {"operator": "MoE", "tolerance": 0.1}}
    values["adapters"] = {"x": {"file": "adapter-x.data", "id": "x", "source": {}, "ranks": {"layers.0.o_proj": 2}}}
    return {MANIFEST: _json(values), **dict.fromkeys(names, graph)}


def _opened(folder: Path) -> None:
    """With the digest that belongs to a manifest, damaged or not, since one that does not is refused before all else."""
    manifest = folder / MANIFEST
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(manifest.read_bytes())
        if isinstance(values, dict):
            manifest.write_text(sealed(values), encoding="utf-8", newline="\n")
    package = Package.open(folder)
    package_facts(package)
    read_generation_config(package.manifest.generation)


# Tokenizers, templates, settings.

_TOKENIZER_CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "lstrip": False},
    "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
    "additional_special_tokens": ["<pad>"],
    "clean_up_tokenization_spaces": True,
    "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    "model_input_names": ["input_ids"],
    "truncation_side": "left",
}


def _tokenized(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("the other <s>one\u00e9\U0001f600")
    tokenizer.decode(ids)
    stream = tokenizer.stream()
    for token in ids:
        stream.push(token)
    ChatTemplate.from_folder(folder, tokenizer.special_tokens)


def _slow(model_type: str) -> Use:
    def use(folder: Path) -> None:
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        made = convert(folder, files, {"model_type": model_type})
        for content in made.values():
            Tokenizer(Backend.from_str(content.decode()), {}).encode("the \u2026\uff21 x")

    return use


_HOSTILE = (
    *(
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ [[0] * 9999] * 9999 }}",
        "{{ ''.__class__ }}",
    ),
    *(
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages",
        "}}",
        "{% endfor %}",
        "{% if ",
        " %}",
        "|tojson",
    ),
    *(
        "{% set ns = namespace(x=[]) %}",
        "{% set ns.x = [ns.x, ns.x] %}",
        "~ messages ~",
        "|join",
        "|list",
        "|string",
        " * 99999",
    ),
    *(
        "range(99999)",
        "|batch(9)|list",
        "|sort",
        "|unique|list",
        "|groupby('role')",
        "|map('upper')|list",
        "|sum",
        "loop(",
        "cycler(",
    ),
    *(
        "|select('equalto', 1)|list",
        "|replace('', 'x' * 999)",
        ".split('')",
        ".format(1)",
        "%99999d",
        "** 99999",
        "|wordwrap(1)",
        "|urlize",
    ),
    *(
        "|center(99999)",
        "|xmlattr",
        "|pprint",
        "|random",
        "|striptags",
        "|filesizeformat",
        "|truncate(9)",
        "joiner()",
        "|attr('x')",
        "|int",
    ),
    *(
        "|reverse",
        "|slice(99999)|list",
        "|dictsort",
        "|items|list",
        "[::-1]",
        "[:9**9]",
        "is divisibleby 0",
        " // 0",
        "% 0",
        ".encode()",
    ),
    *(
        "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
        ".translate({})",
        ".join(range(9))",
        "|indent(9999)",
        "\U0001f600",
    ),
)
_MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "Yes?"},
]


def _rendered(folder: Path) -> None:
    template = ChatTemplate.from_folder(folder, {"bos_token": "<s>", "eos_token": "</s>"})
    assert template is not None
    template.render(_MESSAGES[:1])
    with contextlib.suppress(InvalidOption):  # those that do not read tools say so
        template.render(_MESSAGES, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])


def _template(source: str) -> Target:
    return Target(
        {"chat_template.jinja": source.encode()},
        _rendered,
        ("chat_template.jinja",),
        {".jinja": damaged_text(_HOSTILE)},
    )


_GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "bad_words_ids": [[1, 2]],
    "suppress_tokens": [5],
    "forced_eos_token_id": 2,
    "max_length": 20,
    "stop_strings": ["x"],
    "early_stopping": "never",
    "no_repeat_ngram_size": 3,
    "transformers_version": "5",
}


def _generation(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    read_generation_config(checkpoint.generation_config, 1)
    unsupported_keys(checkpoint.generation_config)


_RECIPE = b'precision = "int4"\n\n[rules]\n"layers.*.down_proj" = "int8-b128"\nlm_head = "int4-b32-asym"\n"embed*" = "float16"\n'
_WORDS = (
    "int4-b32",
    "int8-b128",
    "float16",
    '"',
    "[",
    "]",
    "=",
    "\n",
    "rules",
    "precision",
    "int4-b99999999",
    "a.b.c = 1\n",
    "[[",
    "-",
    "'''",
)


_LLAMA = {"config.json": _json(_CONFIG | {"rope_scaling": _ROPE, "rope_theta": 1e4}), "model.safetensors": _WEIGHTS}
_INDEXED = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "x-1.safetensors": _safetensors({"a": _VALUES}),
    "x-2.safetensors": _safetensors({"b": _VALUES}),
    "model.safetensors.index.json": _json(
        {"metadata": {}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}
    ),
}
_SENTENCES = {
    "config.json": _json({}),
    "tokenizer.json": b"{}",
    "model.safetensors": _safetensors({"a": _VALUES}),
    "modules.json": _json(
        [_module("Transformer", ""), _module("Pooling", "1_Pooling"), _module("Normalize", "2_Normalize")]
    ),
    "sentence_bert_config.json": _json({"max_seq_length": 32, "do_lower_case": False}),
    "config_sentence_transformers.json": _json({"prompts": {"query": "q: "}, "default_prompt_name": "query"}),
    "1_Pooling/config.json": _json({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}),
}

TEMPLATES = {
    "chatml": _template(CHATML),
    "llama3": _template(LLAMA3),
    "qwen3": _template(QWEN3),
    "mistral": _template(MISTRAL),
}
TARGETS: Mapping[str, Target] = {
    "safetensors": Target(
        {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": _safetensors(_TENSORS)},
        lambda folder: _read(open_checkpoint(folder)),
        ("model.safetensors",),
    ),
    "index": Target(_INDEXED, lambda folder: _read(open_checkpoint(folder)), ("model.safetensors.index.json",)),
    "gguf": Target({"a.gguf": mixed_gguf(1)[0]}, lambda folder: _read(open_gguf(folder / "a.gguf")), ("a.gguf",)),
    "config": Target({**_LLAMA, "tokenizer.json": b"{}"}, _planned, ("config.json",)),
    "sentence-transformers": Target(
        _SENTENCES, lambda folder: open_checkpoint(folder), tuple(name for name in _SENTENCES if "oken" not in name)
    ),
    **{f"quantized-{name}": _quantized(*made) for name, made in QUANTIZED.items()},
    "adapter": Target(
        {"adapter_config.json": _json(_ADAPTER), "adapter_model.safetensors": _safetensors(factors(_Q, (8, 6)))},
        _adapter,
        ("adapter_config.json", "adapter_model.safetensors"),
    ),
    "manifest": Target(_package(), _opened, (MANIFEST,)),
    "recipe": Target(
        {"recipe.toml": _RECIPE},
        lambda folder: recipe_from_file(folder / "recipe.toml", 8),
        ("recipe.toml",),
        {".toml": damaged_text(_WORDS)},
    ),
    "recipe-json": Target(
        {"recipe.json": _json({"precision": "int4", "rules": {"lm_head": "int8-b128"}})},
        lambda folder: recipe_from_file(folder / "recipe.json", 8),
        ("recipe.json",),
    ),
    "generation-config": Target(
        {
            "config.json": b"{}",
            "generation_config.json": _json(_GENERATION),
            "model.safetensors": _safetensors({"a": _VALUES}),
        },
        _generation,
        ("generation_config.json",),
    ),
    "tokenizer": Target(
        {
            "tokenizer.json": tiny_tokenizer(110).encode(),
            "tokenizer_config.json": _json(_TOKENIZER_CONFIG),
            "special_tokens_map.json": b'{"unk_token": "<s>"}',
        },
        _tokenized,
        ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    ),
    **{
        f"slow-{name}": Target(SLOW[name], _slow(name), tuple(SLOW[name]))
        for name in ("bert", "t5", "qwen2", "llama", "marian")
    },
    **TEMPLATES,
}
