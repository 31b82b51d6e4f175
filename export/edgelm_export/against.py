"""The quality card of a package anew: the package and the checkpoint it was made of in, the card out, and into the package if wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgelm.errors import InvalidOption, PackageError, VerificationError
from edgelm.manifest import OPTIMUM
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.evaluation import choose_text
from edgelm_export.float_graph import FloatGraph
from edgelm_export.manifest import source_entry
from edgelm_export.model import understand
from edgelm_export.quality_page import with_quality
from edgelm_export.sources import resolve_source
from edgelm_export.verify import recorded_run, verify


def measure_again(
    package: Package, source: str, provider: Provider, eval_text: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """What an export would say of the package's quality today, on this machine.

    Raises:
        CheckpointError: the source cannot be read, or is of another kind.
        VerificationError: it is not what the package was made of.
        InvalidOption: the package was measured on another text, or comes from Optimum.
    """
    m = package.manifest
    if m.exporter == OPTIMUM:
        raise InvalidOption(f"{package.path} was exported by Optimum; export the checkpoint again to measure it")
    text = choose_text(eval_text)
    wanted = m.quality.get("text", text.as_manifest())
    if wanted["sha256"] != text.sha256:
        raise InvalidOption(
            f"{package.path} was measured on the text {wanted['name']} (SHA-256 {wanted['sha256'][:12]}…), which {text.name} is not; "
            "name that file with --eval-text"
        )
    found = resolve_source(source)
    pooling = m.encoder.pooling[0] if m.encoder is not None and len(m.encoder.pooling) == 1 else None
    model = understand(open_checkpoint(found.path), m.context_length, m.task, pooling)
    entry = source_entry(found, model.checkpoint)
    changed = sorted(name for name, digest in entry["files"].items() if m.source["files"].get(name) != digest)
    if changed:
        raise VerificationError(
            f"{source} is not what {package.path} was made of: {', '.join(changed)} differ; name the checkpoint {m.source['id']}"
        )
    with tempfile.TemporaryDirectory() as scratch, FloatGraph(model, Path(scratch), say) as graph:
        return verify(package, model, provider, graph, text, say)


def record(package: Package, provider: Provider, quality: Mapping[str, Any], eval_text: Path | None) -> None:
    """Puts a card, and a short run of the same programs on the same provider, into a package in place of what it has.

    Raises:
        PackageError: its folder cannot be written.
    """
    run = recorded_run(package, provider, choose_text(eval_text))
    manifest, device = Package.open(package.path).manifest, package.manifest.device
    try:
        carded = with_quality(manifest, quality, package.path, device)
        carded.measured(device, recorded_run=run).save(package.path)
    except OSError as error:
        raise PackageError(
            f"{package.path} cannot be written: {error.strerror}; copy it to where you may write"
        ) from error
