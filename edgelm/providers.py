"""One Provider(...) entry per execution provider, and the check that exactly one ONNX Runtime is installed.

A fact enters an entry only together with the code that reads it; exporter and runtime share the entries.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgelm.errors import ProviderError


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: what `--device` calls it.
        ort_name: what ONNX Runtime calls it.
        extra: the extra of this distribution that installs it.
        activation_dtype: dtype of hidden states and cache, as NumPy spells it.
        accuracy_level: MatMulNBits attribute. On CPU, 4 (int8 activations, one scale a block) is 3.7 to 4.8 times as fast as
            float activations at one row.
        bucket_tokens: tokens of an encoder's texts that run together, padding included; a longer text runs alone. On CPU few do,
            a thread each: activations stay in the cache, and no thread waits for another.
        pads: whether texts of different lengths may run together. On CPU padding costs what tokens cost, and texts of one length
            gain 1.2 times over texts alone.
        session_config: ONNX Runtime session configuration entries.
        exact_products: more of them, for processors on which integer products overflow without (integer_products.py).
    """

    name: str
    ort_name: str
    extra: str
    activation_dtype: str
    accuracy_level: int
    bucket_tokens: int
    pads: bool
    session_config: Mapping[str, str] = field(default_factory=dict[str, str])
    exact_products: Mapping[str, str] = field(default_factory=dict[str, str])


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider(
        "cpu",
        "CPUExecutionProvider",
        "cpu",
        "float32",
        accuracy_level=4,
        bucket_tokens=256,
        pads=False,
        session_config={
            # A sum and its norm fused into one take 7.5 times as long as apart (rows of 768, ONNX Runtime 1.31).
            "optimization.disable_specified_optimizers": "SkipLayerNormFusion",
        },
        # Without it, products of uint8 and int8 are off by a tenth with AVX2 and no VNNI, without a word. The kernel it takes is 1.3
        # times slower there, and would be up to ten times slower with AMX.
        exact_products={"session.x64quantprecision": "1"},
    ),
}

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


def find_provider(device: str, *, package_device: str = "cpu") -> Provider:
    """The provider for `--device`; "auto" takes the one the package was exported for.

    Raises:
        ProviderError: no entry of that name, or this ONNX Runtime lacks the provider.
    """
    check_onnxruntime()
    name = package_device if device == "auto" else device
    if name not in PROVIDERS:
        raise ProviderError(f"device {device!r} is not known (known: auto, {', '.join(PROVIDERS)})")
    provider = PROVIDERS[name]
    lacking = missing(provider)
    if lacking:
        raise ProviderError("; ".join(lacking))
    return provider


def missing(provider: Provider) -> tuple[str, ...]:
    """What keeps this machine from using a provider, each with the way to get it; empty where nothing does."""
    import onnxruntime  # lazy, so that `import edgelm` stays light

    if provider.ort_name in onnxruntime.get_available_providers():
        return ()
    return (
        f"this ONNX Runtime has no {provider.ort_name}; install one that has: pip install 'edgelm[{provider.extra}]'",
    )


def check_onnxruntime() -> None:
    """Makes sure that one ONNX Runtime is installed, and only one: both wheels write into the same folder.

    Raises:
        ProviderError: none is installed, or two are.
    """
    found = [name for name in _DISTRIBUTIONS if _installed(name)]
    if len(found) > 1:
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; keep one: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgelm[cpu]' (or 'edgelm[cuda]')"
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise ProviderError(
            "ONNX Runtime is not installed; choose one: pip install 'edgelm[cpu]' or pip install 'edgelm[cuda]'"
        )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
