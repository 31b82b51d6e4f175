"""A float32 GGUF file whose weights lie on no quantizer's grid: those of a quantized one, each off by a third of its block's step or so.

Models that can be had from package indexes were quantized before, and the type they were quantized to gets their own grid for free.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, ReaderTensor
from gguf.quants import dequantize

# Standard deviation of what is added, in steps of a block.
NOISE = 1 / 3


def write_off_grid(source: Path, target: Path, seed: int = 0) -> None:
    """Writes the float32 file; the same seed gives the same bytes.

    Raises:
        ValueError: a tensor of a type whose step is not known here.
    """
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    writer.add_file_type(0)  # all float32
    random = np.random.default_rng(seed)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, _moved(tensor, random))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _moved(tensor: ReaderTensor, random: np.random.Generator) -> np.ndarray:
    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    steps = _steps(tensor)
    if steps is None:
        return values
    noise = (
        random.standard_normal(values.size, np.float32).reshape(len(steps), -1) * (steps * np.float32(NOISE))[:, None]
    )
    return values + noise.reshape(values.shape)


def _steps(tensor: ReaderTensor) -> np.ndarray | None:
    """Distance of neighbouring values, block by block in the order of the values; None of a float tensor."""
    if tensor.tensor_type == GGMLQuantizationType.F32:
        return None
    if tensor.tensor_type not in _LAYOUTS:
        known = ", ".join(kind.name for kind in _LAYOUTS)
        raise ValueError(f"{tensor.name} is {tensor.tensor_type.name}: only F32, {known} are known here")
    size, at = _LAYOUTS[tensor.tensor_type]
    blocks = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1, size)
    scale = blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)
    if tensor.tensor_type == GGMLQuantizationType.Q6_K:
        scale = scale * blocks[:, 192:208].copy().view(np.int8)  # that of 16 parts of a block
    return np.abs(scale).ravel()


# Bytes of a block, and where its float16 scale lies in it.
_LAYOUTS = {
    GGMLQuantizationType.Q4_1: (20, 0),
    GGMLQuantizationType.Q8_0: (34, 0),
    GGMLQuantizationType.Q6_K: (210, 208),
}


if __name__ == "__main__":
    write_off_grid(Path(sys.argv[1]), Path(sys.argv[2]))
