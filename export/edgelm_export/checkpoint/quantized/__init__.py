"""A checkpoint whose weights are stored quantized in, the same with the values they stand for out.

Each format is a file with one function: it reads its settings, checks the headers of the tensors it knows, and puts
logical tensors (`X.weight`) in the place of their parts (codes, scales). No weight is read before a row is asked for.
Which modules were left unquantized is seen from the tensors: the lists of exceptions in the configs are patterns that
mean something else in every library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.checkpoint.quantized.awq import read_awq
from edgelm_export.checkpoint.quantized.bitsandbytes import read_bitsandbytes
from edgelm_export.checkpoint.quantized.compressed_tensors import read_compressed_tensors
from edgelm_export.checkpoint.quantized.fp8 import read_fp8
from edgelm_export.checkpoint.quantized.gptq import read_gptq
from edgelm_export.checkpoint.quantized.mlx import is_mlx, read_mlx
from edgelm_export.checkpoint.quantized.mxfp4 import read_mxfp4
from edgelm_export.checkpoint.quantized.tensors import StoredTensors
from edgelm_export.config_reader import ConfigReader
from edgelm_export.wording import listed

# The settings and the tensors in, how the weights are stored out, in words; what is wrong is noted in both.
Format = Callable[[ConfigReader, StoredTensors], str]

FORMATS: Mapping[str, Format] = {  # by quant_method
    "awq": read_awq,
    "bitsandbytes": read_bitsandbytes,
    "compressed-tensors": read_compressed_tensors,
    "fp8": read_fp8,
    "gptq": read_gptq,
    "mlx": read_mlx,
    "mxfp4": read_mxfp4,
}
# The second is compressed-tensors' own, before 2025, the third MLX's, which may stand beside a copy under the first.
SETTINGS_KEYS = ("quantization_config", "compression_config", "quantization")

_SHOWN = 10


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with logical float32 tensors, if its config names a format that is known; else as it is.

    The settings leave the config of a checkpoint that was understood, so `unread_format` finds what was not.

    Raises:
        UnsupportedConfig: settings that the format's reader does not support, all of them.
        CheckpointError: tensors that are missing or contradict the settings, all of them.
    """
    key = _settings_key(checkpoint.config)
    method = _method(checkpoint.config[key]) if key else None
    if key is None or method is None or method not in FORMATS:
        return checkpoint
    config, tensors = ConfigReader(checkpoint.config[key]), StoredTensors(checkpoint.tensors)
    config.get("quant_method")
    stored_as = FORMATS[method](config, tensors)
    where = f"{checkpoint.files[0]}: {key} {method!r}"
    if config.problems:
        raise UnsupportedConfig(
            f"{where} cannot be read: {listed(config.problems, most=_SHOWN)}; take the unquantized checkpoint"
        )
    if tensors.problems:
        raise CheckpointError(
            f"{where} does not fit the tensors (is it this checkpoint's?): {listed(tensors.problems, most=_SHOWN)}"
        )
    unknown = [f"{key} {name!r} is not known to edgelm and was not used" for name in config.unread()]
    return replace(
        checkpoint,
        config={name: value for name, value in checkpoint.config.items() if name not in SETTINGS_KEYS},
        tensors=tensors.logical,
        quantization=f"{stored_as}: {tensors.replaced} tensors",
        notes=(*checkpoint.notes, *tensors.notes, *unknown),
    )


def unread_format(config: Mapping[str, Any]) -> str | None:
    """What is wrong with the quantization that a config still names; None where it names none."""
    if (key := _settings_key(config)) is None:
        return None
    kind = "of an unnamed kind" if (method := _method(config[key])) is None else repr(method)
    return f"{key} {kind} is not read yet (known: {', '.join(FORMATS)}); take the unquantized checkpoint"


def _settings_key(config: Mapping[str, Any]) -> str | None:
    return next((key for key in SETTINGS_KEYS if config.get(key)), None)


def _method(settings: Any) -> str | None:
    if not isinstance(settings, dict):
        return None
    method = cast(dict[str, Any], settings).get("quant_method")
    if method is None and is_mlx(cast(dict[str, Any], settings)):
        return "mlx"
    return method if isinstance(method, str) else None
