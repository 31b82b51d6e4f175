"""A checkpoint in; out, how far each block of its float graph is from the same module of transformers, in the order they run.

From the repository's root, in the environment of `make parity-v5`:
    .venv-parity/bin/python -m tests.parity.first_divergence CHECKPOINT
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

from edgelm.providers import PROVIDERS
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.model import Model
from edgelm_export.names import source_of
from edgelm_export.pipeline import understand
from edgelm_export.quantize.recipe import preset
from edgelm_export.write import write_programs
from tests.architectures.running import FLOAT_TOLERANCE, Logits, distance, prefill_feeds
from tests.parity.reference import load_reference, reference_logits

# Projections that run as one in the graph, in the order their outputs stand.
JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
LAYER_TAPS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def divergences(folder: Path, reference: Any, ids: Sequence[int]) -> Iterator[tuple[str, float]]:
    """(tap, largest difference relative to the reference's largest value) of each block."""
    model = understand(open_checkpoint(folder))
    modules = _modules(model)
    with _recorded(reference, [path for paths in modules.values() for path in paths]) as outputs:
        reference_logits(reference, ids)
    for tap, found in zip(modules, _tapped(model, list(modules), ids), strict=True):
        yield tap, distance(found, np.concatenate([outputs[path] for path in modules[tap]], axis=-1))


def _modules(model: Model) -> dict[str, list[str]]:
    """The reference's modules behind each tap; the architecture's own name table knows them."""
    names = model.architecture.names["hf"](model.config)
    taps = [f"layers.{i}.{leaf}" for i in range(model.config.num_hidden_layers) for leaf in LAYER_TAPS]
    found: dict[str, list[str]] = {}
    for tap in ["embed_tokens", *taps]:
        scope, _, leaf = tap.rpartition(".")
        parts = [f"{scope}.{part}".lstrip(".") for part in JOINED.get(leaf, (leaf,))]
        found[tap] = [source_of(names, f"{part}.weight").name.removesuffix(".weight") for part in parts]
    return found


@contextmanager
def _recorded(reference: Any, paths: Sequence[str]) -> Iterator[dict[str, Logits]]:
    outputs: dict[str, Logits] = {}
    with ExitStack() as stack:
        for path in paths:

            def record(_module: Any, _inputs: Any, output: Any, path: str = path) -> None:
                outputs[path] = output.numpy()

            stack.callback(reference.get_submodule(path).register_forward_hook(record).remove)
        yield outputs


def _tapped(model: Model, taps: Sequence[str], ids: Sequence[int]) -> list[Logits]:
    provider, c = PROVIDERS["cpu"], model.config
    with tempfile.TemporaryDirectory() as scratch:
        write_programs(model, preset("fp32", c.num_hidden_layers), provider, Path(scratch), taps)
        session = onnxruntime.InferenceSession(Path(scratch) / "decoder.onnx", providers=[provider.ort_name])
        cache = c.cache_geometry(provider.activation_dtype)
        return [np.asarray(values) for values in session.run(list(taps), prefill_feeds(cache, [ids]))]


def main(checkpoint: Path) -> None:
    """Prints one line a block, and which is the first to differ."""
    options = {} if checkpoint.is_dir() else {"gguf_file": checkpoint.name}
    reference = load_reference(checkpoint if checkpoint.is_dir() else checkpoint.parent, **options)
    ids = np.random.default_rng(0).integers(3, reference.config.vocab_size, 40).tolist()
    first = None
    for tap, difference in divergences(checkpoint, reference, ids):
        first = first or (tap if difference > FLOAT_TOLERANCE else None)
        click.echo(f"{difference:10.2e}  {tap}")
    click.echo(f"first to differ by more than {FLOAT_TOLERANCE:g}: {first or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
