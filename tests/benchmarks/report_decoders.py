"""Sections of the page about decoders: speed beside divergence, the Python loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page import abouts, disturbance, ratio, spread, table, versions, where
from picture import picture

HOW = """Every contender runs in a process of its own, pinned to the same cores, in turn (A B A B ...). Figures are medians of
the rounds with the least and the greatest in brackets. Ratios are medians of the rounds' own ratios; above 1 is faster
than onnxruntime-genai, once with the same number of threads, once with the number it chooses itself. edgelm's times
include sampling and text, genai's the token ids only. TTFT: from a prompt of {prefill_tokens} tokens to its first new token.
Decode: {new_tokens} tokens after a prompt of {prompt_tokens}. KL divergence: mean over {divergence_tokens} positions of the built-in
text, in nats, from the float32 package of the same checkpoint.
"""

# Who ratios are taken against, and the head of their column: genai with our number of threads, and as it comes.
PEERS = {"genai-int4": "x genai, same threads", "genai-int4-own-threads": "x genai, its own"}


def speed(result: Mapping[str, Any]) -> str:
    rows, contenders = [], result["contenders"]
    for name, entry in contenders.items():
        s, quality = entry["summary"], entry["quality"]
        rows.append(
            [
                f"`{name}`",
                f"{entry['bytes'] / 1e6:.1f}",
                f"{quality['mean_kld']:.4f}" if quality else "",
                f"{quality['top1_agreement']:.1%}" if quality else "",
                spread(s["decode_tokens_per_second"], 0),
                *(_ratio(contenders, peer, name, "decode_tokens_per_second") for peer in PEERS),
                spread(s["ttft_ms"], 0),
                *(_ratio(contenders, name, peer, "ttft_ms") for peer in PEERS),
                f"{s['load_s']['median']:.2f}",
                f"{s['peak_rss_mib']['median']:.0f}",
            ]
        )
    head = ["contender", "MB", "KL divergence", "top-1", "decode tokens/s", *PEERS.values()]
    head += ["TTFT ms", *PEERS.values(), "load s", "peak MiB"]
    settings = result["settings"]
    return "\n".join(
        [
            f"## {result['model']['name']}, {settings['threads']} threads\n",
            table(head, rows),
            "![decode speed over divergence](benchmarks/speed.svg)\n",
            HOW.format(**settings),
            abouts(contenders),
            f"Source: {result['model']['source']}. {where(result)} {disturbance(contenders)}\n",
            versions(contenders),
        ]
    )


def speed_picture(result: Mapping[str, Any]) -> str:
    points = [
        (name, entry["quality"]["mean_kld"], entry["summary"]["decode_tokens_per_second"]["median"])
        for name, entry in result["contenders"].items()
        if entry["quality"]
    ]
    return picture(points, "mean KL divergence, nats", "decode tokens/s")


def _ratio(contenders: Mapping[str, Any], below: str, above: str, figure: str) -> str:
    """Empty where a contender meets itself or was not measured."""
    if below == above or not {below, above} <= contenders.keys():
        return ""
    return ratio(*([entry[figure] for entry in contenders[name]["rounds"]] for name in (above, below)))


def loop(result: Mapping[str, Any]) -> str:
    o = result["overhead"]
    low, high = o["quartiles"]
    return (
        f"## The Python loop\n\nA greedy decode step through `stream()`, text and stopping included, takes {result['edgelm_ms']:.3f} ms; "
        f"the same session driven by bare `run_with_iobinding` {result['bare_ms']:.3f} ms. Overhead {o['median']:+.1%} "
        f"(quartiles {low:+.1%} to {high:+.1%} of {result['settings']['rounds']} pairs). {where(result)}\n"
    )
