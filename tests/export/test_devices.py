"""Packages for several devices, and what such packages cannot have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.errors import InvalidOption

GOLDEN = Path(__file__).parents[1] / "golden" / "llama"


def test_the_first_form_is_measured_and_recorded(tmp_path: Path) -> None:
    package = edgelm.export(GOLDEN, tmp_path / "out", precision="int4", device="cpu,cuda")
    assert package.manifest.quality["prefill"]
    assert package.manifest.recorded_run["token_ids"]
    other = package.on(("cuda",))
    assert (other.probes, other.manifest.programs) == ("probes.cuda.onnx", {"decoder": "decoder.cuda.onnx"})
    assert {other.probes, "decoder.cuda.onnx"} <= set(package.manifest.files)
    assert other.manifest.probes.keys()
    assert not other.manifest.recorded_run
    assert package.on(("cuda", "cpu")).manifest.device == "cuda"
    assert package.on(("cpu",)) is package


def test_activations_of_16_bits_are_not_measured_and_that_is_said(tmp_path: Path) -> None:
    package = edgelm.export(GOLDEN, tmp_path / "out", precision="int4", device="cuda")
    assert package.manifest.quality == {"skipped": "skipped: activations are float16; --device cpu,cuda measures cpu's"}
    assert not package.manifest.recorded_run


@pytest.mark.parametrize("device", ["cuda", "cpu,cuda"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"keep_adapter": {"one": "folder"}}, "--keep-adapter: not for packages that run on cuda"),
        ({"max_kld": 0.1}, "--max-kld: not for packages that run on cuda; export with --device cpu"),
        ({"target_size": "1MB"}, "--target-size: not for packages that run on cuda"),
        ({"precision": "keep"}, "recipe keep: cuda lacks kernels for a checkpoint's own integers; name another"),
    ],
)
def test_what_does_not_work_with_cuda_is_refused(
    device: str, options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match=match):
        edgelm.export(GOLDEN, tmp_path / "out", device=device, **options)
    assert not (tmp_path / "out").exists()
