"""Sections of the page about decoders: speed beside divergence, who is ahead at each budget of it, the Python loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from page import abouts, disturbance, ratio, spread, table, versions, where
from picture import picture
from protocol import decode_key, ttft_key

Contenders = Mapping[str, Mapping[str, Any]]

HOW = """The checkpoint is the model's with noise of a third of each block's step on every quantized weight, in float32 and the same for
all, so that no type finds its own grid in it. Every contender runs in a process of its own, pinned to the same cores, in turn
(A B A B ...). Figures are medians of the rounds with the least and the greatest in brackets. edgelm's times include sampling and text,
the others' ids only. TTFT: from a prompt of so many tokens to its first new token. Decode: {new_tokens} tokens after a context of so
many. KL divergence: mean over {divergence_tokens} positions of the built-in text, in nats, from the float32 package of the same checkpoint.
"""

AT_BUDGETS = """Of edgelm's packages and of each peer's, the one that is fastest at no more than that divergence; factors are medians of the
rounds' own ratios, above 1 edgelm is faster. MB: of the smallest package at no more than that divergence.
"""

OURS = "edgelm"
PEERS = {
    "llamacpp": "llama.cpp",
    "genai": "onnxruntime-genai",
    "openvino": "OpenVINO GenAI",
    "ctranslate2": "CTranslate2",
    "pytorch": "PyTorch",
}
# What factors are quoted of.
CONTEXT, PROMPT = 32, 512


def speed(result: Mapping[str, Any]) -> str:
    settings, contenders = result["settings"], result["contenders"]
    return "\n".join(
        [
            f"## {result['model']['name']}, {settings['threads']} threads\n",
            _speeds(contenders, settings),
            "![decode speed over divergence](benchmarks/speed.svg)\n",
            HOW.format(**settings),
            "### At each budget of divergence\n",
            _at_budgets(contenders, settings["budgets"]),
            AT_BUDGETS,
            abouts(contenders),
            f"Source: {result['model']['source']}. {where(result)} {disturbance(contenders)}\n",
            versions(contenders),
        ]
    )


def speed_picture(result: Mapping[str, Any]) -> str:
    points = [
        (name, entry["quality"]["mean_kld"], entry["summary"][decode_key(CONTEXT)]["median"])
        for name, entry in result["contenders"].items()
        if entry["quality"]
    ]
    return picture(points, "mean KL divergence, nats", "decode tokens/s")


def _speeds(contenders: Contenders, settings: Mapping[str, Any]) -> str:
    figures = {f"decode at {n}, tokens/s": (decode_key(n), 0) for n in settings["contexts"]}
    figures |= {f"TTFT of {n}, ms": (ttft_key(n), 0) for n in settings["prompts"]}
    figures |= {"load s": ("load_s", 2), "peak MiB": ("peak_rss_mib", 0)}
    rows = [
        [
            f"`{name}`",
            f"{entry['bytes'] / 1e6:.1f}",
            f"{entry['quality']['mean_kld']:.4f}" if entry["quality"] else "",
            f"{entry['quality']['top1_agreement']:.1%}" if entry["quality"] else "",
            *(spread(entry["summary"].get(key), digits) for key, digits in figures.values()),
        ]
        for name, entry in contenders.items()
    ]
    return table(["contender", "MB", "KL divergence", "top-1", *figures], rows)


def _at_budgets(contenders: Contenders, budgets: Sequence[float]) -> str:
    rows: list[list[str]] = []
    for budget in budgets:
        within = {n: e for n, e in contenders.items() if e["quality"] and e["quality"]["mean_kld"] <= budget}
        ours = [name for name in within if name.startswith(OURS)]
        for prefix, peer in PEERS.items():
            theirs = [name for name in within if name.startswith(prefix)]
            if ours and theirs:
                rows.append([f"{budget:g}", peer, *_against(within, ours, theirs)])
    head = ["KL divergence", "against", f"decode at {CONTEXT}", "factor", f"TTFT of {PROMPT}", "factor", "MB", "of it"]
    return table(head, rows)


def _against(within: Contenders, ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    decode, ttft = decode_key(CONTEXT), ttft_key(PROMPT)
    median = lambda name, key: within[name]["summary"][key]["median"]  # noqa: E731
    cells: list[str] = []
    for key, best in ((decode, max), (ttft, min)):
        pair = [best(names, key=lambda name, key=key: median(name, key)) for names in (ours, theirs)]
        above_below = pair if key == decode else pair[::-1]
        cells += [" over ".join(f"`{name}`" for name in pair)]
        cells += [ratio(*([run[key] for run in within[name]["rounds"]] for name in above_below))]
    small = [min(within[name]["bytes"] for name in names) for names in (ours, theirs)]
    return [*cells, " / ".join(f"{size / 1e6:.1f}" for size in small), f"{small[0] / small[1]:.2f}"]


def loop(result: Mapping[str, Any]) -> str:
    o = result["overhead"]
    low, high = o["quartiles"]
    return (
        f"## The Python loop\n\nA greedy decode step through `stream()`, text and stopping included, takes {result['edgelm_ms']:.3f} ms; "
        f"the same session driven by bare `run_with_iobinding` {result['bare_ms']:.3f} ms. Overhead {o['median']:+.1%} "
        f"(quartiles {low:+.1%} to {high:+.1%} of {result['settings']['rounds']} pairs). {where(result)}\n"
    )
