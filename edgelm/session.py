"""Opens a program on a provider and binds buffers to its inputs and outputs. Knows no tokens."""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.cuda import DeviceArray, DeviceMemory, preload
from edgelm.errors import OutOfDeviceMemory, ProviderError
from edgelm.host_memory import HOST_MEMORY, HostMemory
from edgelm.integer_products import products_overflow
from edgelm.providers import Provider, missing, plugin_devices

if TYPE_CHECKING:
    import onnxruntime


Array = NDArray[Any] | DeviceArray


class Memory(Protocol):
    """Where a program's large arrays live."""

    def empty(self, shape: Sequence[int], dtype: str, *, sparse: bool = False) -> Any:
        """A zeroed array with NumPy's basic indexing; `sparse` says that little of it may ever be written."""
        ...


class Program:
    """A graph loaded into ONNX Runtime; several bindings may run on it.

    Attributes:
        memory: where what it reads and writes in place lives.
        captures: whether bindings may be captured as CUDA graphs and replayed.
        session: ONNX Runtime's.
        bound_seconds: time spent so far in runs on bound buffers.
    """

    def __init__(
        self,
        path: Path,
        provider: Provider,
        threads: int | None = None,
        graph: bytes | None = None,
        *,
        capture: bool = False,
    ) -> None:
        """Loads the graph.

        Args:
            path: the .onnx file.
            provider: where it runs.
            threads: threads inside an operator; None leaves the choice to ONNX Runtime (one a physical core).
            graph: what to load instead of the file; its weights still lie beside it.
            capture: capture bindings where the provider can and every node of the graph allows it.

        Raises:
            ProviderError: ONNX Runtime refuses the graph, or does without the provider.
            OutOfDeviceMemory: the weights do not fit the device.
        """
        self.provider = provider
        self.memory = _memory(path, provider)
        self.bound_seconds = 0.0
        self.captures = capture and provider.device_memory
        self._numbers = itertools.count(1)
        try:
            self.session = _session(path, provider, threads, graph, capture=self.captures)
        except _NotCapturable:
            self.captures = False
            self.session = _session(path, provider, threads, graph, capture=False)
        ports = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.types = {port.name: str(port.type) for port in ports}

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

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Those outputs of the graph, in memory of their own; several threads may run at once."""
        # What is fed in the place of a weight has no type here.
        if _BFLOAT16 not in (self.types.get(name) for name in (*feeds, *outputs)):
            with self._explained():
                return self.session.run(list(outputs), dict(feeds))
        io = self.session.io_binding()
        for name, array in feeds.items():
            io.bind_ortvalue_input(name, value(array, self.types[name]))
        for name in outputs:
            io.bind_output(name)
        with self._explained():
            self.session.run_with_iobinding(io)
        return [_host_array(found) for found in io.get_outputs()]

    def run_values(self, feeds: Mapping[str, onnxruntime.OrtValue], outputs: Sequence[str]) -> dict[str, Any]:
        """The same on values of ONNX Runtime, by name: what one run puts out goes into the next without a copy."""
        with self._explained():
            found = self.session.run_with_ort_values(list(outputs), dict(feeds))
        return dict(zip(outputs, found, strict=True))

    def binding(self, *, repeats: bool = False) -> Binding:
        """A fresh set of bound buffers; one that `repeats` is captured where that is possible."""
        return Binding(self, next(self._numbers) if repeats and self.captures else None)

    def placement(self) -> dict[str, Counter[str]]:
        """How many nodes of each operator run on which provider; wants a provider with record_placement."""
        placed: dict[str, Counter[str]] = {}
        for part in self.session.get_provider_graph_assignment_info():
            operators = placed.setdefault(part.ep_name, Counter())
            operators.update(node.op_type for node in part.get_nodes())
        return placed

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Errors of ONNX Runtime that are about memory become ones that say so."""
        try:
            yield
        except Exception as error:  # ONNX Runtime raises bare and undocumented types
            raise _out_of_memory(error, self.provider, self.memory) or error from error

    def run_bound(self, io: Any, options: onnxruntime.RunOptions | None) -> None:
        """Executes the graph on what is bound."""
        with self._explained():
            self.session.run_with_iobinding(io, options)


