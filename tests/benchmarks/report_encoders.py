"""Sections of the page about sentence encoders: speed beside cosine, our factors, and the linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page import abouts, disturbance, ratio, spread, table, versions, where
from picture import picture

Contenders = Mapping[str, Mapping[str, Any]]

HOW = """Texts in, normalized embeddings out: tokenizing, pooling and normalizing count. {speed_sentences} sentences of {shortest} to
{longest} characters (median {median_length}, from {text}) in batches of {batch_size}, every contender in a process of its own, pinned
to the same cores, in turn (A B A B ...). Figures are medians of the rounds with the least and the greatest in brackets. A peer
batches the texts as they come, and once more sorted by length; edgelm gets them as they come and sorts them itself. Cosine: with
PyTorch's embeddings of {quality_sentences} other sentences. The OpenVINO model was calibrated on {calibration_sentences} others again.
"""

FACTORS = """Medians of the rounds' own ratios; above 1 edgelm is faster. A peer stands here in the order of texts and the way to run it
that were its fastest.
"""

OURS = "edgelm"
UNIT = "_sentences_per_second"


def encoders(result: Mapping[str, Any]) -> str:
    settings, contenders = result["settings"], result["contenders"]
    parts = [
        f"## {result['model']['name']}, sentence embeddings, {settings['threads']} threads\n",
        _speeds(contenders),
        "![sentences a second over cosine](benchmarks/encoders.svg)\n",
        HOW.format(**settings),
    ]
    if _ours(contenders) and len(_ours(contenders)) < len(contenders):
        parts += ["### Against each peer at its best\n", _factors(contenders), FACTORS]
    if result["probe"]["emails"]:
        parts += ["### Linear probe\n", _probe(result["probe"])]
    parts += [
        abouts(contenders),
        f"Source: {result['model']['source']}. {where(result)} {disturbance(contenders)}\n",
        versions(contenders),
    ]
    return "\n".join(parts)


def encoders_picture(result: Mapping[str, Any]) -> str:
    points = [
        (name, max(0.0, 1 - entry["quality"]["mean_cosine"]), max(_rates(entry).values()))
        for name, entry in result["contenders"].items()
    ]
    return picture(points, "1 - mean cosine", "sentences/s")


def _speeds(contenders: Contenders) -> str:
    rows = [
        [
            f"`{name}`",
            f"{entry['bytes'] / 1e6:.1f}",
            f"{entry['quality']['mean_cosine']:.6f}",
            f"{entry['quality']['worst_cosine']:.6f}",
            spread(entry["summary"].get(f"given{UNIT}"), 0),
            spread(entry["summary"].get(f"sorted{UNIT}"), 0),
            f"{entry['summary']['load_s']['median']:.2f}",
            f"{entry['summary']['peak_rss_mib']['median']:.0f}",
        ]
        for name, entry in contenders.items()
    ]
    head = ["contender", "MB", "mean cosine", "worst cosine", "sentences/s", "sorted first", "load s", "peak MiB"]
    return table(head, rows)


def _factors(contenders: Contenders) -> str:
    ours = _ours(contenders)
    rows = []
    for package in dict.fromkeys(entry["package"] for name, entry in contenders.items() if name not in ours):
        name, order = _best(contenders, package)
        theirs = contenders[name]
        factors = [ratio(_by_round(contenders[own], "given"), _by_round(theirs, order)) for own in ours]
        rows.append([f"`{name}`, {order} order", spread(theirs["summary"][f"{order}{UNIT}"], 0), *factors])
    return table(["peer", "sentences/s", *(f"`{own}`" for own in ours)], rows)


def _probe(probe: Mapping[str, Any]) -> str:
    accuracy = probe["accuracy"]
    rows = [[f"`{name}`", f"{share:.2%}"] for name, share in accuracy.items()]
    text = (
        f"A logistic regression on the embeddings tells spam from ham: {probe['emails']} e-mails of the SpamAssassin corpus "
        f"({probe['spam']} spam), subject and body, one half for training and the other for testing, both ways."
    )
    if {"edgelm-fp32", "edgelm-int8"} <= accuracy.keys():
        text += f" int8 against fp32: {100 * (accuracy['edgelm-int8'] - accuracy['edgelm-fp32']):+.2f} points."
    return f"{table(['contender', 'accuracy'], rows)}\n{text}\n"


def _ours(contenders: Contenders) -> list[str]:
    return [name for name in contenders if name.startswith(OURS)]


def _best(contenders: Contenders, package: str) -> tuple[str, str]:
    """The way to run a peer's package, and the order of the texts, with the highest median."""
    ways = {
        (name, order): rate
        for name, entry in contenders.items()
        if entry["package"] == package
        for order, rate in _rates(entry).items()
    }
    return max(ways, key=lambda way: ways[way])


def _rates(entry: Mapping[str, Any]) -> dict[str, float]:
    """Median sentences a second by order."""
    return {key.removesuffix(UNIT): figure["median"] for key, figure in entry["summary"].items() if key.endswith(UNIT)}


def _by_round(entry: Mapping[str, Any], order: str) -> list[float]:
    return [one[f"{order}{UNIT}"] for one in entry["rounds"]]
