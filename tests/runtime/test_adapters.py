"""Adapters kept apart: chosen by name for each call, without loading anything again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.errors import InvalidOption, ManifestError
from edgelm.manifest import sealed
from edgelm.text_generation import DecoderModel
from edgelm.verification import verify_package
from tests.export.adapters import adapt, float_tensors

PROMPT = "the rain in Spain"
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two of different modules and ranks."""
    folder, tensors = tmp_path_factory.mktemp("adapters"), float_tensors(checkpoint)
    adapt(tensors, folder / "pirate", r".*\.(q_proj|v_proj|down_proj)", seed=1)
    adapt(tensors, folder / "poet", r".*\.(k_proj|gate_proj|o_proj)", seed=2, rank=2)
    return {name: folder / name for name in ("pirate", "poet")}


@pytest.fixture(scope="module")
def apart(checkpoint: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    """A package with both."""
    out = tmp_path_factory.mktemp("apart") / "package"
    edgelm.export(checkpoint, out, precision="fp32", keep_adapter=adapters)
    return edgelm.load(out, threads=1)


def test_each_call_chooses_its_adapter(
    apart: DecoderModel, model: DecoderModel, checkpoint: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    expected: dict[str | None, list[int]] = {None: model.generate(PROMPT, **GREEDY).token_ids}
    for name, folder in adapters.items():
        merged = edgelm.export(checkpoint, tmp_path / name, precision="fp32", verify=False, adapter=folder)
        expected[name] = edgelm.load(merged.path, threads=1).generate(PROMPT, **GREEDY).token_ids
    assert len({tuple(tokens) for tokens in expected.values()}) == 3
    assert apart.adapters == ("pirate", "poet")
    for name in ("pirate", None, "poet", "pirate", "poet", None):
        assert apart.generate(PROMPT, adapter=name, **GREEDY).token_ids == expected[name]


def test_streams_with_different_adapters_may_alternate(apart: DecoderModel) -> None:
    names = (None, "pirate", "poet")
    expected = [apart.generate(PROMPT, adapter=name, **GREEDY).text for name in names]
    streams = [apart.stream(PROMPT, adapter=name, **GREEDY) for name in names]
    texts = ["", "", ""]
    for chunks in zip(*streams, strict=True):
        texts = [text + chunk.text for text, chunk in zip(texts, chunks, strict=True)]
    assert texts == expected


def test_a_batch_shares_one_adapter(apart: DecoderModel) -> None:
    prompts = ["a", PROMPT, "xyz"]
    found = apart.generate(prompts, adapter="poet", **GREEDY)
    assert [one.token_ids for one in found] == [
        apart.generate(one, adapter="poet", **GREEDY).token_ids for one in prompts
    ]


def test_beams_chats_and_logits_take_one_too(apart: DecoderModel) -> None:
    messages = [{"role": "user", "content": "hi"}]
    chat = {name: apart.chat(messages, adapter=name, **GREEDY).token_ids for name in (None, "pirate")}
    assert chat[None] != chat["pirate"]
    beams = {name: apart.generate(PROMPT, adapter=name, num_beams=3, **GREEDY).token_ids for name in (None, "pirate")}
    assert beams[None] != beams["pirate"]
    assert not np.allclose(apart.logits([3, 4, 5]), apart.logits([3, 4, 5], adapter="pirate"))


def test_an_unknown_adapter_is_named_with_those_there_are(apart: DecoderModel, model: DecoderModel) -> None:
    with pytest.raises(InvalidOption, match="adapter 'x' is not in .*; it has pirate, poet"):
        apart.generate(PROMPT, adapter="x")
    with pytest.raises(
        InvalidOption, match="adapter 'x' is not in .*; export one into it with --keep-adapter NAME=DIR"
    ):
        model.stream(PROMPT, adapter="x")
    assert model.adapters == ()


def test_verify_knows_what_adapters_go_into(apart: DecoderModel) -> None:
    assert [check.detail for check in verify_package(apart.package.path) if not check.ok] == []


def _rank(entry: dict[str, Any]) -> None:
    entry["ranks"]["layers.0.qkv_proj"] += 1


def _projection(entry: dict[str, Any]) -> None:
    entry["ranks"]["layers.9.qkv_proj"] = entry["ranks"].pop("layers.0.qkv_proj")


def _nothing(entry: dict[str, Any]) -> None:
    entry["ranks"] = dict.fromkeys(entry["ranks"], 0)


@pytest.mark.parametrize("change", [_rank, _projection, _nothing])
def test_an_adapter_that_does_not_fit_the_graph_is_refused(
    change: Callable[[dict[str, Any]], None], apart: DecoderModel, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match="adapter pirate does not fit the program's inputs"):
        edgelm.load(_changed(apart, tmp_path, change), threads=1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("file", "adapter-x.data", "the file of pirate is not among the package's files"),
        ("file", 3, "its file, id or source is of another kind"),
        ("ranks", {"layers.0.qkv_proj": -1}, "its ranks are no whole numbers"),
        ("ranks", 3, "its ranks are no whole numbers"),
    ],
)
def test_a_manifest_with_false_adapters_is_refused(
    key: str, value: Any, message: str, apart: DecoderModel, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=f"'adapters' is not usable: {message}"):
        edgelm.load(_changed(apart, tmp_path, lambda entry: entry.update({key: value})))


def _changed(model: DecoderModel, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The package with another entry of an adapter."""
    shutil.copytree(model.package.path, folder / "changed")
    manifest = folder / "changed" / "edgelm.json"
    values = json.loads(manifest.read_text())
    change(values["adapters"]["pirate"])
    manifest.write_text(sealed(values))
    return folder / "changed"