class Binding:
    """Buffers bound to a program's inputs and outputs by name, kept alive here, read and written in place by `run`.

    Where the program runs in device memory, arrays of the host get a twin there: inputs are sent before each run, outputs
    fetched after it. Scalars stay on the host, for the graph computes shapes with them.
    """

    def __init__(self, program: Program, graph: int | None = None) -> None:
        """`graph` is the number under which a CUDA graph of this binding is kept; None runs node by node."""
        import onnxruntime

        self.captured = graph is not None
        self._program = program
        self._io = program.session.io_binding()
        self._kept: dict[str, Any] = {}
        self._sent: list[tuple[DeviceArray, NDArray[Any]]] = []
        self._fetched: list[tuple[DeviceArray, NDArray[Any]]] = []
        self._bound_again: list[str] = []
        # Only where they say something: ONNX Runtime 1.32 takes 0.12 ms to find no such entry in them.
        self._options: onnxruntime.RunOptions | None = None
        if program.captures:
            self._options = onnxruntime.RunOptions()
            self._options.add_run_config_entry("gpu_graph_id", "-1" if graph is None else str(graph))
        if graph is not None:
            weakref.finalize(self, program.session.release_captured_graph, graph)

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Binds arrays without copying them; each must stay contiguous and in place for as long as it is bound."""
        for name, array in inputs.items():
            device = self._placed(array)
            if isinstance(device, DeviceArray) and isinstance(array, np.ndarray):
                self._sent.append((device, array))
            self._bind(name, device, self._io.bind_ortvalue_input, self._io.bind_input)
            # Where a provider wants an input in memory of its own, ONNX Runtime copies it when it is bound.
            if isinstance(device, np.ndarray) and self._program.provider.name != "cpu":
                self._bound_again.append(name)
        for name, array in outputs.items():
            device = self._placed(array)
            if isinstance(device, DeviceArray) and isinstance(array, np.ndarray):
                self._fetched.append((device, array))
            self._bind(name, device, self._io.bind_ortvalue_output, self._io.bind_output)

    def run(self) -> None:
        """Executes the program on what is bound; outputs land in their buffers."""
        start = time.perf_counter()
        for device, array in self._sent:
            device[...] = array
        for name in self._bound_again:
            self._io.bind_ortvalue_input(name, self._kept[name])
        self._program.run_bound(self._io, self._options)
        for device, array in self._fetched:
            device.into(array)
        self._program.bound_seconds += time.perf_counter() - start

    def _placed(self, array: Array) -> Array:
        """The array as the program reads it."""
        memory = self._program.memory
        if isinstance(array, DeviceArray) or isinstance(memory, HostMemory) or array.ndim == 0:
            return array
        return memory.empty(array.shape, array.dtype.name)

    def _bind(self, name: str, array: Array, whole: Callable[..., None], address: Callable[..., None]) -> None:
        if isinstance(array, DeviceArray):
            self._kept[name] = array
            element = _BFLOAT16_ELEMENT if array.dtype == "bfloat16" else np.dtype(array.dtype).type
            address(name, "cuda", array.memory.index, element, list(array.shape), array.address)
            return
        self._kept[name] = value(array, self._program.types[name])
        whole(name, self._kept[name])


class _NotCapturable(Exception):
    """A graph has nodes that a CUDA graph cannot hold."""


def _session(
    path: Path, provider: Provider, threads: int | None, graph: bytes | None, *, capture: bool
) -> onnxruntime.InferenceSession:
    import onnxruntime  # lazy, so that `import edgelm` stays light

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    config = dict(provider.session_config)
    if provider.exact_products and products_overflow(provider.ort_name):
        config.update(provider.exact_products)
    if graph is not None:
        config["session.model_external_initializers_file_folder_path"] = str(path.parent)
    for key, entry in config.items():
        options.add_session_config_entry(key, entry)
    settings = dict(provider.options)
    if provider.device_memory:
        preload()
        settings |= {"device_id": str(provider.index), "enable_cuda_graph": str(int(capture))}
    try:
        if provider.plugin is not None:
            options.add_provider_for_devices([plugin_devices(provider)[provider.index]], settings)
            return onnxruntime.InferenceSession(graph or str(path), options)
        found = [(provider.ort_name, settings)]
        session = onnxruntime.InferenceSession(graph or str(path), options, providers=found)
    except Exception as error:  # ONNX Runtime raises bare and undocumented types
        if capture and "graph capture" in str(error):
            raise _NotCapturable from error
        refused = ProviderError(f"ONNX Runtime {onnxruntime.__version__} refuses {path}: {error}")
        full = _out_of_memory(error, provider, _memory(path, provider))
        raise (full.advise(_TOO_LARGE) if full else refused) from error
    if provider.ort_name not in session.get_providers():  # it takes the CPU instead, and says so in its log alone
        raise ProviderError(
            f"ONNX Runtime {onnxruntime.__version__} could not start {provider.ort_name}: "
            f"{'; '.join(missing(provider)) or 'see what edgelm doctor says'}"
        )
    return session


def _memory(path: Path, provider: Provider) -> Memory:
    """The memory that a provider computes in; that of a device holds the weights that lie beside the graph."""
    if not provider.device_memory:
        return HOST_MEMORY
    name = path.name.partition(".")[0]  # forms for several devices share the file
    return DeviceMemory(provider.index, sum(file.stat().st_size for file in path.parent.glob(f"{name}.*data")))


def _out_of_memory(error: Exception, provider: Provider, memory: Memory) -> OutOfDeviceMemory | None:
    """The error to raise where ONNX Runtime's is about device memory."""
    if not isinstance(memory, DeviceMemory) or not any(sign in str(error) for sign in _OUT_OF_MEMORY):
        return None
    needed = re.search(r"requested buffer of size (\d+)", str(error))
    return OutOfDeviceMemory(int(needed[1]) if needed else 0, *memory.room(), provider.device, memory.weights)


