"""Language codes and where they go, on tokenizers so small that every id below was worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, processors

from edgelm.errors import InvalidOption, ManifestError
from edgelm.languages import Languages
from edgelm.tokenizer import Tokenizer
from edgelm_export.checkpoint.slow_tokenizer import convert
from tests.export.slow_files import (
    CHARSMAP,
    FOLDER,
    SPACE,
    pairs,
    scored,
    sentencepiece,
    sentencepiece_bytes,
    settings,
    specials,
    write_all,
)

# 0..3 <s> <pad> </s> <unk>, then the pieces: a space 4, the 5, a 6, b 7 ...; the languages from 13 on.
FAIRSEQ = sentencepiece("sentencepiece.bpe.model", "<unk>", "<s>", "</s>", charsmap=CHARSMAP)
THE, A, END, FIRST = 5, 6, 2, 13
EN, RO = FIRST + 3, FIRST + 19  # en_XX and ro_RO among those of mBART

SOURCE = {**sentencepiece("source.spm", "<unk>", "<s>", "</s>")}
TARGET = sentencepiece_bytes([*specials("<unk>", "<s>", "</s>"), *scored(SPACE, f"{SPACE}le", "le")])


def vocabulary(*tokens: str) -> bytes:
    return json.dumps({token: i for i, token in enumerate(tokens)}).encode()


def read(folder: Path, architecture: str, vocab_size: int = 1000, **generation: Any) -> Languages:
    return Languages.from_folder(folder, Tokenizer.from_folder(folder), architecture, vocab_size, generation)


def write(folder: Path, architecture: str, files: Mapping[str, bytes], **config: Any) -> Path:
    """A package's texts, as an export makes them of a slow tokenizer."""
    given = {**files, **settings(**config)}
    made = convert(FOLDER, given, {"model_type": architecture})
    return write_all(folder, {**made, "tokenizer_config.json": given["tokenizer_config.json"]})


def listed(folder: Path, *languages: str, **config: Any) -> Path:
    """A tokenizer of somebody's own, whose template knows nothing of languages: <s> A </s>."""
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1, "x": 2}, unk_token="x"))
    backend.add_special_tokens(["<s>", "</s>", *languages])
    template = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    backend.post_processor = template  # pyright: ignore[reportAttributeAccessIssue]
    return write_all(folder, {"tokenizer.json": backend.to_str().encode(), **settings(**config)})


# mBART


def test_mbart_ends_a_source_with_its_language_and_begins_a_target_with_its_own(tmp_path: Path) -> None:
    languages = read(write(tmp_path, "mbart", FAIRSEQ), "mbart")
    assert languages.source("the a", None, None) == [THE, A, END, EN]
    assert languages.source("the a", "ro_RO", None) == [THE, A, END, RO]
    assert languages.beginning("ro_RO") == (None, RO)
    assert languages.beginning(None) == (None, None)
    assert languages.target("the", "ro_RO") == languages.target("the", None) == [THE, END]
    assert len(languages.codes) == 25
    assert languages.codes[:2] == ("ar_AR", "cs_CZ")


def test_languages_left_out_are_those_of_the_files(tmp_path: Path) -> None:
    folder = write(tmp_path, "mbart", FAIRSEQ, src_lang="ro_RO", tgt_lang="en_XX")
    languages = read(folder, "mbart")
    assert languages.source("the", None, None) == [THE, END, RO]
    assert languages.beginning(None) == (None, EN)
    assert languages.beginning("ro_RO") == (None, RO)


def test_the_generation_settings_come_before_a_language_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, "mbart", FAIRSEQ, tgt_lang="en_XX")
    assert read(folder, "mbart", decoder_start_token_id=RO).beginning(None) == (None, None)
    assert read(folder, "mbart", decoder_start_token_id=RO).beginning("en_XX") == (None, EN)
    folder = write(tmp_path, "mbart", FAIRSEQ, tokenizer_class="MBart50Tokenizer", tgt_lang="en_XX")
    assert read(folder, "mbart").beginning(None) == (EN, None)
    assert read(folder, "mbart", decoder_start_token_id=2).beginning(None) == (EN, None)
    languages = read(folder, "mbart", forced_bos_token_id=RO)
    assert languages.beginning(None) == (None, None)
    assert languages.target("the", None) == [RO, THE, END]


