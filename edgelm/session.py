"""Opens a program on a provider and binds buffers to its inputs and outputs. Knows no tokens."""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ProviderError
from edgelm.integer_products import products_overflow
from edgelm.providers import Provider

if TYPE_CHECKING:
    import onnxruntime


class Program:
    """A graph loaded into ONNX Runtime; several bindings may run on it.

    Attributes:
        session: ONNX Runtime's.
        bound_seconds: time spent so far in runs on bound buffers.
    """

    def __init__(self, path: Path, provider: Provider, threads: int | None = None, graph: bytes | None = None) -> None:
        """Loads the graph.

        Args:
            path: the .onnx file.
            provider: where it runs.
            threads: threads inside an operator; None leaves the choice to ONNX Runtime (one a physical core).
            graph: what to load instead of the file; its weights still lie beside it.

        Raises:
            ProviderError: ONNX Runtime refuses the graph.
        """
        import onnxruntime  # lazy, so that `import edgelm` stays light

        self.bound_seconds = 0.0
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        config = dict(provider.session_config)
        if products_overflow(provider.ort_name):
            config.update(provider.exact_products)
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        if graph is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        try:
            self.session = onnxruntime.InferenceSession(graph or str(path), options, providers=[provider.ort_name])
        except Exception as error:  # ONNX Runtime raises bare and undocumented types
            raise ProviderError(f"ONNX Runtime {onnxruntime.__version__} refuses {path}: {error}") from error

    @property
    def inputs(self) -> list[str]:
        """Names of what the graph takes."""
        return [port.name for port in self.session.get_inputs()]

    @property
    def input_shapes(self) -> dict[str, list[Any]]:
        """Their shapes, by name; a dimension that is free is text."""
        return {port.name: port.shape for port in self.session.get_inputs()}

    @property
    def outputs(self) -> list[str]:
        """Names of what the graph gives."""
        return [port.name for port in self.session.get_outputs()]

    def columns(self, output: str) -> int | None:
        """Length of an output's last axis, where ONNX Runtime knows it before it runs."""
        shape = next(port.shape for port in self.session.get_outputs() if port.name == output)
        return shape[-1] if isinstance(shape[-1], int) else None

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """Those outputs of the graph, in memory of their own; several threads may run at once."""
        return cast("list[NDArray[np.float32]]", self.session.run(list(outputs), dict(feeds)))

    def run_values(self, feeds: Mapping[str, onnxruntime.OrtValue], outputs: Sequence[str]) -> dict[str, Any]:
        """The same on values of ONNX Runtime, by name: what one run puts out goes into the next without a copy."""
        return dict(zip(outputs, self.session.run_with_ort_values(list(outputs), dict(feeds)), strict=True))

    def binding(self) -> Binding:
        """A fresh set of bound buffers."""
        return Binding(self)


class Binding:
    """Buffers bound to a program's inputs and outputs by name, kept alive here, read and written in place by `run`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._io = program.session.io_binding()
        self._values: dict[str, onnxruntime.OrtValue] = {}

    def bind(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Binds arrays without copying them; each must stay contiguous and in place for as long as it is bound."""
        import onnxruntime

        for name, array in inputs.items():
            self._values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            self._io.bind_ortvalue_input(name, self._values[name])
        for name, array in outputs.items():
            self._values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            self._io.bind_ortvalue_output(name, self._values[name])

    def run(self) -> None:
        """Executes the program on what is bound; outputs land in their buffers."""
        start = time.perf_counter()
        self._program.session.run_with_iobinding(self._io)
        self._program.bound_seconds += time.perf_counter() - start


def value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    """An array as a value of ONNX Runtime over the same memory, which it keeps alive."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def buffer(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """A zeroed array to bind. Pages of it cost memory only once they are written."""
    return np.zeros(shape, dtype)


def sparse_buffer(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The same for large arrays of which little may ever be written.

    NumPy asks the system for huge pages, and a cache [rows, heads, positions, ...] takes one a head with its first
    position: 28 MB for the keys and values of a 4,096 token window after a prompt of 20. These pages are small.
    """
    count = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(dtype).itemsize), dtype).reshape(shape)
