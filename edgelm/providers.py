"""One Provider(...) entry per execution provider, and the choice among them on the machine at hand.

A fact enters an entry only together with the code that reads it; exporter and runtime share the entries.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from edgelm import cuda
from edgelm.errors import InvalidOption, ProviderError

# How the manifest, ONNX Runtime and NumPy spell what people type.
DTYPES: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    What the exporter reads:
        activation_dtype: dtype of hidden states and cache, as NumPy spells it.
        activation_dtypes: those an export may choose from. CUDA's fused attention has no float32.
        accuracy_level: MatMulNBits attribute. On CPU, 4 (int8 activations, one scale a block) is 3.7 to 4.8 times as fast as
            float activations at one row.
        integer_products: whether there are kernels for products of integers whose input is rounded too.
        block_sums: whether the format with fractional zero points pays, whose inputs are longer by the sums of their blocks. On CUDA
            such a width is none that the kernel for single rows takes (a multiple of 8).
        keeps_integers: whether there are known to be kernels for all blocks that a checkpoint's own integers may come in. Nobody has
            tried 2 bits on CUDA.
        window_cache: whether the attention kernel drops what has left a layer's window.
        branches: whether a graph may decide what it runs. A captured CUDA graph cannot.
        integer_cache: whether the attention kernel is known to read keys and values from integers. Nobody has tried it on CUDA.

    What the runtime reads:
        name: what `--device` calls it.
        ort_name: what ONNX Runtime calls it.
        install: what to install for it.
        runs: devices of packages whose programs it runs, in order of preference.
        takes: dtypes of activations that it computes with, where need be by casting them.
        narrow_config: ONNX Runtime session configuration entries for activations of 16 bits, in place of those in session_config.
        bucket_tokens: tokens of an encoder's texts that run together, padding included; a longer text runs alone. On CPU few do,
            a thread each: activations stay in the cache, and no thread waits for another.
        pads: whether texts of different lengths may run together. On CPU padding costs what tokens cost, and texts of one length
            gain 1.2 times over texts alone.
        session_config: ONNX Runtime session configuration entries.
        exact_products: more of them, for processors on which integer products overflow without (integer_products.py).
        plugin: the package of the index that brings it as a library, where it is not built into ONNX Runtime.
        device_memory: cache, ids and logits live in the memory of the device, and decode steps are captured.
        index: which device of its kind.
        options: provider options of ONNX Runtime.
        note: why `auto` chose no better one.
    """

    name: str
    ort_name: str
    install: str
    activation_dtype: str = "float32"
    activation_dtypes: tuple[str, ...] = ("float32",)
    accuracy_level: int = 4
    integer_products: bool = True
    block_sums: bool = True
    keeps_integers: bool = True
    window_cache: bool = True
    branches: bool = True
    integer_cache: bool = True
    runs: tuple[str, ...] = ("cpu",)
    takes: tuple[str, ...] = ("float32", "float16")
    narrow_config: Mapping[str, str] = field(default_factory=dict[str, str])
    bucket_tokens: int = 256
    pads: bool = False
    session_config: Mapping[str, str] = field(default_factory=dict[str, str])
    exact_products: Mapping[str, str] = field(default_factory=dict[str, str])
    plugin: str | None = None
    device_memory: bool = False
    index: int = 0
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    note: str = ""

    @property
    def device(self) -> str:
        """The provider and which device of its kind, as `--device` takes it."""
        return f"{self.name}:{self.index}" if self.index or self.device_memory else self.name

    def recording(self) -> Provider:
        """The same whose sessions remember which node runs where; see `Program.placement`."""
        return replace(self, session_config={**self.session_config, "session.record_ep_graph_assignment_info": "1"})

    def computing(self, activations: str) -> Provider:
        """The same as it runs programs with activations of one of the dtypes that it `takes`."""
        if activations == "float32":
            return self
        return replace(self, activation_dtype=activations, session_config={**self.session_config, **self.narrow_config})

    def taking_turns(self) -> Provider:
        """The same whose threads stop with each run, for two sessions that run in turn on the same cores.

        ONNX Runtime lets them spin for a while, which takes the cores from the other session: guesses of an int4 model for its own
        fp32 form took 60 ms each, and 17 ms without; the steps between them took as long as before (2 cores, SmolLM2).
        """
        return replace(self, session_config={**self.session_config, "session.force_spinning_stop": "1"})

    def with_activations(self, dtype: str) -> Provider:
        """The same with activations of that dtype, as people type it.

        Raises:
            InvalidOption: the provider has no kernels for it.
        """
        if DTYPES.get(dtype) not in self.activation_dtypes:
            known = ", ".join(name for name, spelt in DTYPES.items() if spelt in self.activation_dtypes)
            raise InvalidOption(
                f"activations {dtype!r} are none that device {self.name} computes with (known: {known})"
            )
        return replace(self, activation_dtype=DTYPES[dtype])


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider(
        "cpu",
        "CPUExecutionProvider",
        "pip install -U 'edgelm[cpu]'",
        runs=("cpu", "cuda"),
        session_config={
            # A sum and its norm fused into one take 7.5 times as long as apart (rows of 768, ONNX Runtime 1.31).
            "optimization.disable_specified_optimizers": "SkipLayerNormFusion",
        },
        narrow_config={
            # Products of two transposed inputs, DeBERTa's, crash ONNX Runtime 1.31 and 1.32 when it fuses them around its casts.
            "optimization.disable_specified_optimizers": "SkipLayerNormFusion;MatmulTransposeFusion",
        },
        # Without it, products of uint8 and int8 are off by a tenth with AVX2 and no VNNI, without a word. The kernel it takes is 1.3
        # times slower there, and would be up to ten times slower with AMX.
        exact_products={"session.x64quantprecision": "1"},
    ),
    "cuda": Provider(
        "cuda",
        "CUDAExecutionProvider",
        "pip uninstall -y onnxruntime && pip install -U 'edgelm[cuda]'",
        activation_dtype="float16",
        activation_dtypes=("float16", "bfloat16"),
        accuracy_level=0,
        integer_products=False,
        block_sums=False,
        keeps_integers=False,
        window_cache=False,
        branches=False,
        integer_cache=False,
        runs=("cuda",),
        takes=("float32", "float16", "bfloat16"),
        bucket_tokens=16384,
        pads=True,
        device_memory=True,
        options={
            # The arena would double what it has each time; what it needs is known after the first steps.
            "arena_extend_strategy": "kSameAsRequested",
            # Without it, every new length of a text is searched the best of all convolutions for.
            "cudnn_conv_algo_search": "HEURISTIC",
        },
    ),
}