def test_a_checkpoint_that_forces_a_language_too_is_told_the_new_one_there(tmp_path: Path) -> None:
    languages = read(write(tmp_path, "mbart", FAIRSEQ), "mbart", forced_bos_token_id=RO)
    assert languages.beginning("en_XX") == (EN, EN)
    assert languages.target("the", "en_XX") == [EN, THE, END]
    assert read(tmp_path, "mbart", forced_bos_token_id=0).beginning("en_XX") == (None, EN)


# mBART-50, NLLB, M2M-100


def test_mbart50_has_the_source_first_and_forces_the_target(tmp_path: Path) -> None:
    folder = write(tmp_path, "mbart", FAIRSEQ, tokenizer_class="MBart50TokenizerFast")
    languages = read(folder, "mbart")
    assert languages.source("the a", None, "ro_RO") == [EN, THE, A, END]
    assert languages.source("the a", "ro_RO", None) == [RO, THE, A, END]
    assert languages.beginning("ro_RO") == (RO, None)
    assert languages.target("the", "ro_RO") == [RO, THE, END]
    assert languages.target("the", None) == [THE, END]
    assert len(languages.codes) == 52


def test_nllb_has_the_source_first_but_in_its_older_checkpoints(tmp_path: Path) -> None:
    known = ["eng_Latn", "fra_Latn", "own_Latn"]
    given = {"tokenizer_class": "NllbTokenizer", "additional_special_tokens": known}
    folder = write(tmp_path, "m2m_100", FAIRSEQ, **given, src_lang="own_Latn")
    assert read(folder, "m2m_100").codes == tuple(known)
    assert read(folder, "m2m_100").source("the", None, None) == [FIRST + 2, THE, END]
    assert read(folder, "m2m_100").source("the", "eng_Latn", None) == [FIRST, THE, END]
    older = read(write(tmp_path, "m2m_100", FAIRSEQ, **given, legacy_behaviour=True), "m2m_100")
    assert older.source("the", None, None) == [THE, END, FIRST]
    assert older.beginning("fra_Latn") == (FIRST + 1, None)
    assert older.target("the", "fra_Latn") == [FIRST + 1, THE, END]


def test_m2m_spells_its_codes_between_underscores(tmp_path: Path) -> None:
    known = ("<s>", "<pad>", "</s>", "<unk>", f"{SPACE}the", SPACE, "b", "madeup")
    folder = write(tmp_path, "m2m_100", {**FAIRSEQ, "vocab.json": vocabulary(*known)}, language_codes="wmt21")
    languages = read(folder, "m2m_100")
    assert languages.codes == ("cs", "de", "en", "ha", "is", "ja", "ru", "zh")
    assert languages.source("the", None, None) == [8, 4, 2]
    assert languages.source("the", "de", "en") == [15, 4, 2]
    assert languages.beginning("zh") == (14, None)
    assert languages.target("the", "zh") == [14, 4, 2]


def test_the_template_of_a_tokenizer_file_does_not_count(tmp_path: Path) -> None:
    folder = listed(tmp_path, "eng_Latn", "fra_Latn", tokenizer_class="NllbTokenizer", eos_token="</s>")
    assert Tokenizer.from_folder(folder).encode("x") == [0, 2, 1]
    assert read(folder, "m2m_100").source("x", None, None) == [3, 2, 1]
    assert read(folder, "m2m_100").source("x", "fra_Latn", None) == [4, 2, 1]


def test_the_class_may_be_named_in_config_json(tmp_path: Path) -> None:
    folder = listed(tmp_path, "en_XX", "ro_RO")
    assert read(folder, "mbart").source("x", None, None) == [2, 1, 3]
    (folder / "config.json").write_text('{"tokenizer_class": "MBart50Tokenizer"}')
    assert read(folder, "mbart").source("x", None, None) == [3, 2, 1]
    write_all(folder, settings(tokenizer_class="PreTrainedTokenizerFast"))
    assert read(folder, "mbart").source("x", None, None) == [0, 2, 1]


def test_named_special_tokens_are_no_languages(tmp_path: Path) -> None:
    folder = listed(tmp_path, "en_XX", "BLANK", "<mask>", "[SEP]", pad_token="BLANK")
    assert read(folder, "mbart").codes == ("en_XX",)


# Marian


