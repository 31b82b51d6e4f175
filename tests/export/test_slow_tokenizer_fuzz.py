"""Slow tokenizers with any bytes in any file: each is refused, or gives a tokenizer that works."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from edgelm.errors import EdgeLMError
from edgelm_export.checkpoint.sentencepiece_model import Algorithm
from edgelm_export.checkpoint.slow_tokenizer import MODEL_TYPES, convert
from tests.export.slow_files import ALPHABET, CHARSMAP, FOLDER, SPACE, pairs, settings, unigram, words

GPT2 = (*ALPHABET, "he", "<|endoftext|>")
WORDS, PAIRS = words("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the"), pairs(GPT2, ["h e"])
FAIRSEQ = {"sentencepiece.bpe.model": unigram("<unk>", "<s>", "</s>", charsmap=CHARSMAP)}
IDS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, f"{SPACE}the": 4, SPACE: 5, "\u4f60": 6, ">>fra<<": 7, "x": 8}
VOCABULARY = {"vocab.json": json.dumps(IDS).encode()}
SMALL = ("__null__", "__start__", "__end__", "__unk__", "the", "the@@", "h@@", ".")
FILES = {
    "bert": {**WORDS, **settings(do_lower_case=True), "added_tokens.json": b'{"x": 6}'},
    "mpnet": words("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>", "the"),
    "roberta": {**pairs(("<s>", "<pad>", "</s>", "<unk>", *GPT2), ["h e"]), "special_tokens_map.json": b"{}"},
    "qwen2": {**PAIRS, **settings(added_tokens_decoder={"258": {"content": "<|x|>", "special": True}})},
    "t5": {"spiece.model": unigram("<pad>", "</s>", "<unk>", charsmap=CHARSMAP), **settings(extra_ids=2)},
    "xlm-roberta": FAIRSEQ,
    "albert": {"spiece.model": unigram("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", charsmap=CHARSMAP)},
    "deberta-v2": {"spm.model": unigram("[PAD]", "[CLS]", "[SEP]", "[UNK]"), "added_tokens.json": b'{"[MASK]": 6}'},
    "llama": {"tokenizer.model": unigram("<unk>", "<s>", "</s>", algorithm=Algorithm.BPE), **settings(legacy=True)},
    "mbart": {**FAIRSEQ, **settings(src_lang="fr_XX")},
    "m2m_100": {**FAIRSEQ, **VOCABULARY, **settings(language_codes="wmt21", src_lang="de")},
    "marian": {
        "source.spm": unigram("<unk>", "<s>", "</s>"),
        "target.spm": unigram("<unk>", algorithm=Algorithm.BPE),
        **VOCABULARY,
    },
    "pegasus": {"spiece.model": unigram("<pad>", "</s>", "<unk>"), **settings(offset=4)},
    "blenderbot": {**pairs(("<s>", "<pad>", "</s>", "<unk>", *GPT2), ["h e"]), **settings(add_prefix_space=False)},
    "blenderbot-small": pairs(SMALL, ["t h", "th e</w>", "th e"]),
}
TEXT = "the \u2026\uff21\ufb01\u00a0\u4f60 x\u200b[CLS]<mask>\n\t\u0301\U0001f600 h"


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, dict[str, bytes]]:
    """The files of one model type with one of them replaced, cut, or changed in a few places."""
    model_type = draw(st.sampled_from(sorted(FILES)))
    files = dict(FILES[model_type])
    name = draw(st.sampled_from([*files, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]))
    content = bytearray(files.get(name, b"{}"))
    for _ in range(draw(st.integers(1, 4))):
        at, kind = draw(st.integers(0, len(content))), draw(st.integers(0, 4))
        piece = draw(st.binary(max_size=8))
        if kind == 0:
            content[at : at + len(piece)] = piece
        elif kind == 1:
            content[at:at] = piece
        elif kind == 2:
            del content[at : at + draw(st.sampled_from([1, 2, 16, 1 << 20]))]
        elif kind == 3:
            content[at:at] = content[at : at + draw(st.integers(1, 40))]
        else:
            content[:] = draw(st.binary(max_size=64))
    return model_type, {**files, name: bytes(content)}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.sampled_from(["", "the", "[CLS]", "<s>", " ", "\u0301", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["content", "special", "normalized", "lstrip", "6", "258"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = (
    *(
        "tokenizer_class",
        "do_lower_case",
        "strip_accents",
        "add_prefix_space",
        "add_bos_token",
        "bos_token",
        "cls_token",
    ),
    *("sep_token", "unk_token", "pad_token", "mask_token", "eos_token", "added_tokens_decoder", "extra_special_tokens"),
    *("src_lang", "language_codes", "separate_vocabs", "offset", "mask_token_sent", "legacy_behaviour"),
    *("extra_ids", "split_by_punct", "image_token", "additional_special_tokens", "legacy", "trim_offsets"),
)


def works_or_is_refused(model_type: str, files: Mapping[str, bytes]) -> None:
    made, message = {}, ""
    try:
        made = convert(FOLDER, files, {"model_type": model_type})
    except EdgeLMError as error:
        message = str(error)
    assert len(message) < 2000
    assert message.isprintable()
    for content in made.values():
        tokenizer = Backend.from_str(content.decode())
        for sample in ("", " ", TEXT, TEXT[::-1]):
            tokenizer.decode(tokenizer.encode(sample, sample).ids)
        listed = {token["content"]: token["id"] for token in json.loads(content)["added_tokens"]}
        assert {token: tokenizer.token_to_id(token) for token in listed} == listed


CHECK = hypothesis_settings(
    max_examples=250, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_undamaged_files_give_tokenizers() -> None:
    for model_type, files in FILES.items():
        made = convert(FOLDER, files, {"model_type": model_type})
        assert all(Backend.from_str(content.decode()).encode(TEXT).ids for content in made.values())
    assert set(FILES) <= set(MODEL_TYPES)


@seed(3)
@CHECK
@given(damaged())
def test_damaged_files_give_a_tokenizer_or_an_error(case: tuple[str, dict[str, bytes]]) -> None:
    works_or_is_refused(*case)


@seed(5)
@CHECK
@given(st.sampled_from(sorted(FILES)), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_any_settings_give_a_tokenizer_or_an_error(model_type: str, values: dict[str, Any]) -> None:
    works_or_is_refused(model_type, {**FILES[model_type], **settings(**values)})


@seed(7)
@CHECK
@given(st.lists(st.tuples(st.integers(0, 259), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_normalization_table_is_refused_or_harmless(changes: list[tuple[int, int]]) -> None:
    table = bytearray(CHARSMAP)
    for position, value in changes:
        table[position * 4 % len(table) + value % 4] = value
    works_or_is_refused("t5", {"spiece.model": unigram("<pad>", "</s>", "<unk>", charsmap=bytes(table))})
