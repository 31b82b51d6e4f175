from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, processors
from tokenizers import Tokenizer as Backend

from edgelm.errors import InvalidOption, ManifestError
from edgelm.text_stream import StripText
from edgelm.tokenizer import Tokenizer
from tests.architectures.random_checkpoints import tiny_tokenizer
from tests.runtime.tokenizer_kinds import KINDS, byte_level, sentencepiece

CLEAN = {"clean_up_tokenization_spaces": True}
TOKENIZERS = {name: Tokenizer(build(), {}) for name, build in KINDS.items()}
TOKENIZERS |= {f"{name}, cleaned": Tokenizer(KINDS[name](), CLEAN) for name in ("wordpiece", "unigram", "byte-level")}

kinds = pytest.mark.parametrize("kind", TOKENIZERS)


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool = True) -> list[str]:
    stream = tokenizer.stream(skip_special_tokens=skip_special_tokens)
    return [*map(stream.push, ids), stream.finish()]


def write(folder: Path, backend: Backend, config: Any = None, **files: Any) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


@kinds
def test_stream_of_random_ids_equals_decode(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    draw = random.Random(7)
    for _ in range(300):
        ids = [draw.randrange(tokenizer.vocab_size + 5) for _ in range(draw.randrange(30))]
        for skip in (True, False):
            text = tokenizer.decode(ids, skip_special_tokens=skip)
            assert "".join(streamed(tokenizer, ids, skip_special_tokens=skip)) == text


@kinds
@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_stream_of_random_text_equals_decode(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@kinds
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    text=st.lists(st.sampled_from(["a", " ", ".", "'", "n't", " 's", "\u4f60", "<s>", "ox", "\U0001f600"])).map("".join)
)
def test_stream_of_awkward_text_equals_decode(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_stream_gives_a_character_with_its_last_byte() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = [tokenizer.token_id(character) or 0 for character in "a\u00f0\u0141\u013a\u0122b"]  # a, F0 9F 98 80, b
    assert streamed(tokenizer, ids) == ["a", "", "", "", "\U0001f600", "b", ""]


def test_stream_replaces_bytes_that_are_no_text() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = [tokenizer.token_id(character) or 0 for character in "\u00f0\u0141a"]
    assert streamed(tokenizer, ids) == ["", "", "\ufffda", ""]


def test_stream_holds_byte_tokens_until_their_run_ends() -> None:
    # The library decodes a run of byte tokens as a whole: one wrong byte would turn all of it into U+FFFD.
    tokenizer = TOKENIZERS["sentencepiece"]
    good = [tokenizer.token_id(f"<0x{byte:02X}>") or 0 for byte in "\u4f60".encode()]
    other, wrong = tokenizer.token_id("\u2581t") or 0, tokenizer.token_id("<0xFF>") or 0
    assert streamed(tokenizer, [*good, other]) == ["", "", "", "\u4f60 t", ""]
    assert streamed(tokenizer, [*good, wrong, other])[3:] == ["", "\ufffd\ufffd\ufffd\ufffd t", ""]


def test_stream_drops_the_first_space_only() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    space, word = tokenizer.token_id("\u2581") or 0, tokenizer.token_id("\u2581t") or 0
    assert streamed(tokenizer, [word, word]) == ["t", " t", ""]
    assert streamed(tokenizer, [space, space, word]) == ["", " ", " t", ""]


def test_stripping_an_end_holds_it_back() -> None:
    strip = StripText("x", 1, 1)
    pieces = ["x", "xa", "x", "x", "b", "x"]
    assert ["".join(strip.push(piece)) for piece in pieces] == ["", "xa", "", "x", "xb", ""]
    assert "".join(strip.finish()) == ""


def test_stream_leaves_out_special_tokens_unless_asked() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("a</s>b")
    assert streamed(tokenizer, ids) == ["a", "", "b", ""]
    assert streamed(tokenizer, ids, skip_special_tokens=False) == ["a", "</s>", "b", ""]


def test_stream_of_ids_without_a_token_is_empty() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    assert streamed(tokenizer, [tokenizer.vocab_size, tokenizer.vocab_size + 70_000]) == ["", "", ""]


def test_cleaned_stream_holds_back_what_may_still_go() -> None:
    tokenizer = TOKENIZERS["wordpiece, cleaned"]
    ids = tokenizer.encode("it , mind .")
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == "it, mind."
    assert not any(piece.endswith(" ") for piece in pieces)


def test_cleanup_leaves_bpe_alone() -> None:
    tokenizer = TOKENIZERS["byte-level, cleaned"]
    assert tokenizer.decode(tokenizer.encode("it , mind .")) == "it , mind ."


def test_regex_replacements_are_decoded_at_the_end() -> None:
    backend = sentencepiece()
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("o+"), "0")])
    tokenizer = Tokenizer(backend, {})
    ids = tokenizer.encode("foox")
    assert streamed(tokenizer, ids) == [*[""] * len(ids), tokenizer.decode(ids)]


def test_text_of_an_encoded_text_is_the_text() -> None:
    text = "The fox \u00e9\u4f60\U0001f600\n\n  doesn't  <think> mind"
    for kind in ("byte-level", "sentencepiece"):
        assert TOKENIZERS[kind].decode(TOKENIZERS[kind].encode(text)) == text


def test_post_processor_adds_special_tokens() -> None:
    backend = byte_level()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = Tokenizer(backend, {})
    assert tokenizer.encode("a")[0] == 1
    assert tokenizer.encode("a", add_special_tokens=False) == tokenizer.encode("a")[1:]


