"""Section of the page about encoder-decoders: speed beside divergence, our factors, and the memory of a wide beam search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from page import abouts, disturbance, heading, ratio, spread, table, versions, where
from translating import rate_key

Contenders = Mapping[str, Mapping[str, Any]]

HOW = """Checkpoints of these sizes with random weights, the same for all: divergence says here how exactly a program computes, and
nothing about the quality of text. {source_tokens} source tokens in, exactly {new_tokens} target tokens out (the end token is forbidden),
as ids; the encoder counts. Tokens/s are those of the results: batch x {new_tokens} over the time, however many beams looked for them. Every
contender runs in a process of its own, pinned to the same cores, in turn (A B A B ...). Figures are medians of the rounds with
the least and the greatest in brackets. Peak MiB: of the process over all settings. KL divergence: mean over {divergence_tokens} positions
of random targets, teacher-forced, in nats, from PyTorch.
"""

FACTORS = """Medians of the rounds' own ratios; above 1 edgelm is faster. Of the two ways to run CTranslate2, the one that was faster in
that setting stands here.
"""

MEMORY = """One source of {long_source} tokens, {new_tokens} target tokens; peak resident memory of the process, loading included. Source
memory: the keys and values that the decoder's layers read, and the mask, as they are held during the search.
"""

OURS = "edgelm"


def seq2seq(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    parts = [heading(f"Encoder-decoders, {settings['threads']} threads", result), HOW.format(**settings)]
    for model, measured in result["models"].items():
        contenders = measured["contenders"]
        parts += [f"### {model}\n", _speeds(contenders, settings["settings"])]
        if 0 < len(_ours(contenders)) < len(contenders):
            parts += [_factors(contenders, settings["settings"]), FACTORS]
        if any(entry["memory"] for entry in contenders.values()):
            parts += [_memory(contenders, settings["memory_beams"]), MEMORY.format(**settings)]
    everyone = {f"{model} {name}": e for model, m in result["models"].items() for name, e in m["contenders"].items()}
    named = {name: entry for measured in result["models"].values() for name, entry in measured["contenders"].items()}
    return "\n".join([*parts, abouts(named), f"{where(result)} {disturbance(everyone)}\n", versions(named)])


def _speeds(contenders: Contenders, settings: Sequence[tuple[int, int]]) -> str:
    rows = [
        [
            f"`{name}`",
            f"{entry['bytes'] / 1e6:.1f}",
            f"{entry['quality']['mean_kld']:.6f}" if entry["quality"] else "",
            f"{entry['quality']['top1_agreement']:.1%}" if entry["quality"] else "",
            *(spread(entry["summary"][rate_key(*setting)], 0) for setting in settings),
            f"{entry['summary']['load_s']['median']:.2f}",
            f"{entry['summary']['peak_rss_mib']['median']:.0f}",
        ]
        for name, entry in contenders.items()
    ]
    return table(
        ["contender", "MB", "KL divergence", "top-1", *_heads(settings, ", tokens/s"), "load s", "peak MiB"], rows
    )


def _factors(contenders: Contenders, settings: Sequence[tuple[int, int]]) -> str:
    rows = []
    peers = dict.fromkeys(entry["package"] for name, entry in contenders.items() if not name.startswith(OURS))
    for own in _ours(contenders):
        for package in peers:
            factors = []
            for setting in settings:
                key = rate_key(*setting)
                best = _best(contenders, package, key)
                factors.append(ratio(*([one[key] for one in contenders[name]["rounds"]] for name in (own, best))))
            ways = [name for name, entry in contenders.items() if entry["package"] == package]
            rows.append([f"`{own}` over `{ways[0]}`", *factors])
    return table(["factor", *_heads(settings)], rows)


def _memory(contenders: Contenders, beams: Sequence[int]) -> str:
    rows = []
    for name, entry in contenders.items():
        runs = [entry["memory"][str(count)] for count in beams]
        peaks = [run["peak_rss_mib"] for run in runs]
        held = [f"{run['source_memory_bytes'] / 1e6:.1f}" if "source_memory_bytes" in run else "" for run in runs]
        rows.append([f"`{name}`", *(f"{peak:.0f}" for peak in peaks), f"{peaks[-1] - peaks[0]:+.0f}", *held])
    names = [f"{count} beam{'s' * (count > 1)}" for count in beams]
    head = ["contender", *(f"{name}, peak MiB" for name in names), "difference"]
    return table([*head, *(f"{name}, source memory MB" for name in names)], rows)


def _heads(settings: Sequence[tuple[int, int]], unit: str = "") -> list[str]:
    return [f"batch {batch}, {beams} beam{'s' * (beams > 1)}{unit}" for batch, beams in settings]


def _ours(contenders: Contenders) -> list[str]:
    return [name for name in contenders if name.startswith(OURS)]


def _best(contenders: Contenders, package: str, key: str) -> str:
    """The way to run a peer's package with the highest median."""
    ways = [name for name, entry in contenders.items() if entry["package"] == package]
    return max(ways, key=lambda name: contenders[name]["summary"][key]["median"])
