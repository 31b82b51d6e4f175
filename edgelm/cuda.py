"""CUDA as far as edgelm calls it itself: what a machine lacks, and arrays in device memory. ONNX Runtime does all the computing.

The runtime library is the one that ONNX Runtime's provider is linked to, so addresses mean the same on both sides.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import math
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import OutOfDeviceMemory, ProviderError

# What onnxruntime-gpu 1.31 and 1.32 are linked to, on Linux and on Windows. cuDNN alone is opened by operators that want it:
# mixtures of experts, cross attention, classifiers and convolutions do.
CUDA_MAJOR = 13
_DRIVER = ("libcuda.so.1", "nvcuda.dll")
_RUNTIME = ("libcudart.so.13", "cudart64_13.dll")
_LIBRARIES = {
    "the CUDA runtime": _RUNTIME,
    "cuBLAS": ("libcublas.so.13", "cublas64_13.dll"),
    "cuBLASLt": ("libcublasLt.so.13", "cublasLt64_13.dll"),
    "cuRAND": ("libcurand.so.10", "curand64_10.dll"),
    "cuDNN": ("libcudnn.so.9", "cudnn64_9.dll"),
}

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_ANY_DIRECTION = 4  # cudaMemcpyDefault


def host_dtype(dtype: Any) -> Any:
    """The type of NumPy that holds what a device computes with; it has no bfloat16, whose values nothing on the host reads."""
    return "uint16" if dtype == "bfloat16" else dtype


def problems() -> list[str]:
    """What keeps this machine from using CUDA, each with the way to get it; empty where nothing does."""
    found: list[str] = []
    driver = driver_version()
    if driver is None:
        found.append(
            f"there is no NVIDIA driver ({_name(_DRIVER)}): install one that supports CUDA {CUDA_MAJOR} (580 or newer)"
        )
    elif driver[0] < CUDA_MAJOR:
        found.append(
            f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]} only and CUDA {CUDA_MAJOR} is needed: update it to 580 or newer"
        )
    lacking = [title for title, there in libraries().items() if not there]
    if lacking:
        found.append(
            f"{', '.join(lacking)} cannot be loaded, which onnxruntime-gpu wants of CUDA {CUDA_MAJOR}: pip install 'edgelm[cuda]'"
        )
    return found


def libraries() -> dict[str, bool]:
    """What ONNX Runtime opens of CUDA, and whether the system or NVIDIA's wheels have it."""
    preload()
    named = {f"{title} ({_name(names)})": _name(names) for title, names in _LIBRARIES.items()}
    return {title: _library(name) is not None for title, name in named.items()}


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports, or None without a driver."""
    driver = _library(_name(_DRIVER))
    if driver is None:
        return None
    version = ctypes.c_int()
    return _split(version.value) if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def device_count() -> int:
    """How many GPUs there are.

    Raises:
        ProviderError: the runtime library is missing or fails.
    """
    count = ctypes.c_int()
    _check(_runtime().cudaGetDeviceCount(ctypes.byref(count)), "the GPUs cannot be counted")
    return count.value


@cache
def preload() -> None:
    """Loads CUDA's libraries from NVIDIA's wheels, where they are installed, so that ONNX Runtime finds them."""
    import onnxruntime  # lazy, so that `import edgelm` stays light

    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; `problems` says it better
            onnxruntime.preload_dlls()


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of one GPU; errors name the bytes of `weights` that lie there already."""

    index: int
    weights: int = 0

    def empty(self, shape: Sequence[int], dtype: str, *, sparse: bool = False) -> DeviceArray:
        """A zeroed array; `sparse` means nothing here.

        Raises:
            OutOfDeviceMemory: there is no room for it.
        """
        itemsize = np.dtype(host_dtype(dtype)).itemsize
        nbytes = math.prod(shape) * itemsize
        block = _Block(self.index, nbytes, self.weights)
        strides = tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return DeviceArray(block, block.address, tuple(shape), strides, dtype)

    def room(self) -> tuple[int, int]:
        """Bytes that are free, and bytes in all."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        _call(self.index, "cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value


class DeviceArray:
    """An array in device memory with as much of NumPy's indexing as a cache needs: integers and slices, read and assigned.

    What an index gives is a view. Assigned are arrays of the same shape, on the device or on the host.
    """

    def __init__(
        self, block: _Block, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str
    ) -> None:
        """A view of a block of memory, which lives as long as its views; strides in bytes."""
        self._block = block
        self.address = address
        self.shape = shape
        self.strides = strides
        self.dtype = dtype

    @property
    def memory(self) -> DeviceMemory:
        """Where it is."""
        return DeviceMemory(self._block.index)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(host_dtype(self.dtype)).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]) -> DeviceArray:
        parts = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in parts:
            place = parts.index(Ellipsis)
            parts[place : place + 1] = [slice(None)] * (len(self.shape) - len(parts) + 1)
        parts += [slice(None)] * (len(self.shape) - len(parts))
        address, shape, strides = self.address, list[int](), list[int]()
        for part, size, stride in zip(parts, self.shape, self.strides, strict=True):
            if isinstance(part, slice):
                start, stop, step = part.indices(size)
                address += start * stride
                shape.append(len(range(start, stop, step)))
                strides.append(step * stride)
            elif isinstance(part, EllipsisType) or not -size <= part < size:
                raise IndexError(f"index {part} is outside an axis of {size}")
            else:
                address += part % size * stride
        return DeviceArray(self._block, address, tuple(shape), tuple(strides), self.dtype)

    def __setitem__(self, key: Any, values: DeviceArray | NDArray[Any]) -> None:
        target = self[key]
        if isinstance(values, np.ndarray):
            values = np.asarray(values)
        _copy(self._block.index, _place(target), _place(values))

    def copy(self) -> DeviceArray:
        """The same values in memory of their own, in rows that follow each other."""
        made = self.memory.empty(self.shape, self.dtype)
        made[...] = self
        return made

    def take(self, rows: Sequence[int], axis: int) -> DeviceArray:
        """Copies of these rows below each other; `axis` is 0."""
        made = self.memory.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows):
            made[place] = self[row]
        return made

    def numpy(self) -> NDArray[Any]:
        """The values on the host; bfloat16 as uint16 of the same bits."""
        values = np.empty(self.shape, host_dtype(self.dtype))
        self.into(values)
        return values

    def tobytes(self) -> bytes:
        """The bytes of the values, in order."""
        return self.numpy().tobytes()

    def into(self, values: NDArray[Any]) -> None:
        """Writes the values into an array on the host."""
        _copy(self._block.index, _place(values), _place(self))


class _Block:
    """Device memory that is given back when nothing refers to it any more."""

    def __init__(self, index: int, nbytes: int, weights: int) -> None:
        pointer, self.index = ctypes.c_void_p(), index
        status = _call_status(index, "cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(1, nbytes)))
        if status == _OUT_OF_MEMORY:
            _runtime().cudaGetLastError()  # it would be reported again by whoever asks next
            free, total = DeviceMemory(index).room()
            raise OutOfDeviceMemory(nbytes, free, total, f"cuda:{index}", weights)
        _check(status, f"cudaMalloc of {nbytes} bytes")
        self.address = pointer.value or 0
        _call(index, "cudaMemset", pointer, 0, ctypes.c_size_t(max(1, nbytes)))
        _call(index, "cudaStreamSynchronize", None)
        weakref.finalize(self, _call_status, index, "cudaFree", pointer)


@dataclass(frozen=True)
class _Place:
    """Elements somewhere: address, shape, strides in bytes, bytes of an element."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int


