"""What commands say about a package as JSON."""

from __future__ import annotations

from typing import Any

from edgelm.languages import Languages
from edgelm.package import Package
from edgelm.tokenizer import Tokenizer


def package_facts(package: Package) -> dict[str, Any]:
    """Facts of a package, from its manifest; the languages from its tokenizer."""
    m = package.manifest
    return {
        "package": str(package.path),
        "family": m.family,
        "task": m.task,
        "architecture": m.architecture,
        "exporter": m.exporter,
        "parameters": m.parameters,
        "precision": m.precision,
        "bytes": package.size,
        "context_length": m.context_length,
        "vocab_size": m.vocab_size,
        **({"languages": list(codes)} if (codes := _languages(package)) else {}),
        **({} if m.cache is None else m.cache.facts()),
        **({} if m.encoder is None else {key: value for key, value in m.encoder.as_manifest().items() if value}),
        **({"adapters": {name: one.id for name, one in m.adapters.items()}} if m.adapters else {}),
        "device": m.device,
        "source": {key: value for key, value in m.source.items() if key != "files"},
        "recipe": dict(m.recipe),
        "quality": dict(m.quality),
        **({"forms": {device: {"quality": dict(m.on(device).quality)} for device in m.forms}} if m.forms else {}),
        "versions": dict(m.versions),
        "notes": list(m.notes),
    }


def _languages(package: Package) -> tuple[str, ...]:
    m = package.manifest
    if m.family != "encoder-decoder":
        return ()
    tokenizer = Tokenizer.from_folder(package.path)
    return Languages.from_folder(package.path, tokenizer, m.architecture, m.vocab_size, m.generation).codes
