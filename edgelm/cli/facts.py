"""What commands say about a package as JSON."""

from __future__ import annotations

from typing import Any

from edgelm.package import Package


def package_facts(package: Package) -> dict[str, Any]:
    """Facts of a package, from its manifest."""
    m = package.manifest
    return {
        "package": str(package.path),
        "family": m.family,
        "task": m.task,
        "architecture": m.architecture,
        "parameters": m.parameters,
        "precision": m.precision,
        "bytes": package.size,
        "context_length": m.context_length,
        "vocab_size": m.vocab_size,
        **({} if m.cache is None else {"cache_bytes_per_1000_tokens": 1000 * m.cache.bytes_per_token}),
        **({} if m.encoder is None else {key: value for key, value in m.encoder.as_manifest().items() if value}),
        "device": m.device,
        "source": {key: value for key, value in m.source.items() if key != "files"},
        "recipe": dict(m.recipe),
        "quality": dict(m.quality),
        "versions": dict(m.versions),
        "notes": list(m.notes),
    }