def _place(values: DeviceArray | NDArray[Any]) -> _Place:
    address = values.address if isinstance(values, DeviceArray) else values.ctypes.data
    return _Place(address, values.shape, values.strides, values.itemsize)


def _copy(index: int, target: _Place, source: _Place) -> None:
    """Copies elements between device and host, or on the device, and waits for it: ONNX Runtime's stream would not."""
    if target.shape != source.shape or target.itemsize != source.itemsize:
        raise ValueError(f"{source.shape} of {source.itemsize} bytes into {target.shape} of {target.itemsize}")
    if 0 in target.shape:
        return
    axes = [
        (size, to, of) for size, to, of in zip(target.shape, target.strides, source.strides, strict=True) if size > 1
    ]
    width = target.itemsize  # of what lies together on both sides
    while axes and axes[-1][1] == axes[-1][2] == width:
        width *= axes.pop()[0]
    rows, to_pitch, of_pitch = axes.pop() if axes else (1, width, width)
    for steps in itertools.product(*(range(size) for size, _, _ in axes)):
        to = target.address + sum(step * axis[1] for step, axis in zip(steps, axes, strict=True))
        of = source.address + sum(step * axis[2] for step, axis in zip(steps, axes, strict=True))
        numbers = (to, to_pitch, of, of_pitch, width, rows)
        _call(index, "cudaMemcpy2D", *map(ctypes.c_size_t, numbers), _ANY_DIRECTION)
    _call(index, "cudaStreamSynchronize", None)


def _call(index: int, function: str, *arguments: Any) -> None:
    _check(_call_status(index, function, *arguments), function)


def _call_status(index: int, function: str, *arguments: Any) -> int:
    runtime = _runtime()
    status = runtime.cudaSetDevice(index)  # the current device is a thread's own
    return status or getattr(runtime, function)(*arguments)


def _check(status: int, what: str) -> None:
    if status:
        text = _runtime().cudaGetErrorString
        text.restype = ctypes.c_char_p
        raise ProviderError(f"{what}: CUDA error {status}, {text(status).decode()}")


@cache
def _runtime() -> ctypes.CDLL:
    preload()
    library = _library(_name(_RUNTIME))
    if library is None:
        raise ProviderError(f"{_name(_RUNTIME)} cannot be loaded; pip install 'edgelm[cuda]'")
    return library


def _library(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _name(names: tuple[str, str]) -> str:
    return names[sys.platform == "win32"]


def _split(version: int) -> tuple[int, int]:
    return version // 1000, version % 1000 // 10