_TOO_LARGE = (
    "the model does not fit: export it with fewer bits (--precision), or take a GPU with more memory (--device cuda:1)"
)
_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "Available memory of")
# What elements of arrays are called, here and in ONNX Runtime.
TENSOR_TYPES = {
    "float32": "tensor(float)", "float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)",
    "int64": "tensor(int64)", "int32": "tensor(int32)", "int8": "tensor(int8)",
}  # fmt: skip
DTYPES = {kind: dtype for dtype, kind in TENSOR_TYPES.items()}

_BFLOAT16, _BFLOAT16_ELEMENT = TENSOR_TYPES["bfloat16"], 16


def _host_array(found: Any) -> NDArray[Any]:
    """What a value on the host holds; bfloat16, which NumPy lacks, as uint16."""
    if found.element_type() != _BFLOAT16_ELEMENT:
        return found.numpy()
    shape = found.shape()
    size = math.prod(shape)
    bits = (ctypes.c_uint16 * size).from_address(found.data_ptr()) if size else ()
    return np.array(bits, np.uint16).reshape(shape)


def value(array: NDArray[Any], kind: str = "") -> onnxruntime.OrtValue:
    """An array as a value of ONNX Runtime over the same memory, which it keeps alive; `kind` is the type of the port it goes to."""
    import onnxruntime

    if kind == _BFLOAT16 and array.dtype == np.uint16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16_ELEMENT)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array if array.flags.c_contiguous else np.ascontiguousarray(array))