def marian(folder: Path, *codes: str, **config: Any) -> Languages:
    """0 </s>, 1 <unk>, 2 le, 3 the, 4 a space, then the codes."""
    joint = vocabulary("</s>", "<unk>", f"{SPACE}le", f"{SPACE}the", SPACE, *codes, "<pad>")
    return read(write(folder, "marian", {**SOURCE, "target.spm": TARGET, "vocab.json": joint}, **config), "marian")


def test_marian_is_told_the_language_to_write_before_the_source(tmp_path: Path) -> None:
    languages = marian(tmp_path, ">>fra<<", ">>zho_Hans<<", source_lang="eng", target_lang="mul")
    assert languages.codes == ("fra", "zho_Hans")
    assert languages.source("the", None, None) == [3, 0]
    assert languages.source("the", "eng", "zho_Hans") == [6, 3, 0]
    assert languages.beginning("fra") == (None, None)
    assert languages.target("le", "fra") == [2, 0]
    assert languages.writer.decode([2, 0]) == "le"


def test_marian_is_told_once_when_the_text_says_it_too(tmp_path: Path) -> None:
    languages = marian(tmp_path, ">>fra<<", ">>deu<<")
    assert languages.source(">>fra<< the", None, None) == [5, 3, 0]
    assert languages.source(">>fra<<the", None, "fra") == [5, 3, 0]
    assert languages.source(">>spa<< the", None, "fra")[0] == 5  # not a language, so text
    with pytest.raises(
        InvalidOption, match="^the text begins with >>fra<<, and target_lang is 'deu'; leave one of them out$"
    ):
        languages.source(">>fra<< the", None, "deu")


def test_marian_with_one_language_accepts_its_name_and_no_other(tmp_path: Path) -> None:
    languages = marian(tmp_path, source_lang="eng", target_lang="fra")
    assert languages.codes == ()
    assert languages.source("the", "eng", "fra") == [3, 0]
    with pytest.raises(InvalidOption, match="^target_lang 'deu': the model writes 'fra' alone; leave target_lang out$"):
        languages.beginning("deu")
    with pytest.raises(InvalidOption, match="^source_lang 'deu': the model reads 'eng' alone; leave source_lang out$"):
        languages.source("the", "deu", None)
    silent = marian(tmp_path)
    with pytest.raises(
        InvalidOption, match="^target_lang 'fra': the model is not told what it writes; leave target_lang out$"
    ):
        silent.target("le", "fra")
    with pytest.raises(
        InvalidOption, match="^source_lang 'eng': the model is not told what it reads; leave source_lang out$"
    ):
        silent.source("the", "eng", None)


def test_what_is_written_in_a_vocabulary_of_its_own_is_read_with_it(tmp_path: Path) -> None:
    own = {"vocab.json": vocabulary("</s>", "<unk>", f"{SPACE}the"), "target.spm": TARGET}
    own["target_vocab.json"] = vocabulary("<unk>", f"{SPACE}le", "</s>", "<pad>")
    languages = read(write(tmp_path, "marian", {**SOURCE, **own}, separate_vocabs=True), "marian")
    assert languages.source("the", None, None) == [2, 0]
    assert languages.target("le", None) == [1, 2]
    assert languages.writer.decode([1, 2]) == "le"
    (tmp_path / "tokenizer_target.json").unlink()
    with pytest.raises(
        ManifestError,
        match=r"separate_vocabs\), but there is no tokenizer_target\.json; export again from a folder without tokenizer\.json",
    ):
        read(tmp_path, "marian")


# Models without languages


def test_without_languages_texts_stay_as_the_tokenizer_makes_them(tmp_path: Path) -> None:
    languages = read(listed(tmp_path, tokenizer_class="BartTokenizer"), "bart", eos_token_id=[7, 1])
    assert languages.source("x", None, None) == languages.target("x", None) == [0, 2, 1]
    assert (languages.codes, languages.beginning(None)) == ((), (None, None))


@pytest.mark.parametrize("name", ["source_lang", "target_lang"])
def test_a_language_for_a_model_without_any_is_refused(tmp_path: Path, name: str) -> None:
    languages = read(listed(tmp_path), "t5")
    options: dict[str, Any] = {"source_lang": None, "target_lang": None, name: "de"}
    with pytest.raises(
        InvalidOption, match=f"^{name} 'de': the model has no language codes; leave {name} out .* in the text"
    ):
        languages.source("x", **options)


