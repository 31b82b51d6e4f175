"""Constrained output on a real model: what the mask costs beside a decode step, and whether every text meets its schema."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import jsonschema
from decoders import own_package
from machine import machine, pick_cpus
from results import RESULTS, say, write

import edgelm
from edgelm.grammar import Grammar
from edgelm.logits import Logits, Processor
from edgelm.text_generation import DecoderModel

# Every part has an end, so that no text is cut off for its length.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "pattern": "^[a-z0-9]{1,12}@[a-z]{2,10}\\.(com|org)$"},
        "active": {"type": "boolean"},
        "score": {"type": "number", "minimum": -5, "maximum": 5, "multipleOf": 0.25},  # exact in binary
        "role": {"enum": ["admin", "editor", "reader"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 1, "maxItems": 4},
        "address": {
            "type": "object",
            "properties": {
                "street": {"type": "string", "maxLength": 25},
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
        "joined": {"type": "string", "format": "date"},
        "manager": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 20}]},
    },
    "required": ["name", "age", "email", "active", "score", "role", "tags", "address", "joined", "manager"],
    "additionalProperties": False,
}
PROMPT = [{"role": "user", "content": "Describe a member of a sports club as JSON."}]
LONGEST = 500
TOGETHER = 20


@click.command()
@click.option("--package", type=click.Path(path_type=Path), help="[default: the int4 package of the benchmark's model]")
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=9, show_default=True, help="Runs with and without a schema, in turn.")
@click.option("--texts", default=1000, show_default=True, help="Texts to check, at temperature 1.5, 20 a seed.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/constrained.json]")
def main(
    package: Path | None, model: str, threads: int, rounds: int, texts: int, first: int, output: Path | None
) -> None:
    """Measure the mask's share of a decode step, and check texts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, pick_cpus(threads))
    package = package or own_package(model, threads)
    loaded = edgelm.load(package, threads=threads)
    costs = _costs(loaded, rounds) if rounds else {}
    checked = _check(loaded, range(first, first + texts // TOGETHER)) if texts else {}
    values = {
        "what": "constrained",
        "machine": machine(),
        "command": "python tests/benchmarks/constrained.py",
        "model": model,
        "settings": {"threads": threads, "rounds": rounds, "texts": texts, "first": first},
        **costs,
        **checked,
    }
    write(values, output or RESULTS / "constrained.json")


def _costs(model: DecoderModel, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step without a schema, and of the mask with one."""
    begun = time.perf_counter()
    vocabulary = model.tokenizer.vocabulary
    built = time.perf_counter() - begun
    begun = time.perf_counter()
    Grammar(vocabulary, "json_schema", json.dumps(SCHEMA), model.defaults.eos_token_id)
    compiled = time.perf_counter() - begun
    steps: list[float] = []
    masks: list[float] = []
    for seed in range(rounds):
        masks += _timed_masks(model, seed)
        steps += _steps(model, seed)
    step, mask = statistics.median(steps), statistics.fmean(masks)
    say(f"step {step * 1e3:.3f} ms, mask {mask * 1e3:.3f} ms on average: {mask / step:.1%}")
    return {
        "step_ms": round(step * 1e3, 4),
        "mask_ms": {
            "mean": round(mask * 1e3, 4),
            "median": round(statistics.median(masks) * 1e3, 4),
            "p99": round(statistics.quantiles(masks, n=100)[-1] * 1e3, 4),
        },
        "share": round(mask / step, 4),
        "vocabulary_s": round(built, 3),
        "schema_ms": round(compiled * 1e3, 2),
    }


def _timed_masks(model: DecoderModel, seed: int) -> list[float]:
    """Seconds that the processor took at each step of one text."""
    seconds: list[float] = []
    make = Grammar.processor

    def timed(grammar: Grammar, start: int) -> Processor:
        process = make(grammar, start)

        def measured(ids: Sequence[int], logits: Logits) -> Logits:
            begun = time.perf_counter()
            found = process(ids, logits)
            seconds.append(time.perf_counter() - begun)
            return found

        return measured

    Grammar.processor = timed
    try:
        model.chat(PROMPT, json_schema=SCHEMA, temperature=1.0, seed=seed, max_new_tokens=LONGEST)
    finally:
        Grammar.processor = make
    return seconds


def _steps(model: DecoderModel, seed: int) -> list[float]:
    chunks = model.stream_chat(PROMPT, temperature=1.0, seed=seed, max_new_tokens=100, eos_token_id=())
    times = [time.perf_counter() for _ in chunks]
    return [after - before for before, after in pairwise(times)]


def _check(model: DecoderModel, seeds: range) -> dict[str, Any]:
    """How many of the texts are JSON that meets the schema, judged by the jsonschema library."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    valid, count, tokens, begun = 0, 0, 0, time.perf_counter()
    for seed in seeds:
        options = {"json_schema": SCHEMA, "temperature": 1.5, "seed": seed, "max_new_tokens": LONGEST}
        found: Any = model.chat(PROMPT, num_return_sequences=TOGETHER, **options)
        good = [one.finish_reason == "stop" and validator.is_valid(json.loads(one.text)) for one in found]
        for one, right in zip(found, good, strict=True):
            if not right:
                say(f"seed {seed}: {one.finish_reason}: {one.text}")
        valid, count, tokens = valid + sum(good), count + len(found), tokens + sum(len(one.token_ids) for one in found)
        say(f"{valid} of {count} texts are valid, {tokens} tokens, {time.perf_counter() - begun:.0f} s")
    return {"texts": count, "valid": valid, "tokens": tokens}


if __name__ == "__main__":
    main()
