"""A package for each kind of cache that the runtime keeps, copies and writes into files."""

from __future__ import annotations

from pathlib import Path

import edgelm
from tests.runtime.growing_models import decoder_package

GOLDENS = Path(__file__).parents[1] / "golden"
OPTIMUM, INT8 = "optimum", " int8"

# Goldens, whose cache may hold integers instead, and the one that grows.
KINDS_OF_CACHE = (
    "mistral-sliding-window",
    "deepseek_v3",
    "phi3-longrope",
    f"llama{INT8}",
    f"mistral-sliding-window{INT8}",
    OPTIMUM,
)


def package_with_cache(kind: str, out: Path) -> Path:
    """An unverified package with that kind of cache."""
    if kind == OPTIMUM:
        return decoder_package(out)
    dtype = "int8" if kind.endswith(INT8) else None
    source = GOLDENS / kind.removesuffix(INT8)
    return edgelm.export(source, out, precision="fp32", verify=False, kv_cache=dtype).path
