"""edgelm bench PACKAGE [PACKAGE]: tokens a second of prompts and of steps, beside what quantization cost; two packages side by side."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from edgelm.api import find_package
from edgelm.bandwidth import read_bandwidth
from edgelm.benchmark import PROMPT, STEPS, Subject, Timing, Work, measure
from edgelm.package import Package
from edgelm.progress import progress
from edgelm.providers import find_provider

Rows = Sequence[Sequence[str]]


@click.command()
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE [PACKAGE ...]")
@click.option("-p", "--prompt-tokens", default=512, show_default=True, help="Tokens of a prompt; 0 measures none.")
@click.option("-n", "--new-tokens", default=128, show_default=True, help="Steps; 0 measures none.")
@click.option("-d", "--depth", default=0, show_default=True, help="Tokens in the context before the steps.")
@click.option("-r", "--repetitions", default=5, show_default=True, help="How often each is measured, packages in turn.")
@click.option("-t", "--threads", type=int, help="Threads inside an operator. [default: one a physical core]")
@click.option("--batch", default=1, show_default=True, help="Sequences that run together.")
@click.option("--device", default="auto", show_default=True, help="Execution provider.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--md", "as_markdown", is_flag=True, help="Print a table in Markdown.")
def command(
    packages: tuple[str, ...], threads: int | None, device: str, as_json: bool, as_markdown: bool, **work: int
) -> None:
    """Measure how fast each PACKAGE (a folder, or a name from `edgelm models`) is on this machine.

    Random tokens in, the package's own sampling settings; nothing else should run meanwhile.
    """
    subjects = [_subject(name, device, Work(**work), threads) for name in packages]
    kinds = sum(1 for subject in subjects for _ in subject.kinds())
    with progress((1 + work["repetitions"]) * kinds, "Measuring", "run") as bar:
        measure(subjects, lambda: bar.advance(1))
    bandwidth = read_bandwidth(subjects[0].threads)
    if as_json:
        click.echo(json.dumps(as_plain(subjects, bandwidth), ensure_ascii=False))
        return
    head, *rows = table(subjects, bandwidth)
    click.echo(_markdown(head, rows) if as_markdown else _columns([head, *rows]))
    click.echo(
        f"\n{subjects[0].threads} threads; memory reads at {bandwidth / 1e9:.1f} GB/s. Medians of {work['repetitions']} with the "
        "least and the greatest.",
        err=as_markdown,
    )


def as_plain(subjects: Sequence[Subject], bandwidth: float) -> dict[str, Any]:
    """Everything measured."""
    return {
        "work": vars(subjects[0].work),
        "threads": subjects[0].threads,
        "memory_bytes_per_second": bandwidth,
        "packages": [
            {
                "package": str(subject.package.path),
                "precision": subject.package.manifest.precision,
                "bytes": subject.package.size,
                "quality": dict(subject.package.manifest.quality),
                "tests": {
                    name: {
                        "tokens_per_second": timing.tokens_per_second,
                        "median": timing.median,
                        "shares": timing.shares(),
                        **_floor(subject, kind, bandwidth),
                    }
                    for kind, name, timing in _tests(subject)
                },
            }
            for subject in subjects
        ],
    }


def table(subjects: Sequence[Subject], bandwidth: float) -> Iterator[Sequence[str]]:
    """The head, and a row for each package and test; ratios are to the first package, repetition by repetition."""
    several = len(subjects) > 1
    compared = ["x first"] if several else []
    yield ["package", "MB", "KLD", "top-1", "test", "tokens/s", *compared, "graph", "sampling", "Python", "of floor"]
    for subject in subjects:
        quality = subject.package.manifest.quality.get("prefill", {})
        for kind, name, timing in _tests(subject):
            shares, floor = timing.shares(), _floor(subject, kind, bandwidth).get("share_of_floor")
            rates = timing.tokens_per_second
            yield [
                subject.package.path.name,
                f"{subject.package.size / 1e6:.1f}",
                _figure(quality, "mean_kld", ".4f"),
                _figure(quality, "top1_agreement", ".1%"),
                name,
                f"{timing.median:.1f} ({min(rates):.1f}-{max(rates):.1f})",
                *([_ratio(timing, subjects[0].timings.get(kind))] if several else []),
                _figure(shares, "graph", ".1%"),
                _figure(shares, "sampling", ".1%"),
                _figure(shares, "python", ".1%"),
                "" if floor is None else f"{floor:.0%}",
            ]


def _subject(name: str, device: str, work: Work, threads: int | None) -> Subject:
    package = Package.open(find_package(name))
    provider = find_provider(device, package_devices=package.manifest.devices)
    return Subject(package.on(provider.runs), provider, work, threads)


def _tests(subject: Subject) -> Iterator[tuple[str, str, Timing]]:
    """Kind, name in the way of llama-bench, and timing of what was measured."""
    work = subject.work
    names = {PROMPT: f"pp{work.prompt_tokens}", STEPS: f"tg{work.new_tokens}"}
    depths = {STEPS: f" @ d{work.depth}" if work.depth else ""}
    batch = f" x {work.batch}" if work.batch > 1 else ""
    for kind, timing in subject.timings.items():
        yield kind, f"{names[kind]}{batch}{depths.get(kind, '')}", timing


def _floor(subject: Subject, kind: str, bandwidth: float) -> dict[str, float]:
    """How much of a step's time reading weights and cache takes at the bandwidth that was measured."""
    seconds = subject.floor_seconds(bandwidth) if kind == STEPS else None
    if seconds is None:
        return {}
    return {"floor_ms": seconds * 1e3, "share_of_floor": seconds * subject.timings[kind].median / subject.work.batch}


def _ratio(timing: Timing, first: Timing | None) -> str:
    pairs = zip(timing.tokens_per_second, first.tokens_per_second, strict=True) if first else ()
    ratios = [ours / theirs for ours, theirs in pairs]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def _figure(figures: Mapping[str, float], name: str, form: str) -> str:
    return format(figures[name], form) if name in figures else ""


def _markdown(head: Sequence[str], rows: Rows) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def _columns(lines: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
