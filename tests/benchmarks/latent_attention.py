"""Latent attention as edgelm runs it against the expanded form, whose cache holds keys and values of all heads: same weights, in turn."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
from machine import machine
from results import say, write

from edgelm import signature
from edgelm.decode import Decoder
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm.signature import CacheGeometry, LayerCache
from edgelm_export.architectures import deepseek
from edgelm_export.blocks.cache import Step, cache_inputs, step_positions
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.kernels import group_query_attention, rotary_embedding
from edgelm_export.blocks.linear import linear, split
from edgelm_export.blocks.mlp import gated_mlp
from edgelm_export.blocks.norm import rms_norm
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.config import DeepseekConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.model import Model, understand
from edgelm_export.names import NameMap, name_map, per_layer
from edgelm_export.quantize.recipe import preset
from edgelm_export.write import write_programs
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 2048,
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "torch_dtype": "float32",
}
PROVIDER = PROVIDERS["cpu"]


@dataclass(frozen=True, kw_only=True)
class ExpandedConfig(DeepseekConfig):
    """The same model whose cache holds keys and values of all heads, values as wide as keys because the kernel wants that."""

    def cache_geometry(self, dtype: str) -> CacheGeometry:
        layer = LayerCache(self.num_attention_heads, self.latent.qk_head_dim)
        return CacheGeometry((layer,) * self.num_hidden_layers, dtype)


def expanded_names(c: DeepseekConfig) -> NameMap:
    """Those of the model, with the projection of latents in one piece."""
    return deepseek.hf_names(c) | name_map(per_layer("model.layers.{i}.", {"kv_b_proj": "self_attn.kv_b_proj"}))


def expanded_decoder(g: GraphBuilder, c: ExpandedConfig) -> None:
    """deepseek.decoder with the other attention."""
    step, x = cache_inputs(g, c, turned_by_kernel=False), decoder_input(g, c)
    positions = step_positions(g, step, g.input(signature.INPUT_IDS))
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = rms_norm(g, x, "attn_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, _expanded_attention(g, h, c, step, positions, i))
            h = rms_norm(g, x, "mlp_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, gated_mlp(g, h, c))
    decoder_output(g, rms_norm(g, x, "final_norm", c.hidden_size, c.norm_eps), c)


def _expanded_attention(
    g: GraphBuilder, x: ir.Value, c: ExpandedConfig, step: Step, positions: ir.Value, i: int
) -> ir.Value:
    m, heads, rotary = c.latent, c.num_attention_heads, step.rotaries[i]
    assert rotary is not None
    assert m.q_lora_rank is not None
    still, turning, value = m.qk_nope_head_dim, m.qk_rope_head_dim, m.v_head_dim
    by_head, together = (g.constant(np.array(shape, np.int64)) for shape in ([0, 0, heads, -1], [0, 0, -1]))
    sizes = {"q_a_proj": m.q_lora_rank, "kv_a_proj": m.kept_dim}
    joined = linear(g, x, sizes, c.hidden_size, group="qkv_proj")
    source, latent, k_rope = split(g, joined, (m.q_lora_rank, m.kv_lora_rank, turning))
    source = rms_norm(g, source, "q_a_norm", m.q_lora_rank, m.norm_eps)
    query = linear(g, source, {"q_b_proj": heads * m.qk_head_dim}, m.q_lora_rank)
    q_still, q_rope = split(g, g.op("Reshape", query, by_head), (still, turning))
    q_rope = rotary_embedding(g, g.op("Reshape", q_rope, together), rotary, positions, heads)
    query = g.op("Reshape", g.op("Concat", q_still, g.op("Reshape", q_rope, by_head), axis=-1), together)
    latent = rms_norm(g, latent, "kv_a_norm", m.kv_lora_rank, m.norm_eps)
    both = linear(g, latent, {"kv_b_proj": heads * (still + value)}, m.kv_lora_rank)
    k_still, values = split(g, g.op("Reshape", both, by_head), (still, value))
    k_rope = rotary_embedding(g, k_rope, rotary, positions, 1)
    k_rope = g.op("Tile", g.op("Unsqueeze", k_rope, g.constant(np.array([2]))), g.constant(np.array([1, 1, heads, 1])))
    key = g.op("Reshape", g.op("Concat", k_still, k_rope, axis=-1), together)
    padding = g.constant(np.array([0, 0, 0, 0, 0, 0, 0, m.qk_head_dim - value], np.int64))
    values = g.op("Reshape", g.op("Pad", values, padding), together)
    past = [g.input(signature.past(i, kind)) for kind in signature.KINDS]
    attended, *present = group_query_attention(g, (query, key, values), past, step, c, scale=c.attention_scale)
    for kind, one in zip(signature.KINDS, present, strict=True):
        g.output(signature.cache_port(signature.present(i, kind), step.cache, i), one)
    attended, _ = split(g, g.op("Reshape", attended, by_head), (value, m.qk_head_dim - value))
    attended = g.op("Reshape", attended, together)
    return linear(g, attended, {"o_proj": c.hidden_size}, heads * value)


def expanded(model: Model) -> Model:
    """The same checkpoint, to be exported in the expanded form."""
    c: DeepseekConfig = model.config
    config = ExpandedConfig(**{**vars(c), "num_key_value_heads": c.num_attention_heads})
    names = {"hf": expanded_names}
    return replace(
        model, config=config, architecture=replace(model.architecture, decoder=expanded_decoder, names=names)
    )


def load(model: Model, folder: Path, precision: str, threads: int) -> Decoder:
    """A program of the model, and a cache of its own."""
    c = model.config
    folder.mkdir()
    write_programs(model, preset(precision, c.num_hidden_layers), [PROVIDER], folder)
    program = Program(folder / "decoder.onnx", PROVIDER, threads)
    return Decoder(program, c.cache_geometry("float32"), c.vocab_size, batch=1, limit=c.context_length)


def measured(decoder: Decoder, tokens: list[int]) -> tuple[float, float]:
    """CPU and wall milliseconds a token, of one chunk or of as many steps; the cache is taken back."""
    before = decoder.cache.lengths[0]
    cpu, wall = time.process_time(), time.perf_counter()
    for token in tokens:
        decoder.step([token])
    figures = (time.process_time() - cpu) * 1e3 / len(tokens), (time.perf_counter() - wall) * 1e3 / len(tokens)
    decoder.cache.truncate(0, before)
    return figures


def prefilled(decoder: Decoder, ids: list[int]) -> tuple[float, float]:
    """CPU and wall milliseconds of a chunk of prefill; the cache is taken back."""
    before = decoder.cache.lengths[0]
    cpu, wall = time.process_time(), time.perf_counter()
    decoder.prefill(0, ids)
    figures = (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3
    decoder.cache.truncate(0, before)
    return figures


@click.command()
@click.option("--precision", default="int4", show_default=True)
@click.option("--layers", default=3, show_default=True)
@click.option("--heads", default=16, show_default=True)
@click.option("--context", default=4096, show_default=True, help="Positions before the measured ones.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=11, show_default=True, help="Pairs of runs, in turn.")
@click.option("--steps", default=8, show_default=True, help="Decode steps a run.")
@click.option("--output", type=click.Path(path_type=Path), help="Result file. [default: none is written]")
def main(
    precision: str, layers: int, heads: int, context: int, threads: int, rounds: int, steps: int, output: Path | None
) -> None:
    """Measure decode steps and a chunk of prefill in both forms."""
    config = {**CONFIG, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads}
    config["first_k_dense_replace"] = layers
    with tempfile.TemporaryDirectory() as scratch:
        source = write_checkpoint(Path(scratch) / "source", config, random_tensors(config, 0))
        model = understand(open_checkpoint(source))
        forms = {
            name: load(kind, Path(scratch) / name, precision, threads)
            for name, kind in (("absorbed", model), ("expanded", expanded(model)))
        }
        ids = np.random.default_rng(0).integers(3, config["vocab_size"], context + 512).tolist()
        chunks: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        first: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        decoded: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for name, decoder in forms.items():
            first[name].append(prefilled(decoder, ids[:512]))
            decoder.prefill(0, ids[:context])
        logits = {name: decoder.step([ids[context]])[0].copy() for name, decoder in forms.items()}
        for decoder in forms.values():
            decoder.cache.truncate(0, context)
        for number in range(rounds):
            for name, decoder in forms.items():
                decoded[name].append(measured(decoder, ids[context : context + steps]))
                if number < 3:
                    chunks[name].append(prefilled(decoder, ids[context:]))
        difference = np.abs(logits["absorbed"] - logits["expanded"]).max() / np.abs(logits["expanded"]).max()
        say(f"largest difference of logits, relative: {difference:.1e}")
        figures = {
            name: {
                "cache_bytes_per_token": decoder.cache.nbytes // decoder.cache.max_length,
                "decode_cpu_ms": _median(decoded[name], 0),
                "decode_wall_ms": _median(decoded[name], 1),
                "first_chunk_cpu_ms": _median(first[name], 0),
                "later_chunk_cpu_ms": _median(chunks[name], 0),
                "later_chunk_wall_ms": _median(chunks[name], 1),
            }
            for name, decoder in forms.items()
        }
        ratios = {
            key: round(
                statistics.median(
                    theirs[i] / ours[i] for ours, theirs in zip(pairs["absorbed"], pairs["expanded"], strict=True)
                ),
                2,
            )
            for key, pairs, i in (
                ("decode_cpu", decoded, 0),
                ("decode_wall", decoded, 1),
                ("later_chunk_cpu", chunks, 0),
                ("later_chunk_wall", chunks, 1),
            )
        }
        say(json.dumps({**figures, "expanded over absorbed": ratios}, indent=1))
    values = {
        "what": "latent",
        "machine": machine(),
        "command": f"python tests/benchmarks/latent_attention.py --layers {layers} --heads {heads} --threads {threads}",
        "settings": {
            "precision": precision,
            "layers": layers,
            "heads": heads,
            "context": context,
            "threads": threads,
            "rounds": rounds,
        },
        "forms": figures,
        "expanded_over_absorbed": ratios,
    }
    if output is not None:
        write(values, output)


def _median(runs: list[tuple[float, float]], which: int) -> float:
    return round(statistics.median(run[which] for run in runs), 3)


if __name__ == "__main__":
    main()
