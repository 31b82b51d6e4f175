"""Records the goldens: a table of tiny configurations in, one folder a case out, with what transformers says about it.

Run by hand from the repository's root, in the environment of `make parity-v5`:
    .venv-parity/bin/python -m tests.golden.record [CASE ...]
The same table and versions give the same files.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file

from tests.architectures.random_checkpoints import SPECIAL_TOKENS, Tensors, random_tensors, write_config
from tests.architectures.random_configs import Config
from tests.golden.cases import golden_cases
from tests.golden.encoder_cases import encoder_golden_cases
from tests.golden.golden import Golden
from tests.golden.seq2seq_cases import seq2seq_golden_cases
from tests.parity.golden_encoders import record_encoder
from tests.parity.golden_seq2seq import record_seq2seq
from tests.parity.reference import Logits, load_reference, reference_greedy, reference_logits

FOLDER = Path(__file__).parent
PROMPT_TOKENS = 40
SIZE_LIMIT = 300_000

# What a recording must offer: each greedy token wins by this share of the largest logit, so that "the same tokens"
# is no coin toss; and the tokens vary.
MARGIN, DISTINCT = 0.01, 6
_FIRST = 2

# A change to any one tensor or setting moves the logits by at least this share of the largest, a hundred times the
# tolerance: no part of a golden can be read wrongly and go unseen.
SENSITIVITY = 1e-2

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def record(case: Golden, folder: Path) -> None:
    """Writes the first random checkpoint of a case whose greedy tokens are clear-cut, with transformers' answers."""
    for seed in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        tensors = random_tensors(case.config, seed)
        _write(case, folder, tensors)
        model = load_reference(folder)
        prompt = np.random.default_rng(seed).integers(len(SPECIAL_TOKENS), case.config["vocab_size"], PROMPT_TOKENS)
        # Most seeds fail at an early token, so the rest is spared.
        if not _is_clear(*reference_greedy(model, prompt.tolist(), _FIRST)):
            continue
        tokens, steps = reference_greedy(model, prompt.tolist(), case.new_tokens)
        if _is_clear(tokens, steps) and len(set(tokens)) >= DISTINCT:
            break
    else:
        raise click.ClickException(
            f"{case.name}: no seed gives clear-cut greedy tokens; lower MARGIN or change the weights"
        )
    logits = reference_logits(model, prompt.tolist())
    _require_sensitive(case, folder, tensors, prompt.tolist(), logits)
    np.savez(folder / "expected.npz", input_ids=prompt, logits=logits, tokens=np.array(tokens), step_logits=steps)


def _write(case: Golden, folder: Path, tensors: Tensors) -> None:
    folder.mkdir(parents=True)
    write_config(folder, case.config)
    if case.generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(case.generation, indent=2) + "\n", encoding="utf-8")
    dtype = DTYPES[case.config.get("dtype") or case.config["torch_dtype"]]
    stored = {name: torch.from_numpy(values).to(dtype) for name, values in tensors.items()}
    if case.shards == 1:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(stored)
    places: dict[str, str] = {}
    for n in range(case.shards):
        file = f"model-{n + 1:05}-of-{case.shards:05}.safetensors"
        part = names[n :: case.shards]  # interleaved, so that a layer's tensors lie in different files
        save_file({name: stored[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(values.numel() * values.element_size() for values in stored.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _is_clear(tokens: list[int], steps: Logits) -> bool:
    first, second = np.sort(steps, axis=-1)[:, :-3:-1].T
    wins = float((first - second).min() / np.abs(steps).max())
    return wins > MARGIN and not set(tokens) & set(range(len(SPECIAL_TOKENS)))


def _require_sensitive(case: Golden, folder: Path, tensors: Tensors, prompt: list[int], logits: Logits) -> None:
    """Changes every tensor and the listed settings one at a time, and demands that the logits tell."""
    variants: dict[str, tuple[Config, Tensors]] = {}
    for name, values in tensors.items():
        if fnmatchcase(name, case.unseen):
            continue
        changed = np.ones_like(values) if "norm" in name else np.zeros_like(values)
        variants[name] = (case.config, {**tensors, name: changed})
    for name, change in case.sensitive.items():
        variants[name] = ({**case.config, **change}, tensors)
    blind: list[str] = []
    for name, (config, changed) in variants.items():
        with tempfile.TemporaryDirectory() as scratch:
            variant = replace(case, config=config)
            _write(variant, Path(scratch) / "variant", changed)
            found = reference_logits(load_reference(Path(scratch) / "variant"), prompt)
        if np.abs(found - logits).max() < SENSITIVITY * np.abs(logits).max():
            blind.append(name)
    if blind:
        raise click.ClickException(f"{case.name}: its logits hardly depend on {', '.join(blind)}")


def main(names: list[str]) -> None:
    """Records the named cases, or all of them."""
    torch.set_num_threads(1)
    decoders, encoders, seq2seq = golden_cases(), encoder_golden_cases(), seq2seq_golden_cases()
    known = [*decoders, *encoders, *seq2seq]
    unknown = set(names) - set(known)
    if unknown:
        raise click.UsageError(f"no such case: {', '.join(sorted(unknown))} (known: {', '.join(known)})")
    for name in names or known:
        if name in decoders:
            record(decoders[name], FOLDER / name)
        elif name in seq2seq:
            record_seq2seq(seq2seq[name], FOLDER / name)
        else:
            record_encoder(encoders[name], FOLDER / name)
        size = sum(file.stat().st_size for file in (FOLDER / name).iterdir())
        click.echo(f"{name}: {size:,} bytes")
        if size > SIZE_LIMIT:
            raise click.ClickException(f"{name} is over {SIZE_LIMIT:,} bytes; make it smaller")


if __name__ == "__main__":
    main(sys.argv[1:])
