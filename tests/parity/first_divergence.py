"""A checkpoint in; out, how far each block of its float graph is from the same module of transformers, in the order they run.

From the repository's root, in the environment of `make parity-v5`:
    .venv-parity/bin/python -m tests.parity.first_divergence CHECKPOINT
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

from edgelm.providers import PROVIDERS
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.model import Model, understand
from edgelm_export.names import NameMap, Source, source_of, without_prefix
from edgelm_export.quantize.recipe import preset
from edgelm_export.write import write_programs
from tests.architectures.encoding import Batch, outputs
from tests.architectures.running import FLOAT_TOLERANCE, Logits, distance, prefill_feeds
from tests.parity.encoder_reference import answers
from tests.parity.reference import load_reference, reference_logits

# Projections that run as one in the graph, in the order their outputs stand.
JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def divergences(model: Model, reference: Any, ids: Sequence[int]) -> Iterator[tuple[str, float]]:
    """(tap, largest difference relative to the reference's largest value) of each block that has the same size on both sides.

    Layers that share their weights share their names; of those, what the first of them says is compared.
    """
    batch = Batch(np.array([ids]), np.ones((1, len(ids)), np.int64), np.zeros((1, len(ids)), np.int64))
    found = _tapped(model, batch)
    sources = {tap: parts for tap in found if (parts := _sources(_names(model, reference), reference, tap))}
    with _recorded(reference, {part.name for parts in sources.values() for part in parts}) as recorded:
        reference_logits(reference, ids) if model.family == "decoder" else answers(reference, batch)
    for tap, parts in sources.items():
        expected = np.concatenate([_canonical(recorded[part.name], part) for part in parts], axis=-1)
        if found[tap].size == expected.size:
            yield tap, distance(found[tap].reshape(expected.shape), expected)


def _names(model: Model, reference: Any) -> NameMap:
    names = {**model.architecture.names["hf"](model.config), **model.head_names}
    return without_prefix(names, model.architecture.prefix) if reference.base_model is reference else names


def _sources(names: NameMap, reference: Any, tap: str) -> list[Source]:
    """The reference's modules behind a tap; none for a tap that is no module's output there."""
    scope, _, leaf = tap.rpartition(".")
    for parts in ((leaf,), JOINED.get(leaf, ())):
        try:
            weights = [source_of(names, f"{scope}.{part}.weight".lstrip(".")) for part in parts]
            found = [replace(weight, name=weight.name.removesuffix(".weight")) for weight in weights]
            modules = [reference.get_submodule(source.name) for source in found]
        except (KeyError, AttributeError):
            continue
        if all(hasattr(module, "weight") for module in modules):
            return found
    return []


def _canonical(output: Logits, source: Source) -> Logits:
    """What a module puts out for one text, [tokens, size]; its columns stand as the rows of its weight do."""
    columns = output.reshape(-1, output.shape[-1])
    if source.transform is not None:
        columns = source.transform(columns.T).T
    return columns if source.rows is None else columns[:, source.rows.start : source.rows.stop]


@contextmanager
def _recorded(reference: Any, paths: set[str]) -> Iterator[Mapping[str, Logits]]:
    recorded: dict[str, Logits] = {}
    with ExitStack() as stack:
        for path in paths:

            def record(_module: Any, _inputs: Any, output: Any, path: str = path) -> None:
                recorded.setdefault(path, output.numpy())

            stack.callback(reference.get_submodule(path).register_forward_hook(record).remove)
        yield recorded


def _tapped(model: Model, batch: Batch) -> dict[str, Logits]:
    """Everything that the float graph has a name for, in the order it runs."""
    provider, c = PROVIDERS["cpu"], model.config
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # a tap of two axes is told to have three
    with tempfile.TemporaryDirectory() as scratch:
        write_programs(model, preset("fp32", c.num_hidden_layers), [provider], Path(scratch), ["*"])
        program = Path(scratch) / f"{model.family}.onnx"
        session = onnxruntime.InferenceSession(program, options, providers=[provider.ort_name])
        if model.family == "encoder":
            return outputs(session, batch)
        names = [port.name for port in session.get_outputs()]
        feeds = prefill_feeds(c.cache_geometry(provider.activation_dtype), batch.ids.tolist())
        return dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))


def main(checkpoint: Path) -> None:
    """Prints one line a block, and which is the first to differ."""
    options = {} if checkpoint.is_dir() else {"gguf_file": checkpoint.name}
    reference = load_reference(checkpoint if checkpoint.is_dir() else checkpoint.parent, **options)
    model = understand(open_checkpoint(checkpoint))
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, min(40, model.config.context_length)).tolist()
    first = None
    for tap, difference in divergences(model, reference, ids):
        first = first or (tap if difference > FLOAT_TOLERANCE else None)
        click.echo(f"{difference:10.2e}  {tap}")
    click.echo(f"first to differ by more than {FLOAT_TOLERANCE:g}: {first or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
