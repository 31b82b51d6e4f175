"""Runs a fresh package against the float graph of the same checkpoint, when memory and disk allow both."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgelm.decode import Decoder
from edgelm.package import Package
from edgelm.progress import progress
from edgelm.providers import PROVIDERS, Provider
from edgelm.session import Program
from edgelm.tokenizer import Tokenizer
from edgelm_export.assemble import plan
from edgelm_export.model import Model
from edgelm_export.quality import STEP_TOKENS, TEXT_TOKENS, evaluation_text, measure, require_consistent
from edgelm_export.quantize.recipe import preset
from edgelm_export.write import write_programs

# The float graph's weights lie mapped and, repacked for the kernels, once more in memory.
_RESIDENT = 2.0
_WORKSPACE = 300e6


def verify(package: Package, model: Model, provider: Provider, say: Callable[[str], None]) -> dict[str, Any]:
    """Quality figures for the manifest, or why there are none.

    Raises:
        VerificationError: NaN anywhere, or a float package whose decode steps disagree with its prefill.
    """
    reference = PROVIDERS["cpu"]
    float_recipe = preset("fp32", model.config.num_hidden_layers)
    size = plan(model, float_recipe, reference).nbytes
    needed, available = size * _RESIDENT + package.size + _WORKSPACE, available_memory()
    say(f"verification needs about {needed / 1e6:,.0f} MB of memory and {size / 1e6:,.0f} MB of disk")
    lacking = None
    if available is not None and needed > available:
        lacking = f"{needed / 1e6:,.0f} MB of memory and {available / 1e6:,.0f} MB are available"
    elif shutil.disk_usage(package.path.parent).free < size:
        lacking = f"{size / 1e6:,.0f} MB of disk beside the package"
    if lacking is not None:
        reason = f"skipped: the float graph needs {lacking}"
        say(f"verification {reason}")
        return {"skipped": reason}
    with tempfile.TemporaryDirectory(prefix=".edgelm-verify.", dir=package.path.parent) as folder:
        program = package.program("decoder")
        if package.manifest.precision != "fp32":
            write_programs(model, float_recipe, reference, Path(folder))
            program = Path(folder) / "decoder.onnx"
        return _measure(package, program, model, provider)


def available_memory() -> int | None:
    """Bytes the system says can be had without swapping; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _physical_memory()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), _physical_memory())


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _measure(package: Package, float_program: Path, model: Model, provider: Provider) -> dict[str, Any]:
    manifest, c = package.manifest, model.config
    ids = Tokenizer.from_folder(package.path).encode(evaluation_text())
    ids = [token for token in ids if token < c.vocab_size][: min(TEXT_TOKENS, c.context_length)]
    candidate = Program(package.program("decoder"), provider)
    is_reference = float_program == package.program("decoder")  # a float package: one copy in memory serves both sides
    reference = candidate if is_reference else Program(float_program, PROVIDERS["cpu"])

    def decoder(program: Program) -> Decoder:
        return Decoder(program, manifest.cache, c.vocab_size, batch=1, limit=c.context_length)

    with progress(len(ids) + STEP_TOKENS, "Verifying", "token") as bar:
        quality = measure(lambda: decoder(reference), lambda: decoder(candidate), ids, bar.advance)
    if manifest.precision == "fp32":
        require_consistent(quality)
    return quality