def test_a_target_ends_even_where_a_source_does_not(tmp_path: Path) -> None:
    words = ("__null__", "__start__", "__end__", "__unk__", "the", "m")
    folder = write(tmp_path, "blenderbot-small", pairs(words, ["t h", "th e</w>"]))
    languages = read(folder, "blenderbot-small", len(words), eos_token_id=2)
    assert languages.source("the m", None, None) == [4, 5]
    assert languages.target("the m", None) == [4, 5, 2]
    assert languages.target("", None) == [2]
    assert read(folder, "blenderbot-small", len(words)).target("the", None) == [4]


def test_what_blenderbot_smalls_merges_pass_through_is_unknown(tmp_path: Path) -> None:
    words = ("__null__", "__start__", "__end__", "__unk__", "the", "m")
    folder = write(tmp_path, "blenderbot-small", pairs(words, ["t h", "th e</w>"]))
    assert max(Tokenizer.from_folder(folder).encode("th the")) >= len(words)
    languages = read(folder, "blenderbot-small", len(words), eos_token_id=2)
    assert set(languages.source("th m", None, None)[:-1]) == {3}
    assert languages.source("th m", None, None)[-1] == 5
    assert languages.target("th", None)[-2:] == [3, 2]


# Messages


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("en", "did you mean en_XX[?]"),
        ("eng_Latn", "did you mean en_XX[?]"),
        ("de-DE", "did you mean de_DE[?]"),
        ("EN_xx", "did you mean en_XX[?]"),
        ("xn_XX", "did you mean .*en_XX"),
        ("", "choose from ar_AR, cs_CZ, de_DE, en_XX, es_XX, et_EE and 19 more, which edgelm inspect lists"),
        ("__", "choose from"),
        ("7", "choose from"),
    ],
)
def test_an_unknown_language_is_refused_with_those_that_are_near(tmp_path: Path, code: str, hint: str) -> None:
    languages = read(write(tmp_path, "mbart", FAIRSEQ), "mbart")
    message = f"^target_lang {code!r} is not among the model's language codes .25 in all.: {hint}"
    with pytest.raises(InvalidOption, match=message):
        languages.beginning(code)
    with pytest.raises(InvalidOption, match=message):
        languages.source("the", None, code)
    with pytest.raises(InvalidOption, match=message.replace("target", "source")):
        languages.source("the", code, None)
    with pytest.raises(InvalidOption, match=message):
        languages.target("the", code)


def test_an_unknown_language_of_marian_is_refused_with_those_that_are_near(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidOption,
        match="^target_lang 'fr' is not among the model's language codes .2 in all.: did you mean fra[?]$",
    ):
        marian(tmp_path, ">>fra<<", ">>deu<<").source("the", None, "fr")
    with pytest.raises(InvalidOption, match="^target_lang 'xx' is not among .*: choose from deu, fra$"):
        marian(tmp_path, ">>fra<<", ">>deu<<", target_lang="xx").beginning("xx")


def test_a_default_that_is_no_language_is_refused(tmp_path: Path) -> None:
    message = "^the default source_lang 'en_XX' is not among the model's language codes .1 in all.: choose from ro_RO$"
    with pytest.raises(InvalidOption, match=message):
        read(listed(tmp_path, "ro_RO"), "mbart").source("x", None, None)
    with pytest.raises(
        InvalidOption, match=r"'en_XX' is not among .*0 in all.: its tokenizer lists none; .* and export again$"
    ):
        read(listed(tmp_path), "mbart").source("x", None, None)


def test_files_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"tokenizer_config\.json: src_lang is 5 instead of a text; correct it .* export again$"
    ):
        read(listed(tmp_path, "en_XX", src_lang=5), "mbart")
    with pytest.raises(
        ManifestError, match="the end token '<END>' is not in the vocabulary; name the right one as eos_token"
    ):
        read(listed(tmp_path, "en_XX", eos_token="<END>"), "mbart")
    with pytest.raises(ManifestError, match="the end token '<END>' is not in the vocabulary"):
        read(listed(tmp_path, eos_token="<END>"), "marian")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ManifestError, match=r"config\.json is no JSON object; export the model again"):
        read(listed(tmp_path), "mbart")
