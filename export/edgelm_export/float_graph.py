"""The float graph of a checkpoint, written when first asked for: what a package is calibrated with and compared to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from edgelm.providers import PROVIDERS
from edgelm_export.assemble import plan
from edgelm_export.blocks.linear import INPUT_TAP
from edgelm_export.model import Model
from edgelm_export.quantize.recipe import preset
from edgelm_export.write import write_programs

PROVIDER = PROVIDERS["cpu"]

# The float graph's weights lie mapped and, repacked for the kernels, once more in memory.
_RESIDENT = 2.0
_WORKSPACE = 300e6


class FloatGraph:
    """A temporary folder with the float programs; use it in a `with` block."""

    def __init__(self, model: Model, beside: Path, say: Callable[[str], None]) -> None:
        """Nothing is written yet.

        Args:
            model: the checkpoint.
            beside: the folder to make the temporary one in.
            say: told what the work costs.
        """
        self._model = model
        self._beside = beside
        self._say = say
        self._recipe = preset("fp32", model.config.num_hidden_layers)
        self._folder: Path | None = None

    def __enter__(self) -> FloatGraph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def lacking(self, purpose: str, beside_nbytes: int = 0) -> str | None:
        """What this machine lacks to run it beside a package of so many bytes; None when nothing does."""
        size = plan(self._model, self._recipe, PROVIDER).nbytes
        needed, available = size * _RESIDENT + beside_nbytes + _WORKSPACE, available_memory()
        self._say(f"{purpose} needs about {needed / 1e6:,.0f} MB of memory and {size / 1e6:,.0f} MB of disk")
        if available is not None and needed > available:
            return f"{needed / 1e6:,.0f} MB of memory and {available / 1e6:,.0f} MB are available"
        if self._folder is None and shutil.disk_usage(self._beside).free < size:
            return f"{size / 1e6:,.0f} MB of disk beside the package"
        return None

    def program(self, name: str) -> Path:
        """The graph file of a program. Inputs of its projections are outputs of the graph too."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=".edgelm-float.", dir=self._beside))
            taps = [f"{INPUT_TAP}*"] if "encoder" in self._model.programs else []
            write_programs(self._model, self._recipe, [PROVIDER], self._folder, taps)
        return self._folder / f"{name}.onnx"


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
