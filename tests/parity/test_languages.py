"""Language codes: ids of sources and targets, and what a target begins with, against transformers' own tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer
from transformers.models.mbart.modeling_mbart import shift_tokens_right

from edgelm.languages import Languages
from edgelm.tokenizer import Tokenizer
from edgelm_export.checkpoint.files import read_object
from edgelm_export.checkpoint.slow_tokenizer import convert
from tests.parity.slow_seq2seq_checkpoints import CHECKPOINTS

TEXTS = ("the cat and the dog", "Hello World, it is said.", "a", "")
# Checkpoint -> pairs of languages.
PAIRS = {
    "mbart": (("en_XX", "ro_RO"), ("zh_CN", "ar_AR")),
    "mbart50": (("en_XX", "sl_SI"), ("af_ZA", "fr_XX")),
    "nllb": (("eng_Latn", "xyz_Latn"), ("zho_Hans", "fra_Latn")),
    "m2m": (("en", "zu"), ("fr", "af")),
    "m2m-bpe": (("zh", "en"), ("is", "ha")),
}
OTHERS = ("marian", "marian-separate", "blenderbot-small")
FORCED = [name for name in PAIRS if name != "mbart"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: CHECKPOINTS[name].write(tmp_path_factory.mktemp("slow") / name) for name in (*PAIRS, *OTHERS)}


def reference(folder: Path, *, fast: bool = False) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=fast)


def package(folder: Path, target: Path) -> Path:
    """What an export writes of the tokenizer."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    made = convert(folder, files, read_object(folder / "config.json"))
    target.mkdir()
    kept = {name: files[name] for name in ("config.json", "tokenizer_config.json") if name in files}
    for name, content in {**made, **kept}.items():
        (target / name).write_bytes(content)
    return target


def languages(folder: Path, vocab_size: int = 100_000) -> Languages:
    architecture = read_object(folder / "config.json")["model_type"]
    return Languages.from_folder(folder, Tokenizer.from_folder(folder), architecture, vocab_size, {})


def source_ids(tokenizer: Any, text: str, source: str) -> list[int]:
    tokenizer.src_lang = source
    return tokenizer(text)["input_ids"]


def target_ids(tokenizer: Any, text: str, source: str, target: str) -> list[int]:
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    return tokenizer(text_target=text)["input_ids"]


def forced_id(tokenizer: Any, source: str, target: str) -> int:
    inputs = tokenizer._build_translation_inputs("a", return_tensors=None, src_lang=source, tgt_lang=target)
    return inputs["forced_bos_token_id"]


@pytest.mark.parametrize("name", PAIRS)
def test_sources_have_the_same_ids(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    theirs, ours = reference(folders[name]), languages(package(folders[name], tmp_path / "package"))
    default = {text: theirs(text)["input_ids"] for text in TEXTS}
    assert {text: ours.source(text, None, None) for text in TEXTS} == default
    for source, target in PAIRS[name]:
        expected = {text: source_ids(theirs, text, source) for text in TEXTS}
        assert {text: ours.source(text, source, target) for text in TEXTS} == expected


@pytest.mark.parametrize("name", FORCED)
def test_targets_have_the_same_ids_and_force_the_same_one(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    theirs, ours = reference(folders[name]), languages(package(folders[name], tmp_path / "package"))
    for source, target in PAIRS[name]:
        expected = {text: target_ids(theirs, text, source, target) for text in TEXTS}
        assert {text: ours.target(text, target) for text in TEXTS} == expected
        assert ours.beginning(target) == (forced_id(theirs, source, target), None)


def test_a_target_of_mbart_begins_as_in_its_training(folders: dict[str, Path], tmp_path: Path) -> None:
    theirs, ours = reference(folders["mbart"]), languages(package(folders["mbart"], tmp_path / "package"))
    for source, target in PAIRS["mbart"]:
        for text in TEXTS:
            labels = torch.tensor([target_ids(theirs, text, source, target)])
            fed = shift_tokens_right(labels, theirs.pad_token_id)[0].tolist()
            forced, start = ours.beginning(target)
            assert forced is None
            assert [start, *ours.target(text, target)] == fed


def test_older_checkpoints_of_nllb_have_the_same_ids(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = CHECKPOINTS["nllb"].write(tmp_path / "older")
    settings = read_object(folder / "tokenizer_config.json") | {"legacy_behaviour": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs, ours = reference(folder), languages(package(folder, tmp_path / "package"))
    for source, target in PAIRS["nllb"]:
        expected = {text: source_ids(theirs, text, source) for text in TEXTS}
        assert {text: ours.source(text, source, target) for text in TEXTS} == expected
        assert ours.beginning(target) == (forced_id(theirs, source, target), None)


@pytest.mark.parametrize("name", ["mbart", "mbart50", "nllb"])
def test_a_tokenizer_file_with_another_template_gives_the_same_ids(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = package(folders[name], tmp_path / "package")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    wrong = [(token, backend.token_to_id(token)) for token in ("<s>", "<unk>")]
    backend.post_processor = TemplateProcessing("<s> $A <unk>", None, wrong)  # pyright: ignore[reportAttributeAccessIssue]
    backend.save(str(folder / "tokenizer.json"))
    theirs, ours = reference(folder, fast=True), languages(folder)
    for source, target in PAIRS[name]:
        expected = {text: source_ids(theirs, text, source) for text in TEXTS}
        assert {text: ours.source(text, source, target) for text in TEXTS} == expected


def test_marian_has_the_same_ids(folders: dict[str, Path], tmp_path: Path) -> None:
    theirs, ours = reference(folders["marian"]), languages(package(folders["marian"], tmp_path / "package"))
    for text in TEXTS:
        assert ours.source(text, None, None) == theirs(text)["input_ids"]
        for code in ours.codes:
            expected = theirs(f">>{code}<< {text}")["input_ids"]
            assert ours.source(text, "eng", code) == expected
            assert ours.source(f">>{code}<< {text}", None, None) == expected
        assert ours.target(text, "fra") == theirs(text_target=text)["input_ids"]


def test_targets_with_a_vocabulary_of_their_own_have_the_same_ids_and_text(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["marian-separate"]
    theirs, ours = reference(folder), languages(package(folder, tmp_path / "package"))
    for text in (*TEXTS, "Gr\u00f6\u00dfe \u4f60\u597d"):
        ids = theirs(text_target=text)["input_ids"]
        assert ours.target(text, None) == ids
        assert ours.writer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_blenderbot_small_has_the_same_ids(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["blenderbot-small"]
    size = len(read_object(folder / "vocab.json"))
    theirs, ours = reference(folder), languages(package(folder, tmp_path / "package"), size)
    for text in (*TEXTS, "then th\u00e9 new", "a thing, doing"):
        assert ours.source(text, None, None) == theirs(text)["input_ids"], text
