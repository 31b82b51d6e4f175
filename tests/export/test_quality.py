"""The quality card: what its figures mean, on distributions written by hand, and where an export puts it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgelm
from edgelm.errors import InvalidOption
from edgelm.package import Package
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.evaluation import built_in_text, choose_text
from edgelm_export.quality import Divergence
from edgelm_export.quality_page import PAGE, PLOT, plot
from edgelm_export.quantize.formats import FORMATS
from tests.architectures.encoder_goldens import golden_checkpoint
from tests.architectures.seq2seq_checkpoints import tiny_seq2seq

# Three tokens: probabilities of the reference and of the other model at four positions.
P = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]])
Q = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]])
FOLLOWED = [0, 1, 2]


def report(p: Any, q: Any, targets: list[int]) -> dict[str, Any]:
    divergence = Divergence()
    divergence.add(np.log(p).astype(np.float32), np.log(q).astype(np.float32), targets)
    return divergence.report()


def test_divergence_and_agreement_of_distributions_written_by_hand() -> None:
    found = report(P, Q, FOLLOWED)
    moved = 0.5 * np.log(0.5 / 0.25) + 0.25 * np.log(0.25 / 0.5)
    assert found["tokens"] == 4
    assert found["max_kld"] == found["quantiles"][-1] == pytest.approx(moved, abs=1e-6)
    assert found["mean_kld"] == pytest.approx(moved / 4, abs=1e-6)
    assert found["median_kld"] == found["quantiles"][0] == pytest.approx(0, abs=1e-6)
    assert found["p99_kld"] == pytest.approx(0.97 * moved, abs=1e-6)
    assert found["top1_agreement"] == 0.75
    assert found["top5_agreement"] == 1


def test_perplexities_and_their_errors_by_hand() -> None:
    found = report(P, Q, FOLLOWED)
    expected, other = -np.log([0.5, 0.25, 0.1]), -np.log([0.5, 0.5, 0.1])
    for key, nll in (("perplexity_reference", expected), ("perplexity", other), ("perplexity_ratio", other - expected)):
        assert found[key] == pytest.approx(np.exp(nll.mean()), abs=1e-5)
        assert found[f"{key}_error"] == pytest.approx(np.exp(nll.mean()) * nll.std(ddof=1) / np.sqrt(3), abs=1e-5)


def test_a_token_outside_the_five_likeliest_does_not_agree() -> None:
    p, q = np.full((2, 8), 0.1), np.full((2, 8), 0.1)
    p[:, 7], q[0, :5], q[1, :4] = 0.3, 0.2, 0.2
    found = report(p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True), [])
    assert (found["top1_agreement"], found["top5_agreement"]) == (0, 0.5)
    assert "perplexity" not in found


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_pieces_add_up_to_the_whole(cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(2, 41, 6)).astype(np.float32)
    targets = rng.integers(0, 6, 40).tolist()
    whole, parts = Divergence(), Divergence()
    whole.add(p, q, targets)
    parts.add(p[:cut], q[:cut], targets[:cut])
    parts.add(p[cut:], q[cut:], targets[cut:])
    assert parts.report() == whole.report()


@pytest.fixture(scope="module")
def coarse(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Everything in float but one projection."""
    folder = tmp_path_factory.mktemp("coarse")
    rules = {"rules": {"layers.1.o_proj": "int4-b128", "*": "float32"}}
    (folder / "recipe.json").write_text(json.dumps(rules))
    return edgelm.export(checkpoint, folder / "out", recipe=folder / "recipe.json")


def test_the_block_with_the_largest_error_is_the_one_that_was_rounded(coarse: Package) -> None:
    worst = coarse.manifest.quality["layers"]
    assert len(worst) == 5
    assert worst[0]["name"] == "layers.1.o_proj"
    assert worst[0]["relative_error"] > 0.05
    assert next(one["relative_error"] for one in worst if one["name"].startswith("layers.0.")) < 1e-5


def test_the_error_of_a_block_is_that_of_its_weights(coarse: Package, checkpoint: Path) -> None:
    """The first coarse block gets exact inputs, so its error is about that of its weights, which stand in the recipe's format."""
    weight = open_checkpoint(checkpoint).tensors["model.layers.1.self_attn.o_proj.weight"].read()
    form = FORMATS["int4-b128"].fit(weight.shape[1])
    rounded = form.dequantize(form.quantize(weight), weight.shape[1])
    error = np.linalg.norm(rounded - weight) / np.linalg.norm(weight)
    assert coarse.manifest.quality["layers"][0]["relative_error"] == pytest.approx(error, rel=0.3)


def test_page_and_plot_are_files_of_the_package(coarse: Package) -> None:
    coarse.verify_digests()
    assert {PAGE, PLOT} <= set(coarse.manifest.files)
    page = (coarse.path / PAGE).read_text(encoding="utf-8")
    assert f"{coarse.manifest.quality['prefill']['mean_kld']:.4f}" in page
    assert built_in_text().sha256 in page
    assert f"]({PLOT})" in page
    svg = (coarse.path / PLOT).read_text(encoding="utf-8")
    assert svg == plot(coarse.manifest.quality)
    curves = ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(curve.attrib["points"].split()) for curve in curves] == [21, 21]


def test_no_page_without_a_measurement(checkpoint: Path, tmp_path: Path) -> None:
    package = edgelm.export(checkpoint, tmp_path / "out", verify=False)
    assert not (package.path / PAGE).exists()


def test_every_family_has_the_same_card(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("wa zu ki, wo. " * 20)
    sources = [golden_checkpoint("bert", "BertModel", tmp_path / "bert"), tiny_seq2seq(tmp_path / "seq2seq")]
    for i, source in enumerate(sources):
        package = edgelm.export(source, tmp_path / f"out-{i}", precision="int4", eval_text=own)
        assert package.manifest.quality["text"] == choose_text(own).as_manifest()
        assert len(package.manifest.quality["layers"]) == 5
        assert "| texts |" in (package.path / PAGE).read_text(encoding="utf-8")
        ElementTree.fromstring((package.path / PLOT).read_text(encoding="utf-8"))


def test_a_text_of_ones_own_is_measured_and_named(checkpoint: Path, tmp_path: Path) -> None:
    content = ("wa zu ki " * 50).encode()
    (tmp_path / "own.txt").write_bytes(content)
    quality = edgelm.export(checkpoint, tmp_path / "out", eval_text=tmp_path / "own.txt").manifest.quality
    assert quality["text"] == {"name": "own.txt", "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "own.txt cannot be read: No such file or directory; name a text file"),
        (b" \n", "own.txt is empty; a few pages"),
        (b"ab\xff", "own.txt is not UTF-8 at byte 2; convert it first"),
        (b"x", "own.txt is too short to compare anything; take a few pages"),
    ],
)
def test_a_text_that_is_none_is_refused(checkpoint: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(InvalidOption, match=message):
        edgelm.export(checkpoint, tmp_path / "out", eval_text=tmp_path / "own.txt")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_far_too_large_is_no_text(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(InvalidOption, match="huge is larger than 16 MB; a few pages of it will do"):
        choose_text(tmp_path / "huge")
