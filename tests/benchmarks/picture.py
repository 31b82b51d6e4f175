"""Speed against loss as SVG; up and to the left is better."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

# Name of a contender, its loss, its speed.
Point = tuple[str, float, float]


def picture(points: Sequence[Point], loss_label: str, speed_label: str) -> str:
    """One dot a contender, ours in blue."""
    width, height, left, bottom = 640, 360, 60, 50
    if not points:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"/>\n'
    most_loss, most_speed = 1.15 * max(p[1] for p in points), 1.15 * max(p[2] for p in points)
    digits = 2 if most_loss > 0.04 else 4
    x_of = lambda loss: left + loss / most_loss * (width - left - 120)  # noqa: E731
    y_of = lambda speed: height - bottom - speed / most_speed * (height - bottom - 20)  # noqa: E731
    text = 'font-family="sans-serif" font-size="12" fill="#444"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i in range(5):
        loss, speed = most_loss * i / 4, most_speed * i / 4
        lines.append(f'<path d="M{left} {y_of(speed):.1f}H{width - 120}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 6}" y="{y_of(speed) + 4:.1f}" text-anchor="end" {text}>{speed:.0f}</text>')
        lines.append(
            f'<text x="{x_of(loss):.1f}" y="{height - bottom + 18}" text-anchor="middle" {text}>{loss:.{digits}f}</text>'
        )
    lines.append(f'<text x="{left}" y="14" {text}>{speed_label}</text>')
    lines.append(f'<text x="{width - 120}" y="{height - 12}" text-anchor="end" {text}>{loss_label}</text>')
    for name, loss, speed in points:
        colour = "#1b6ca8" if name.startswith("edgelm") else "#b8460e"
        lines.append(f'<circle cx="{x_of(loss):.1f}" cy="{y_of(speed):.1f}" r="5" fill="{colour}"/>')
        lines.append(f'<text x="{x_of(loss) + 8:.1f}" y="{y_of(speed) + 4:.1f}" {text}>{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