# Providers that come as a library in a package of their own, by what people call them; the package tells what ONNX Runtime does.
PLUGINS: Mapping[str, str] = {
    "webgpu": "onnxruntime-ep-webgpu",
    "openvino": "onnxruntime-ep-openvino",
    "mlx": "onnxruntime-ep-mlx",
    "tensorrt-rtx": "onnxruntime-ep-nv-tensorrt-rtx",
}

# OpenVINO would compute in bfloat16 where a processor can: logits of the golden llama are 1.3 % off then, and 7e-7 like this.
_PLUGIN_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "openvino": {"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'},
}

# Where several can, `auto` takes the first.
_PREFERRED = ("cuda", "cpu")

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


def find_provider(
    device: str, *, package_devices: Sequence[str] = ("cpu",), options: Mapping[str, str] | None = None
) -> Provider:
    """The provider for `--device`, which may carry a number, as in "cuda:1"; "auto" takes the best that package and machine both can.

    Args:
        device: "auto", the name of an entry or of a plugin, or the name of a package that brings a provider.
        package_devices: what the package has programs for.
        options: provider options of ONNX Runtime, beside the entry's own.

    Raises:
        ProviderError: no entry of that name, or what it needs is missing; the message says how to get it.
    """
    check_onnxruntime()
    if device == "auto":
        return _with_options(_best(package_devices), options)
    name, _, number = device.partition(":")
    if number and not number.isdecimal():
        raise ProviderError(f"device {device!r}: {number!r} is not the number of a device; write it as {name}:0")
    entry = PROVIDERS[name] if name in PROVIDERS else plugin_provider(name)
    provider = replace(entry, index=int(number or 0))
    lacking = missing(provider)
    if lacking:
        raise ProviderError(f"device {device} cannot be used: {'; '.join(lacking)}")
    if not set(provider.runs) & set(package_devices):
        raise ProviderError(
            f"the package has programs for {' and '.join(package_devices)}, and device {device} runs those for "
            f"{' or '.join(provider.runs)}; export it again with --device {','.join((*package_devices, provider.runs[0]))}"
        )
    return _with_options(provider, options)


