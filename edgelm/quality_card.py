"""The quality card of a package as a table: what the manifest holds in, rows of text out, for a terminal or a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Quality = Mapping[str, Any]
Row = tuple[str, ...]

# Parts of the card, which are the columns: how the package was run.
_PARTS = {"prefill": "prefill", "decode": "decode", "outputs": "texts"}


def _count(values: Quality, key: str) -> str:
    return f"{values[key]:,}"


def _four(values: Quality, key: str) -> str:
    return f"{values[key]:.4f}"


def _five(values: Quality, key: str) -> str:
    return f"{values[key]:.5f}"


def _share(values: Quality, key: str) -> str:
    return f"{values[key]:.1%}"


def _exact_share(values: Quality, key: str) -> str:
    return f"{values[key]:.2%}"


def _with_error(values: Quality, key: str) -> str:
    return f"{values[key]:.2f} ± {values[f'{key}_error']:.2f}"


def _change(values: Quality, key: str) -> str:
    return f"{values[key] - 1:+.2%} ± {values[f'{key}_error']:.2%}"


_FIGURES: Sequence[tuple[str, str, Callable[[Quality, str], str]]] = (
    ("tokens", "tokens", _count),
    ("texts", "texts", _count),
    ("KL divergence mean (nats)", "mean_kld", _four),
    ("KL divergence median", "median_kld", _four),
    ("KL divergence p99", "p99_kld", _four),
    ("KL divergence worst", "max_kld", _four),
    ("top-1 agreement", "top1_agreement", _share),
    ("top-5 agreement", "top5_agreement", _share),
    ("perplexity of the float graph", "perplexity_reference", _with_error),
    ("perplexity", "perplexity", _with_error),
    ("change of perplexity", "perplexity_ratio", _change),
    ("cosine mean", "mean_cosine", _five),
    ("cosine worst", "worst_cosine", _five),
    ("same decisions", "label_agreement", _share),
    ("character error rate", "character_error_rate", _exact_share),
)


def table(quality: Quality) -> list[Row]:
    """The figures of every part of a card, its columns' names first; empty where nothing was measured."""
    parts = [key for key in _PARTS if key in quality]
    if not parts:
        return []
    rows: list[Row] = [("", *(_PARTS[part] for part in parts))]
    for label, key, form in _FIGURES:
        cells = [form(quality[part], key) if key in quality[part] else "" for part in parts]
        if any(cells):
            rows.append((label, *cells))
    return rows


def remarks(quality: Quality) -> list[str]:
    """What a card says beside its table, a sentence each."""
    said = [f"{item['name']} {item['relative_error']:.1%}" for item in quality.get("layers", ())]
    lines = [f"largest errors of blocks: {', '.join(said)}"] if said else []
    if "ran_on" in quality:
        lines.append(
            f"measured with the kernels of {quality['ran_on']}; edgelm verify --against the checkpoint measures those of its own device"
        )
    if "steps_against_prefill" in quality:
        lines.append(f"decode steps differ from prefill by {quality['steps_against_prefill']:.1e} of the largest logit")
    if "float_against_original" in quality:
        lines.append(f"Optimum's float graph differs from the original by {quality['float_against_original']:.1e}")
    return lines


def screen(quality: Quality) -> list[str]:
    """The card as lines for a terminal."""
    if "skipped" in quality:
        return [f"quality not measured, {quality['skipped']}"]
    rows = table(quality)
    if not rows:
        return ["quality not measured (--no-verify)"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head = f"quality against the float graph, on the {text_name(quality)}"
    return [head, *(_aligned(row, widths) for row in rows), *remarks(quality)]


def screens(cards: Mapping[str, Quality]) -> list[str]:
    """The cards of programs by their device, one below the other; a single one goes without the name."""
    if len(cards) == 1:
        return [line for quality in cards.values() for line in screen(quality)]
    return [line for device, quality in cards.items() for line in (f"for {device}:", *screen(quality))]


def text_name(quality: Quality) -> str:
    """What the card was measured on, in words."""
    name = quality.get("text", {}).get("name", "built-in")
    return "built-in text" if name == "built-in" else f"text {name}"


def _aligned(row: Row, widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()