@pytest.mark.parametrize("flag", [True, False])
def test_add_bos_token_of_the_config_counts_for_nothing(flag: bool) -> None:
    # transformers 5 drops it wherever there is a tokenizer.json; transformers 4 did so for most classes.
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_bos_token": flag, "add_eos_token": flag}
    plain, adding = byte_level(), byte_level()
    adding.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert 1 not in Tokenizer(plain, config).encode("a")
    assert Tokenizer(adding, config).encode("a")[0] == 1


def test_padding_and_truncation_of_the_file_are_off() -> None:
    backend = byte_level()
    backend.enable_padding(length=16)
    backend.enable_truncation(2)
    tokenizer = Tokenizer(backend, {})
    assert tokenizer.decode(tokenizer.encode("a longer text")) == "a longer text"


def test_special_tokens_are_those_the_config_names(tmp_path: Path) -> None:
    config = {
        "bos_token": {"__type": "AddedToken", "content": "<s>"},
        "eos_token": "</s>",
        "pad_token": None,
        "image_token": "<image>",
        "extra_special_tokens": {"audio_token": "<audio>"},
        "add_bos_token": True,
    }
    tokenizer = Tokenizer.from_folder(write(tmp_path, byte_level(), config))
    named = {"bos_token": "<s>", "eos_token": "</s>", "image_token": "<image>", "audio_token": "<audio>"}
    assert tokenizer.special_tokens == named


def test_special_tokens_map_fills_an_old_config(tmp_path: Path) -> None:
    folder = write(
        tmp_path, byte_level(), {"bos_token": "<x>"}, special_tokens_map={"bos_token": "<s>", "eos_token": "</s>"}
    )
    assert Tokenizer.from_folder(folder).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_special_tokens_map_is_left_aside_beside_a_newer_config(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "added_tokens_decoder": {}}
    folder = write(tmp_path, byte_level(), config, special_tokens_map={"bos_token": "<x>"})
    assert Tokenizer.from_folder(folder).special_tokens == {"bos_token": "<s>"}


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": "<end>"},
        {"additional_special_tokens": ["<end>"]},
        {"added_tokens_decoder": {"3": {"content": "<end>", "special": True}}},
    ],
)
def test_special_tokens_of_the_vocabulary_become_special(config: dict[str, Any]) -> None:
    vocab = {"<end>": 0, "a": 1, "<": 2}
    backend = Backend(models.BPE(vocab, []))
    backend.decoder = decoders.ByteLevel()
    assert Tokenizer(backend, config).decode([1, 0, 1]) == "aa"
    assert Tokenizer(backend, {}).vocab_size == 3


def test_unknown_special_tokens_do_not_grow_the_vocabulary() -> None:
    size = byte_level().get_vocab_size()
    tokenizer = Tokenizer(byte_level(), {"pad_token": "[PAD]"})
    assert (tokenizer.vocab_size, tokenizer.token_id("[PAD]")) == (size, None)


def test_flags_of_added_tokens_are_kept() -> None:
    backend = byte_level()
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer = Tokenizer(backend, {"mask_token": "<mask>"})
    assert tokenizer.encode("a <mask>") == tokenizer.encode("a<mask>")


def test_half_a_surrogate_pair_is_refused_with_its_place() -> None:
    with pytest.raises(
        InvalidOption, match=r"half a surrogate pair \(U\+D800\) at position 2; decode your input as UTF-8"
    ):
        TOKENIZERS["byte-level"].encode("ab\ud800")


@pytest.mark.parametrize("wrong", [-1, 2**40])
def test_ids_no_vocabulary_can_hold_are_refused(wrong: int) -> None:
    with pytest.raises(InvalidOption, match=rf"token id {wrong} is outside 0\.\."):
        TOKENIZERS["byte-level"].decode([3, wrong])


def test_missing_tokenizer_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"tokenizer\.json is missing; export the model again"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b'{"model": {"type": "Nope"}}', b"\xff\xfe"])
def test_broken_tokenizer_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(
        ManifestError, match=r"tokenizer\.json (is no tokenizer|cannot be read).*export the model again"
    ):
        Tokenizer.from_folder(tmp_path)


def test_tokenizer_that_panics_the_library_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw = json.loads(byte_level().to_str()) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"tokenizer\.json is no tokenizer"):
        Tokenizer.from_folder(tmp_path)
    capfd.readouterr()  # the library's own complaint on standard error


def test_a_tokenizer_without_its_own_unknown_token_is_reported_at_the_first_text() -> None:
    tokenizer = Tokenizer(Backend(models.WordPiece({"a": 0}, unk_token="[UNK]")), {})
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(ManifestError, match=r"tokenizer\.json contradicts itself, so this text cannot be encoded"):
            encode("b")


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize("content", ["", "[]", "{", "7"])
def test_broken_config_is_reported(tmp_path: Path, name: str, content: str) -> None:
    folder = write(tmp_path, byte_level())
    (folder / f"{name}.json").write_text(content, encoding="utf-8")
    with pytest.raises(
        ManifestError, match=rf"{name}\.json (cannot be read|is no JSON object).*export the model again"
    ):
        Tokenizer.from_folder(folder)


def test_token_id_knows_added_tokens() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    assert tokenizer.encode("<think>") == [tokenizer.token_id("<think>")]
    assert tokenizer.token_id("no such token") is None


def test_half_a_character_is_no_special_token(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer(40), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "\\ud800", "eos_token": "</s>"}', encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).special_tokens == {"eos_token": "</s>"}
