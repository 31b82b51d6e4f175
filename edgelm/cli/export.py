"""edgelm export SOURCE: a checkpoint becomes a package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from edgelm.api import exporter
from edgelm.cli.facts import package_facts
from edgelm.package import Package
from edgelm.quality_card import screens


@click.command()
@click.argument("source")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder of the package. [default: NAME-PRECISION]"
)
@click.option(
    "--precision",
    help="fp32, fp16, int8, int8-plain, int8-rows, int8-prefill, int4, int4-plain (round to nearest), keep (the checkpoint's own numbers, "
    "integers as they are), or keep-fast (its integers; what is float becomes int8). [default: keep-fast for checkpoints stored "
    "as integers, else int4, of encoders int8]",
)
@click.option("--block-size", type=int, help="Weights that share a scale: a power of two from 16.")
@click.option("--context-length", type=int, help="Longest context to support. [default: the checkpoint's]")
@click.option("--task", help="What the package is for. [default: what the checkpoint's head was trained for]")
@click.option(
    "--pooling", help="How token vectors become an embedding: cls, mean, max, last ... [default: the checkpoint's]"
)
@click.option(
    "--device", default="cpu", show_default=True, help="What the package is for: cpu, cuda, or both as cpu,cuda."
)
@click.option("--activations", help="fp32, fp16 or bf16, as the device computes. [default: fp32 on cpu, fp16 on cuda]")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use only what is on disk already.")
@click.option("--recipe", type=click.Path(path_type=Path), help="File of glob -> format rules, instead of --precision.")
@click.option(
    "--max-kld",
    type=float,
    help="Mean KL divergence to keep, in nats: the formats are chosen for it, at the fewest bytes.",
)
@click.option(
    "--target-size", help="Size to keep, such as 100MB: the formats are chosen for it, at the least divergence."
)
@click.option(
    "--write-recipe", type=click.Path(path_type=Path), help="File for the formats chosen, which --recipe reads."
)
@click.option(
    "--kv-cache",
    help="int8: keys and values as 8-bit integers, for long contexts: a quarter of the memory. [default: as activations]",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Choose codes by what the float graph's inputs look like: closer, at half a minute for a hundred million parameters.",
)
@click.option(
    "--calibration-text",
    type=click.Path(path_type=Path),
    help="UTF-8 text to calibrate with, instead of the built-in one.",
)
@click.option(
    "--eval-text",
    type=click.Path(path_type=Path),
    help="UTF-8 text to measure quality on, instead of the built-in one.",
)
@click.option(
    "--adapter",
    multiple=True,
    type=click.Path(path_type=Path),
    help="LoRA adapter to merge into the weights: a PEFT folder.",
)
@click.option(
    "--keep-adapter", multiple=True, metavar="NAME=DIR", help="LoRA adapter to keep apart, chosen by name at run time."
)
@click.option("--max-ram", help="Most memory to take, such as 2GB: kept, or refused before anything is written.")
@click.option("--no-verify", is_flag=True, help="Do not compare the package with the float graph.")
@click.option("--force", is_flag=True, help="Replace a package that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object about the package.")
def command(source: str, output: Path | None, no_verify: bool, as_json: bool, **options: Any) -> None:
    """Export SOURCE to a package.

    SOURCE is a folder in hub layout, a .gguf file, a hub id (owner/name) or a name from `edgelm models`.
    """
    pipeline = exporter("pipeline")
    target = output or default_output(source, options["precision"] or options["recipe"])
    chosen = pipeline.export_options({**options, "verify": not no_verify})
    cost = exporter("cost").Cost()
    package: Package = pipeline.export(source, target, chosen, say=_say, cost=cost)
    if as_json:
        click.echo(json.dumps({**package_facts(package), "cost": cost.as_dict(package)}, ensure_ascii=False))
    else:
        click.echo(f"{describe(package)}\n  {cost.describe(package)}")


def _say(text: str) -> None:
    click.echo(text, err=True)


def default_output(source: str, precision: str | Path | None) -> Path:
    """A folder named after the source and what was asked for, in the current directory."""
    stem = Path(source).name.removesuffix(".gguf") or "model"
    suffix = Path(precision or "edgelm").stem
    return Path(f"{re.sub(r'[^A-Za-z0-9._-]', '-', stem)}-{suffix}")


def describe(package: Package) -> str:
    """The package and its quality for people."""
    m = package.manifest
    lines = [
        f"{package.path}: {m.architecture} for {m.task}, {m.parameters / 1e6:,.1f} M parameters, {m.precision}, "
        f"{package.size / 1e6:,.1f} MB",
        *(f"  {line}" for line in screens({device: m.on(device).quality for device in m.devices})),
    ]
    lines.extend(f"  note: {note}" for note in m.notes)
    return "\n".join(lines)
