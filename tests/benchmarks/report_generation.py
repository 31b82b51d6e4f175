"""Sections of the page about what generation costs and gains beside the graph: prompt lookup, constrained output, choosing a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page import disturbance, heading, ratio, spread, table, versions, where

LOOKUP = """A paragraph is written again with one name changed, greedy, from a prompt that holds two earlier versions; plain decoding and
prompt lookup with at most {prompt_lookup_num_tokens} guesses a step in turn, {rounds} pairs, {threads} threads. Each text is the one
that was asked for.
"""
START = """Seconds from the shell to the first byte of output and to the end of the process that completes "{prompt}" by one token,
{threads} threads, all files in memory: {rounds} rounds in turn, median (least-greatest). `edgelm run` checks the SHA-256 of all files
of the package meanwhile. llama.cpp, of which there is no command here, runs from the shortest script that does it, through
llama-cpp-python.
"""
CONSTRAINED = """JSON that meets a schema of 10 fields, `{model}`, int4, {threads} threads: the mask of allowed tokens beside a decode step,
and texts drawn at temperature 1.5 and judged by the jsonschema library.
"""
SAMPLER = (
    "Milliseconds of one thread to choose a token after 1,000 others, from logits shaped like a language model's.\n"
)


def lookup(result: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            f"{found['new_tokens'] / found['decode_steps']['lookup']:.1f}",
            f"{found['plain_ms']:.1f}",
            f"{found['lookup_ms']:.1f}",
            f"{found['times_as_fast']['median']:.2f} (least {found['times_as_fast']['least']:.2f})",
        ]
        for name, found in result["packages"].items()
    ]
    head = ["package", "tokens a step", "plain, ms a token", "lookup, ms a token", "times as fast"]
    return _section("Prompt lookup", head, rows, LOOKUP.format(**result["settings"]), result)


def start(result: Mapping[str, Any]) -> str:
    entries = result["contenders"]
    seconds = {name: [one["first_token_s"] for one in entry["rounds"]] for name, entry in entries.items()}
    first = next(iter(entries))
    rows = [
        [
            f"`{name}`",
            f"{entry['bytes'] / 1e6:.0f}",
            spread(entry["summary"]["first_token_s"], 2),
            ratio(seconds[name], seconds[first]),
            spread(entry["summary"]["process_s"], 2),
            f"{entry['summary']['peak_rss_mib']['median']:.0f}",
        ]
        for name, entry in entries.items()
    ]
    head = ["contender", "MB", "first token s", f"of `{first}`", "whole process s", "peak MiB"]
    text = f"{START.format(**result['settings'])}\n{disturbance(entries)}\n\n{versions(entries)}"
    return _section("From the shell to the first token", head, rows, text, result)


def constrained(result: Mapping[str, Any]) -> str:
    mask = result["mask_ms"]
    row = [f"{result['step_ms']:.2f}", f"{mask['mean']:.3f}", f"{mask['median']:.3f}", f"{result['share']:.1%}"]
    head = ["step ms", "mask ms, mean", "median", "share of a step"]
    if "valid" in result:
        head.append("valid texts")
        row.append(f"{result['valid']:,} of {result['texts']:,}")
    text = CONSTRAINED.format(model=result["model"], **result["settings"])
    return _section("Constrained output", head, [row], text, result)


def sampler(result: Mapping[str, Any]) -> str:
    found = result["milliseconds_a_step"]
    rows = [[case, *(f"{cases[case]:.3f}" for cases in found.values())] for case in next(iter(found.values()))]
    head = ["settings", *(f"vocabulary {int(size):,}" for size in found)]
    return _section("Choosing a token", head, rows, SAMPLER, result)


def _section(title: str, head: list[str], rows: list[list[str]], text: str, result: Mapping[str, Any]) -> str:
    return "\n".join([heading(title, result), table(head, rows), text, f"{where(result)}\n"])
