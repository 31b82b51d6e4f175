"""The float graph of a checkpoint, written when first asked for: what a package is calibrated with and compared to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from edgelm.machine import available_memory
from edgelm.providers import PROVIDERS
from edgelm_export.assemble import plan
from edgelm_export.blocks.linear import INPUT_TAP
from edgelm_export.memory_bound import MemoryBound
from edgelm_export.model import Model
from edgelm_export.quantize.recipe import preset
from edgelm_export.scratch import scratch_folder
from edgelm_export.write import write_programs

PROVIDER = PROVIDERS["cpu"]

# A graph's weights lie mapped and, repacked for the kernels, once more in memory.
RESIDENT = 2.0
WORKSPACE = 300e6

_UNBOUND = MemoryBound(None)


class FloatGraph:
    """A temporary folder with the float programs; use it in a `with` block."""

    def __init__(self, model: Model, beside: Path, say: Callable[[str], None], bound: MemoryBound = _UNBOUND) -> None:
        """Nothing is written yet.

        Args:
            model: the checkpoint.
            beside: the folder to make the temporary one in.
            say: told what the work costs.
            bound: on the memory of this process.
        """
        self._bound = bound
        self._model = model
        self._beside = beside
        self._say = say
        self._recipe = preset("fp32", model.config.num_hidden_layers)
        self._folder: Path | None = None
        self._scratch = ExitStack()

    def __enter__(self) -> FloatGraph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.close()

    def lacking(self, purpose: str, beside_nbytes: int = 0) -> str | None:
        """What this machine lacks to run it beside a package of so many bytes; None when nothing does."""
        size = plan(self._model, self._recipe, PROVIDER).nbytes
        needed, available = size * RESIDENT + beside_nbytes + WORKSPACE, available_memory()
        self._say(f"{purpose} needs about {needed / 1e6:,.0f} MB of memory and {size / 1e6:,.0f} MB of disk")
        if available is not None and needed > available:
            return f"{needed / 1e6:,.0f} MB of memory and {available / 1e6:,.0f} MB are available"
        if not self._bound.has_room(needed):
            return f"{needed / 1e6:,.0f} MB of memory, more than --max-ram leaves"
        if self._folder is None and shutil.disk_usage(self._beside).free < size:
            return f"{size / 1e6:,.0f} MB of disk beside the package"
        return None

    def program(self, name: str) -> Path:
        """The graph file of a program. Inputs of its projections are outputs of the graph too."""
        if self._folder is None:
            self._folder = self._scratch.enter_context(scratch_folder(self._beside, ".edgelm-float."))
            write_programs(self._model, self._recipe, [PROVIDER], self._folder, [f"{INPUT_TAP}*"])
        return self._folder / f"{name}.onnx"
