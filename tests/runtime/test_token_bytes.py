"""Tokens as bytes: put together they are the text that the tokenizer itself makes of the ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from edgelm.errors import GenerationError
from edgelm.tokenizer import Tokenizer
from tests.runtime.tokenizer_kinds import INSEPARABLE, KINDS, byte_level, sentencepiece

TOKENIZERS = {name: Tokenizer(build(), {}) for name, build in KINDS.items() if name not in INSEPARABLE}
TABLES = {name: tokenizer.token_bytes() for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_bytes_of_tokens_joined_are_the_text_of_their_ids(kind: str, data: st.DataObject) -> None:
    tokenizer, table = TOKENIZERS[kind], TABLES[kind]
    texts = [i for i in range(len(table.later)) if i not in tokenizer.special_ids]
    ids = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=8))
    raw = table.first[ids[0]] + b"".join(table.later[i] for i in ids[1:])
    try:
        text = raw.decode()
    except UnicodeDecodeError:  # a grammar never leads there
        return
    assert text == tokenizer.decode(ids)


def test_a_byte_of_a_character_is_that_byte() -> None:
    tokenizer = Tokenizer(sentencepiece(), {})
    table = tokenizer.token_bytes()
    space, start, letter = (tokenizer.token_id(token) or 0 for token in ("<0x20>", "<0xC3>", "<0x41>"))
    assert [table.first[i] for i in (space, start, letter)] == [b"", b"\xc3", b"A"]
    assert table.later[space] == b" "


def test_an_added_token_of_byte_level_bpe_is_its_text() -> None:
    tokenizer = Tokenizer(byte_level(), {})
    table = tokenizer.token_bytes()
    assert table.first is table.later
    assert table.later[tokenizer.token_id("two words") or 0] == b"two words"


def _with_decoder(decoder: decoders.Decoder) -> Backend:
    backend = sentencepiece()
    backend.decoder = decoder
    return backend


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.CTC(),
        decoders.BPEDecoder(),
        decoders.Sequence([decoders.Fuse(), decoders.Replace("ox", "ax")]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 1)]),
        decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]),
        decoders.Sequence([decoders.Fuse(), decoders.Metaspace()]),
    ],
    ids=[
        "ctc",
        "end of word",
        "replace across tokens",
        "strip two tokens",
        "strip the end",
        "strip behind byte level",
        "metaspace of the whole",
    ],
)
def test_a_decoder_that_looks_at_several_tokens_is_refused(decoder: decoders.Decoder) -> None:
    tokenizer = Tokenizer(_with_decoder(decoder), {})
    with pytest.raises(GenerationError, match=r"cannot be told token by token \(its decoder is .*drop json_schema"):
        tokenizer.token_bytes()
