"""Sections of the page about large sparse decoders: mixtures of experts, and latent attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page import abouts, disturbance, heading, ratio, spread, table, versions, where
from protocol import decode_key, ttft_key

HOW = """Checkpoints of these widths with random weights, the same for all; layers are few, so that they fit, and the vocabulary is
cut with them. Every contender runs in a process of its own, pinned to the same cores, in turn (A B A B ...). Figures are medians
of the rounds with the least and the greatest in brackets; factors are medians of the rounds' own ratios, above 1 `edgelm` is faster.
Decode: {new_tokens} tokens after a context of {contexts[0]}. TTFT: from a prompt of {prompts[0]} tokens to its first new token.
"""

LATENT = """Decode steps after {context} positions, {layers} layers, {heads} heads, {precision}: the absorbed form, whose cache holds one
latent and one rotary key a token, against the same weights in the expanded form, whose cache holds keys and values of all heads.
In turn in one process, {rounds} pairs; factors are medians of the pairs' own ratios, above 1 the absorbed form is faster.
"""

OURS = "edgelm"


def mixtures(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    parts = [heading(f"Mixtures of experts, {settings['threads']} threads", result), HOW.format(**settings)]
    for name, measured in result["decode"].items():
        keys = decode_key(settings["contexts"][0]), ttft_key(settings["prompts"][0])
        parts += [f"### {_shape(name, measured['config'])}\n", _speeds(measured["contenders"], *keys)]
    load, everyone = result["session_seconds"], _everyone(result["decode"])
    parts.append(
        f"Loading a package of {load['config']['num_experts']} experts x {load['config']['num_hidden_layers']} layers "
        f"({load['bytes'] / 1e9:.2f} GB, its files read before): {load['median']:.2f} s "
        f"({min(load['all']):.2f}-{max(load['all']):.2f}).\n"
    )
    if "export" in result:
        run = result["export"]
        parts.append(
            f"Exporting {run['parameters'] / 1e9:.1f} billion parameters to int4: peak resident memory "
            f"{run['peak_rss_mib']:.0f} MiB, {run['seconds']:.0f} s.\n"
        )
    named = {name: entry for measured in result["decode"].values() for name, entry in measured["contenders"].items()}
    return "\n".join([*parts, abouts(named), f"{where(result)} {disturbance(everyone)}\n", versions(named)])


def latent(result: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{figures['cache_bytes_per_token']:,}",
            f"{figures['decode_wall_ms']:.2f}",
            f"{figures['decode_cpu_ms']:.2f}",
            f"{figures['later_chunk_wall_ms']:.0f}",
        ]
        for name, figures in result["forms"].items()
    ]
    factors = result["expanded_over_absorbed"]
    rows.append(
        [
            "factor",
            "",
            f"{factors['decode_wall']:.2f}",
            f"{factors['decode_cpu']:.2f}",
            f"{factors['later_chunk_wall']:.2f}",
        ]
    )
    head = ["form", "cache bytes a token", "decode step ms", "its CPU ms", "512 tokens of prefill there, ms"]
    return "\n".join(
        [
            heading(f"Latent attention, {result['settings']['threads']} threads", result),
            LATENT.format(**result["settings"]),
            table(head, rows),
            f"{where(result)}\n",
        ]
    )


def _speeds(contenders: Mapping[str, Mapping[str, Any]], decode: str, ttft: str) -> str:
    rows = []
    for name, entry in contenders.items():
        factors = [
            "" if name == OURS else ratio(*([run[key] for run in contenders[of]["rounds"]] for of in above_below))
            for key, above_below in ((decode, (OURS, name)), (ttft, (name, OURS)))
        ]
        rows.append(
            [
                f"`{name}`",
                f"{entry['bytes'] / 1e6:.0f}",
                spread(entry["summary"][decode], 1),
                factors[0],
                spread(entry["summary"][ttft], 0),
                factors[1],
                f"{entry['summary']['peak_rss_mib']['median']:.0f}",
            ]
        )
    return table(["contender", "MB", "decode tokens/s", "`edgelm` over it", "TTFT ms", "factor", "peak MiB"], rows)


def _shape(name: str, config: Mapping[str, Any]) -> str:
    experts = config.get("num_experts", config.get("num_local_experts"))
    return f"{name}: {experts} experts, {config['num_experts_per_tok']} a token, hidden size {config['hidden_size']}"


def _everyone(decode: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name} {contender}": e for name, measured in decode.items() for contender, e in measured["contenders"].items()
    }
