"""Who runs a decoder: our packages of several precisions, and onnxruntime-genai's of the same checkpoint."""

from __future__ import annotations

from functools import partial

from contenders import EDGELM, Contender, build_in, export_package

# The float package is what every other one is compared with; it is not measured for speed unless named.
REFERENCE = "edgelm-fp32"
PEER = "genai-int4"
DEFAULT = ("edgelm-int4", "edgelm-int4-plain", "edgelm-int8", PEER, "genai-int4-own-threads")

_GENAI = ("onnxruntime-genai", "onnxruntime", "torch", "transformers")


def decoders(threads: int) -> dict[str, Contender]:
    """All of them, by name."""
    described = [
        _edgelm("int4", "edgelm, default int4", threads),
        _edgelm("int4-plain", "edgelm, round to nearest, block 32, 8-bit head", threads),
        _edgelm("int8", "edgelm, int8", threads),
        _edgelm("fp32", "edgelm, float32", threads),
        _genai(PEER, f"onnxruntime-genai, int4, accuracy level 4, {threads} threads", threads),
        _genai("genai-int4-own-threads", "the same, with the number of threads it chooses itself", None),
    ]
    return {contender.name: contender for contender in described}


def _edgelm(precision: str, about: str, threads: int) -> Contender:
    name = f"edgelm-{precision}"
    return Contender(name, about, "worker_edgelm.py", EDGELM, threads, partial(export_package, precision), name)


def _genai(name: str, about: str, threads: int | None) -> Contender:
    make = partial(build_in, "genai", "build_genai.py")
    return Contender(name, about, "worker_genai.py", _GENAI, threads, make, PEER, peer="genai")
