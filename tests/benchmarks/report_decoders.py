"""Sections of the page about decoders: speed beside divergence, who is ahead at each budget of it, the Python loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from page import abouts, disturbance, heading, ratio, spread, table, versions, where
from picture import picture
from protocol import decode_key, ttft_key

Contenders = Mapping[str, Mapping[str, Any]]

HOW = """The checkpoint is the model's with noise of a third of each block's step on every quantized weight, in float32 and the same for
all, so that no type finds its own grid in it. Every contender runs in a process of its own, pinned to the same cores, in turn
(A B A B ...). Figures are medians of the rounds with the least and the greatest in brackets. edgelm's times include sampling and text,
the others' ids only. TTFT: from a prompt of so many tokens to its first new token. Decode: {new_tokens} tokens after a context of so
many. KL divergence: mean over {divergence_tokens} positions of the built-in text, in nats, from the float32 package of the same checkpoint.
"""

AT_BUDGETS = """How many times as fast edgelm's fastest package is as the peer's fastest, each with no more than that divergence, and which
two those are; medians of the rounds' own ratios, above 1 edgelm is faster. MB: the smallest package with no more than that divergence
over the peer's smallest, below 1 edgelm is smaller.
"""

OURS = "edgelm"
PEERS = {
    "llamacpp": "llama.cpp",
    "genai": "onnxruntime-genai",
    "openvino": "OpenVINO GenAI",
    "ctranslate2": "CTranslate2",
    "pytorch": "PyTorch",
}
# What the picture shows.
CONTEXT = 32


def speed(result: Mapping[str, Any]) -> str:
    settings, contenders = result["settings"], result["contenders"]
    return "\n".join(
        [
            heading(f"{result['model']['name']}, {settings['threads']} threads", result),
            _speeds(contenders, settings),
            f"![decode speed over divergence](benchmarks/{result['file']}.svg)\n",
            HOW.format(**settings),
            "### At each budget of divergence\n",
            _at_budgets(contenders, settings),
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


def _at_budgets(contenders: Contenders, settings: Mapping[str, Any]) -> str:
    figures = {f"decode at {n}": (decode_key(n), max) for n in settings["contexts"]}
    figures |= {f"TTFT of {n}": (ttft_key(n), min) for n in settings["prompts"]}
    divergences = {name: entry["quality"]["mean_kld"] for name, entry in contenders.items() if entry["quality"]}
    rows: list[list[str]] = []
    for budget, about, prefixes in _budgets(divergences, settings["budgets"]):
        within = {name: contenders[name] for name, found in divergences.items() if found <= budget}
        ours = [name for name in within if name.startswith(OURS)]
        for prefix in prefixes:
            theirs = [name for name in within if name.startswith(prefix)]
            if ours and theirs:
                compared = [_against(within, ours, theirs, key, best) for key, best in figures.values()]
                rows.append([about, PEERS[prefix], *compared, _smallest(within, ours, theirs)])
    return table(["KL divergence", "against", *figures, "MB"], rows)


def _budgets(divergences: Mapping[str, float], budgets: Sequence[float]) -> list[tuple[float, str, list[str]]]:
    """Divergence, what it is called, and the peers to compare with at it; a peer that keeps within none is met at its own."""
    own: list[tuple[float, str, list[str]]] = []
    for prefix in PEERS:
        least = min((found for name, found in divergences.items() if name.startswith(prefix)), default=0.0)
        if least > max(budgets):
            own.append((least, f"{least:.2f}, its own", [prefix]))
    return own + [(budget, f"{budget:g}", list(PEERS)) for budget in budgets]


def _against(within: Contenders, ours: Sequence[str], theirs: Sequence[str], key: str, best: Callable[..., str]) -> str:
    """How many times as fast our fastest is as theirs, and which two those are, each without the name of its maker."""
    pair = [best(names, key=lambda name: within[name]["summary"][key]["median"]) for names in (ours, theirs)]
    above, below = pair if best is max else pair[::-1]
    factor = ratio(*([run[key] for run in within[name]["rounds"]] for name in (above, below)))
    return f"{factor} ({' / '.join(name.partition('-')[2] for name in pair)})"


def _smallest(within: Contenders, ours: Sequence[str], theirs: Sequence[str]) -> str:
    small = [min(within[name]["bytes"] for name in names) for names in (ours, theirs)]
    return f"{small[0] / small[1]:.2f} ({' / '.join(f'{size / 1e6:.1f}' for size in small)})"


FLOOR = """`edgelm bench`, int4, {new_tokens} steps after an empty context, {repetitions} times in turn. The floor is the time that reading
the weights and the cache of a step takes at the bandwidth that plain reading reaches in the same process, {bandwidth:.1f} GB/s.
"""


def floor(result: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{entry['bytes'] / 1e6:,.0f}",
            f"{entry['median']:.1f} ({min(entry['tokens_per_second']):.1f}-{max(entry['tokens_per_second']):.1f})",
            f"{entry['floor_ms']:.2f}",
            f"{entry['share_of_floor']:.0%}",
        ]
        for name, entry in result["packages"].items()
    ]
    settings = result["settings"]
    return "\n".join(
        [
            heading(f"Steps beside the floor that memory sets, {settings['threads']} threads", result),
            FLOOR.format(**settings, bandwidth=result["memory_bytes_per_second"] / 1e9),
            table(["package", "MB", "tokens/s", "floor ms", "of the floor"], rows),
            f"{where(result)}\n",
        ]
    )


def loop(result: Mapping[str, Any]) -> str:
    o = result["overhead"]
    low, high = o["quartiles"]
    return (
        f"{heading('The Python loop', result)}\n"
        f"A greedy decode step through `stream()`, text and stopping included, takes {result['edgelm_ms']:.3f} ms; "
        f"the same session driven by bare `run_with_iobinding` {result['bare_ms']:.3f} ms. Overhead {o['median']:+.1%} "
        f"(quartiles {low:+.1%} to {high:+.1%} of {result['settings']['rounds']} pairs). {where(result)}\n"
    )
