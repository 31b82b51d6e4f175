"""Sections of the page about sentence encoders: speed beside cosine, our factors, and the linear probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from page import abouts, disturbance, heading, ratio, spread, table, versions, where
from picture import picture
from protocol import ORDERS, rate_key

Contenders = Mapping[str, Mapping[str, Any]]

HOW = """Texts in, normalized embeddings out: tokenizing, pooling and normalizing count. {speed_texts} texts of each mix (from {text}), in
batches of {batch_size}, every contender in a process of its own, pinned to the same cores, in turn (A B A B ...). Figures are
medians of the rounds with the least and the greatest in brackets. A peer batches the texts as they come, and once more sorted by
length; here stands the faster of the two. edgelm gets them as they come and sorts them itself. Cosine: with PyTorch's embeddings of
{quality_sentences} other sentences. The OpenVINO model was calibrated on {calibration_sentences} others again.
"""

FACTORS = """Medians of the rounds' own ratios; above 1 edgelm is faster. A peer stands here in the order of texts and the way to run it
that were its fastest with each mix.
"""

OURS = "edgelm"


def encoders(result: Mapping[str, Any]) -> str:
    settings, contenders, mixes = result["settings"], result["contenders"], [*result["settings"]["mixes"]]
    parts = [
        heading(f"{result['model']['name']}, sentence embeddings, {settings['threads']} threads", result),
        _speeds(contenders, mixes),
        f"![sentences a second over cosine](benchmarks/{result['file']}.svg)\n",
        HOW.format(**settings),
        _lengths(settings["mixes"]),
    ]
    if _ours(contenders) and len(_ours(contenders)) < len(contenders):
        parts += ["### Against each peer at its best, texts a second\n", _factors(contenders, mixes), FACTORS]
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
        (name, max(0.0, 1 - entry["quality"]["mean_cosine"]), fastest(entry, "sentences")[0]["median"])
        for name, entry in result["contenders"].items()
    ]
    return picture(points, "1 - mean cosine", "sentences/s")


def fastest(entry: Mapping[str, Any], mix: str) -> tuple[Mapping[str, float], str]:
    """Texts a second in the order with the higher median, and what they are called."""
    keys = [rate_key(mix, order) for order in ORDERS if rate_key(mix, order) in entry["summary"]]
    key = max(keys, key=lambda key: entry["summary"][key]["median"])
    return entry["summary"][key], key


def by_speed(contenders: Contenders, mix: str) -> list[str]:
    """One name for each package, the way to run it that was its fastest; the fastest of all first."""
    ranked = sorted(contenders, key=lambda name: -fastest(contenders[name], mix)[0]["median"])
    best: dict[str, str] = {}
    for name in ranked:
        best.setdefault(contenders[name]["package"], name)
    return [*best.values()]


def _speeds(contenders: Contenders, mixes: Sequence[str]) -> str:
    rows = [
        [
            f"`{name}`",
            f"{entry['bytes'] / 1e6:.1f}",
            f"{entry['quality']['mean_cosine']:.6f}",
            f"{entry['quality']['worst_cosine']:.6f}",
            *(spread(fastest(entry, mix)[0], 0) for mix in mixes),
            f"{entry['summary']['load_s']['median']:.2f}",
            f"{entry['summary']['peak_rss_mib']['median']:.0f}",
        ]
        for name, entry in contenders.items()
    ]
    head = [
        "contender",
        "MB",
        "mean cosine",
        "worst cosine",
        *(f"{mix}, texts/s" for mix in mixes),
        "load s",
        "peak MiB",
    ]
    return table(head, rows)


def _lengths(mixes: Mapping[str, Mapping[str, int]]) -> str:
    said = [
        f"{mix}, {size['shortest']} to {size['longest']} characters (median {size['median']})"
        for mix, size in mixes.items()
    ]
    return f"Mixes: {'; '.join(said)}.\n"


def _factors(contenders: Contenders, mixes: Sequence[str]) -> str:
    ours = _ours(contenders)
    rows = []
    for package in dict.fromkeys(entry["package"] for name, entry in contenders.items() if name not in ours):
        ways = [name for name, entry in contenders.items() if entry["package"] == package]
        factors = [
            ratio(_by_round(contenders[own], mix), _best(contenders, ways, mix)) for own in ours for mix in mixes
        ]
        rows.append([f"`{package}`", *factors])
    return table(["peer", *(f"`{own}`, {mix}" for own in ours for mix in mixes)], rows)


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


def _best(contenders: Contenders, ways: Sequence[str], mix: str) -> list[float]:
    """Texts a second, round by round, of the way to run a peer's package that has the highest median."""
    name = next(name for name in by_speed(contenders, mix) if name in ways)
    return _by_round(contenders[name], mix)


def _by_round(entry: Mapping[str, Any], mix: str) -> list[float]:
    key = fastest(entry, mix)[1]
    return [one[key] for one in entry["rounds"]]
