"""The quality card as files beside the package's programs: quality.md and its plot, quality.svg. The same card gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from edgelm.manifest import Manifest, form_file
from edgelm.quality_card import remarks, table, text_name
from edgelm_export.write import digests

PAGE, PLOT = "quality.md", "quality.svg"

_EXPLAINED = """\
Every figure compares this package, run as users run it, with the float graph of the same checkpoint on the same text.
Prefill reads the text at once; decode feeds its end token by token through the cache, or what the float graph writes where
the model is an encoder-decoder. KL divergence says how far the next-token distribution moved, in nats; top-1 agreement how
often both name the same token; top-5 agreement how often the float graph's token is among the package's five likeliest.
Cosines are between what both say about a text. What stands behind ± is one standard error. The error of a block is the norm
of the difference over the norm of what the float graph says there, errors of earlier blocks included.
"""


def with_quality(manifest: Manifest, quality: Mapping[str, Any], folder: Path, device: str | None = None) -> Manifest:
    """The manifest with a quality card of the programs for a device, its own where none is named.

    The card's page and plot are written into the package, where there is one.
    """
    device = device or manifest.device
    carded = manifest.measured(device, quality=quality)
    if not table(quality):
        return carded
    page_file, plot_file = (name if device == manifest.device else form_file(name, device) for name in (PAGE, PLOT))
    (folder / page_file).write_text(page(carded.on(device), plot_file), encoding="utf-8", newline="\n")
    (folder / plot_file).write_text(plot(quality), encoding="utf-8", newline="\n")
    return replace(carded, files={**manifest.files, **digests(folder, (page_file, plot_file))})


def page(manifest: Manifest, plot_file: str = PLOT) -> str:
    """The card for people, in Markdown."""
    source, quality = manifest.source, manifest.quality
    head, *rows = table(quality)
    made_of = str(source["id"]) + (f" at {source['revision']}" if source.get("revision") else "")
    lines = [
        f"# {made_of}, {manifest.precision}",
        "",
        f"{manifest.architecture} for {manifest.task} on {manifest.device}, {manifest.parameters / 1e6:,.1f} M parameters, made by edgelm "
        f"{manifest.versions['edgelm']}. Measured on the {text_name(quality)} (SHA-256 {quality['text']['sha256']}).",
        "",
        *_markdown([head, *rows]),
        "",
        *(f"- {remark}" for remark in remarks(quality)),
        "",
        f"![Share of the positions or texts against how far they moved]({plot_file})",
        "",
        _EXPLAINED,
    ]
    return "\n".join(lines)


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|---|{'---:|' * (len(rows[0]) - 1)}", *lines[1:]]


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _RIGHT, _TOP = 640, 320, 64, 44, 96, 24
_LOWEST = 1e-6  # the figures are rounded to this
_COLOURS = {"prefill": "#1b6ca8", "decode": "#b8460e", "outputs": "#1b6ca8"}
_TEXT = 'font-family="sans-serif" font-size="12" fill="#444"'


def plot(quality: Mapping[str, Any]) -> str:
    """What share of the positions (or texts) moved by how much at most, on a logarithmic scale; a curve a part of the card."""
    curves = {part: quality[part]["quantiles"] for part in _COLOURS if "quantiles" in quality.get(part, {})}
    top = math.ceil(math.log10(max(10 * _LOWEST, *(curve[-1] for curve in curves.values()))))
    bottom = round(math.log10(_LOWEST))
    label = "KL divergence, nats" if "outputs" not in curves else "1 - cosine"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="14" {_TEXT}>{label}, at most</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end" {_TEXT}>share of the positions or texts</text>',
    ]
    for power in range(bottom, top + 1):
        y = _y(10.0**power, bottom, top)
        lines.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end" {_TEXT}>1e{power}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        lines.append(f'<text x="{_x(share)}" y="{_HEIGHT - 26}" text-anchor="middle" {_TEXT}>{share:.0%}</text>')
    for part, curve in curves.items():
        points = [f"{_x(i / (len(curve) - 1))},{_y(value, bottom, top)}" for i, value in enumerate(curve)]
        colour = _COLOURS[part]
        lines.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        name = escape({"outputs": "texts"}.get(part, part))
        y = _y(curve[-1], bottom, top)
        lines.append(f'<text x="{_WIDTH - _RIGHT + 6}" y="{y}" dy="4" {_TEXT.replace("#444", colour)}>{name}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _x(share: float) -> str:
    return f"{_LEFT + share * (_WIDTH - _LEFT - _RIGHT):.1f}"


def _y(value: float, bottom: int, top: int) -> str:
    height = (math.log10(max(value, _LOWEST)) - bottom) / (top - bottom)
    return f"{_HEIGHT - _BOTTOM - height * (_HEIGHT - _BOTTOM - _TOP):.1f}"