def missing(provider: Provider) -> tuple[str, ...]:
    """What keeps this machine from using a provider, each with the way to get it; empty where nothing does."""
    if provider.plugin is not None:
        return _absent(provider, len(plugin_devices(provider)))
    import onnxruntime  # lazy, so that `import edgelm` stays light

    found: list[str] = []
    if provider.ort_name not in onnxruntime.get_available_providers():
        found.append(f"this build of ONNX Runtime has no {provider.ort_name}: {provider.install}")
    if provider.device_memory:
        found += cuda.problems()
    if not found:
        found += _absent(provider, cuda.device_count() if provider.device_memory else 1)
    return tuple(found)


def plugin_devices(provider: Provider) -> list[Any]:
    """What a plugin whose library is registered can run on, as ONNX Runtime describes it."""
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.ort_name]


def plugin_provider(name: str) -> Provider:
    """The provider that an installed package brings, its library registered: that of PLUGINS, onnxruntime-ep-NAME, or NAME itself.

    Raises:
        ProviderError: no such package is installed, or ONNX Runtime refuses its library.
    """
    for package in (PLUGINS[name],) if name in PLUGINS else (f"onnxruntime-ep-{name}", name):
        if installed(package):
            install = f"pip install {package}"
            entry = Provider(name, _register(package), install, plugin=package, bucket_tokens=2048, pads=True)
            return replace(entry.recording(), options=_PLUGIN_OPTIONS.get(name, {}))
    if name in PLUGINS:
        raise ProviderError(
            f"device {name} cannot be used: {PLUGINS[name]} is not installed: pip install {PLUGINS[name]}"
        )
    raise ProviderError(
        f"device {name!r} is not known (known: auto, {', '.join((*PROVIDERS, *PLUGINS))}, and packages that bring a provider)"
    )


def check_onnxruntime() -> None:
    """Makes sure that one ONNX Runtime is installed, and only one: both wheels write into the same folder.

    Raises:
        ProviderError: none is installed, or two are.
    """
    found = [name for name in _DISTRIBUTIONS if installed(name)]
    if len(found) > 1:
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; keep one: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgelm[cpu]' (or 'edgelm[cuda]')"
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise ProviderError(
            "ONNX Runtime is not installed; choose one: pip install 'edgelm[cpu]' or pip install 'edgelm[cuda]'"
        )


def _best(package_devices: Sequence[str]) -> Provider:
    """The first of the preferred ones that has programs here and lacks nothing."""
    lacking: list[str] = []
    for name in _PREFERRED:
        if name in package_devices:
            reasons = missing(PROVIDERS[name])
            if not reasons:
                return replace(PROVIDERS[name], note="; ".join(lacking))
            lacking.append(f"{name} cannot be used: {'; '.join(reasons)}")
    if not lacking:
        raise ProviderError(
            f"the package is for device {' and '.join(package_devices)}, which this edgelm does not know"
        )
    raise ProviderError(f"the package has programs for {' and '.join(package_devices)} only, and {'; '.join(lacking)}")


def _with_options(provider: Provider, options: Mapping[str, str] | None) -> Provider:
    return replace(provider, options={**provider.options, **(options or {})})


def _absent(provider: Provider, count: int) -> tuple[str, ...]:
    if provider.index < count:
        return ()
    return (f"there is no device {provider.index}: {provider.name} has {count} on this machine, counted from 0",)


@cache  # a library is registered once a process
def _register(package: str) -> str:
    """Registers the library of an installed package; returns what ONNX Runtime calls its provider."""
    import onnxruntime

    try:
        module = importlib.import_module(package.replace("-", "_"))
        name, path = (
            getattr(module, f"get_{what}", None) or getattr(module, what) for what in ("ep_name", "library_path")
        )
        onnxruntime.register_execution_provider_library(name(), path())
    except Exception as error:  # a stranger's package and ONNX Runtime both raise bare and undocumented types
        raise ProviderError(f"ONNX Runtime {onnxruntime.__version__} cannot load {package}: {error}") from error
    return name()


def installed(distribution: str) -> bool:
    """Whether a distribution is there, by its name on the package index."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
