"""tokenizer.json and tokenizer_config.json in, text <-> ids out.

Both directions agree with transformers 5. The post-processor in tokenizer.json alone says which special tokens are
added: add_bos_token and add_eos_token of tokenizer_config.json count for nothing, as in transformers 5 wherever there is
a tokenizer.json. (transformers 4 let them overrule the post-processor for its Llama, Code Llama, Gemma and Cohere classes.)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgelm.errors import InvalidOption, ManifestError
from edgelm.text_stream import TEXT_CLEANUP, ReplaceText, Stage, TextStream, WholeText, build_stages
from edgelm.token_bytes import TokenBytes, token_bytes

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

    from edgelm.grammar import Vocabulary


Text = str | tuple[str, str]


# How models spell special tokens that their tokenizer_config.json leaves to the class in transformers.
_USUAL = {"mask_token": ("[MASK]", "<mask>"), "cls_token": ("[CLS]", "<s>"), "unk_token": ("[UNK]", "<unk>")}


class Tokenizer:
    """Text to ids and back; `special_tokens` are those tokenizer_config.json names, for chat templates."""

    def __init__(self, backend: Backend, config: Mapping[str, Any]) -> None:
        """Wraps a tokenizer of the tokenizers library.

        Args:
            backend: is changed: padding and truncation go, special tokens of the config are marked as such.
            config: tokenizer_config.json, or an empty mapping.
        """
        self.special_tokens = _special_tokens(config)
        _mark_special(backend, [*self.special_tokens.values(), *_extra_special_tokens(config)])
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._decoder = _decoder_spec(backend)
        self.special_ids = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
        # transformers 5 cleans up for every model but BPE, whose own spaces it would eat.
        clean_up = config.get("clean_up_tokenization_spaces") is True and type(backend.model).__name__ != "BPE"
        self._cleanup = TEXT_CLEANUP if clean_up else ()
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        # Where a model is fed no token types, all are 0, whatever tokenizer.json says of the second text.
        named = config.get("model_input_names")
        self.has_token_types = not isinstance(named, list) or "token_type_ids" in named
        self.truncates_left = config.get("truncation_side") == "left"
        # What marks tokens that continue a word; None or "" where tokens do not say.
        self.subword_prefix: str | None = getattr(backend.model, "continuing_subword_prefix", None)

    @classmethod
    def from_folder(cls, folder: Path, name: str = "tokenizer.json") -> Tokenizer:
        """Reads tokenizer.json, or another file of that format, and, if it is there, tokenizer_config.json.

        Raises:
            ManifestError: the tokenizer is missing, or one of the files cannot be read.
        """
        path = folder / name
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ManifestError(f"{path} is missing; export the model again") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path} cannot be read ({error}); export the model again") from error
        return cls(_parse(text, path), read_tokenizer_config(folder))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text. Special tokens written out in the text become their ids, as in transformers.

        Raises:
            InvalidOption: the text holds half a surrogate pair, so it is no Unicode text.
        """
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except BaseException as error:
            _explain([text], error)
            raise

    def encode_batch(self, texts: Sequence[Text], *, offsets: bool = True) -> list[Encoding]:
        """Texts, or pairs of them, with everything the tokenizers library knows about their tokens.

        Args:
            texts: are not cut, however long.
            offsets: where tokens stand in their text is wanted; it costs a tenth more time.

        Raises:
            InvalidOption: a text holds half a surrogate pair, so it is no Unicode text.
        """
        encode = self._backend.encode_batch if offsets else self._backend.encode_batch_fast
        try:
            return encode(list(texts), add_special_tokens=True)
        except BaseException as error:
            _explain([part for text in texts for part in ([text] if isinstance(text, str) else text)], error)
            raise

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids; ids without a token (a model's padded rows) give nothing.

        Raises:
            InvalidOption: an id no vocabulary can hold.
        """
        try:
            text = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            wrong = next(i for i in ids if not 0 <= i < 2**32)
            raise InvalidOption(f"token id {wrong} is outside 0..{self.vocab_size - 1}") from error
        for old, new in self._cleanup:
            text = text.replace(old, new)
        return text

    def stream(self, *, skip_special_tokens: bool = True) -> TextStream:
        """A fresh stream that decodes one id at a time to the same text as `decode`."""
        stages: list[Stage] | None = build_stages(self._decoder)
        if stages is None:
            stages = [WholeText(self._decode_tokens)]
        stages += [ReplaceText(old, new) for old, new in self._cleanup]
        return TextStream(self._token_of(skip_special_tokens), stages)

    def verbatim(self) -> Tokenizer:
        """The same without clean-up of spaces: a text is that of its tokens and nothing else."""
        other = copy.copy(self)
        other._cleanup = ()
        return other

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What grammars are compiled for; made at first use, which takes up to a second or two.

        Raises:
            GenerationError: llguidance is not installed, or the tokens have no text of their own.
        """
        from edgelm.grammar import Vocabulary

        names = {token_id: self.token(token_id) or "" for token_id in self.special_ids}
        return Vocabulary(self.token_bytes(), names)

    def token_bytes(self) -> TokenBytes:
        """What each token adds to a text, special ones included.

        Raises:
            GenerationError: the decoder looks at more than one token at a time.
        """
        count = max(self.ids.values(), default=-1) + 1  # ids may leave gaps
        tokens = [self._backend.id_to_token(i) for i in range(count)]
        return token_bytes(self._decoder, self._decode_tokens, tokens)

    def spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text of ids, and where in it each stands without the spaces around it; special tokens have no text."""
        stream, text = self.stream(), ""
        found: list[tuple[int, int]] = []
        for position, token_id in enumerate(ids):
            piece = stream.push(token_id) + (stream.finish() if position == len(ids) - 1 else "")
            start = len(text) + len(piece) - len(piece.lstrip())
            text += piece
            found.append((start, max(start, len(text.rstrip()))))
        return text, found

    def special_token(self, name: str) -> str | None:
        """The token that goes by that name, such as "mask_token"; None where there is none.

        Named in tokenizer_config.json, or else a special token with the usual spelling: older checkpoints name none.
        """
        named = self.special_tokens.get(name)
        if named is not None and self.token_id(named) is not None:
            return named
        usual = (token for token in _USUAL.get(name, ()) if self.token_id(token) in self.special_ids)
        return next(usual, None)

    @property
    def ids(self) -> dict[str, int]:
        """The id of every token, added tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def token_id(self, text: str) -> int | None:
        """Id of the token spelled exactly so, added tokens included."""
        return self._backend.token_to_id(text)

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it."""
        return self._backend.id_to_token(token_id)

    def _decode_tokens(self, tokens: list[str]) -> str:
        # Without a decoder the library puts spaces between tokens.
        return " ".join(tokens) if self._backend.decoder is None else self._backend.decoder.decode(tokens)

    def ids_with(self, words: Sequence[str | int]) -> tuple[int, ...]:
        """Ids of the tokens whose text holds one of these texts, and ids as they are; ascending.

        Raises:
            InvalidOption: a text that no token holds.
        """
        found = {word for word in words if isinstance(word, int)}
        for word in words:
            if isinstance(word, str):
                ids = [token_id for token_id, text in enumerate(self._texts) if word in text]
                if not ids:
                    raise InvalidOption(f"no token of the vocabulary holds {word!r}; give a shorter text, or token ids")
                found.update(ids)
        return tuple(sorted(found))

    @cached_property
    def _texts(self) -> list[str]:
        """The text of each token by itself. One that stands for a space is that, though a text does not begin with it."""
        texts = self._backend.decode_batch([[i] for i in range(self.vocab_size)], skip_special_tokens=False)
        spelled = [self.token(token_id) or "" for token_id in range(self.vocab_size)]
        return [" " + text if token.startswith("\u2581") else text for token, text in zip(spelled, texts, strict=True)]

    def _token_of(self, skip_special_tokens: bool) -> Callable[[int], str | None]:
        lookup, hidden = self._backend.id_to_token, self.special_ids if skip_special_tokens else frozenset[int]()
        return lambda token_id: None if token_id in hidden else lookup(token_id)


def _explain(texts: Sequence[str], error: BaseException) -> None:
    """Raises what can be said of texts that the tokenizers library does not encode; nothing where the error says it all.

    Raises:
        InvalidOption: one of them is no Unicode text.
        ManifestError: the library gives up on what tokenizer.json says.
    """
    for text in texts if isinstance(error, TypeError) else ():
        half = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
        if half is not None:
            raise InvalidOption(
                f"the text holds half a surrogate pair (U+{ord(text[half]):04X}) at position {half}; "
                "decode your input as UTF-8 (or with errors='replace')"
            ) from error
    if type(error) is Exception or _is_panic(error):
        raise ManifestError(
            f"tokenizer.json contradicts itself, so this text cannot be encoded ({error}); export the model again"
        ) from error


def _is_panic(error: BaseException) -> bool:
    """Whether it is a panic of Rust, which arrives as PanicException: no Exception, and without an importable name."""
    return type(error).__name__ == "PanicException"


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json of a folder, with the special tokens of an older special_tokens_map.json; {} without one.

    Raises:
        ManifestError: a file is there but is no JSON object.
    """
    config = read_object(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in config:  # as transformers: only configs from before that key need the second file
        return config
    return config | read_object(folder / "special_tokens_map.json")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no file.

    Raises:
        ManifestError: the file is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} cannot be read ({error}); export the model again") from error
    if not isinstance(value, dict):
        raise ManifestError(f"{path} is no JSON object; export the model again")
    return cast("dict[str, Any]", value)


def _parse(text: str, path: Path) -> Backend:
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_str(text)
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise ManifestError(f"{path} is no tokenizer ({error}); export the model again") from error


def _decoder_spec(backend: Backend) -> dict[str, Any] | None:
    """The decoder as tokenizer.json spells it. Its pickled state is that JSON: the whole file need not be written out."""
    if backend.decoder is None:
        return None
    return json.loads(cast("bytes", backend.decoder.__getstate__()))


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    named = {key: _content(value) for key, value in config.items() if key.endswith("_token")}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, Mapping):  # a model's own names, such as image_token
        named |= {str(key): _content(value) for key, value in cast("Mapping[Any, Any]", extra).items()}
    return {key: token for key, token in named.items() if token is not None}


def _extra_special_tokens(config: Mapping[str, Any]) -> list[str]:
    listed: Any = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    declared: Any = config.get("added_tokens_decoder")
    entries: list[Any] = [*listed] if isinstance(listed, list) else []
    if isinstance(declared, Mapping):
        tokens = cast("Mapping[str, Any]", declared).values()
        entries += [token for token in tokens if isinstance(token, Mapping) and cast("Any", token).get("special")]
    return [token for token in map(_content, entries) if token is not None]


def _content(value: Any) -> str | None:
    """A token as tokenizer_config.json spells it: its text, or an object with its text and flags."""
    if isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value).get("content")
    # JSON can spell halves of characters, which are no text and so no token's.
    text = value.encode("utf-8", "ignore").decode("utf-8") if isinstance(value, str) else ""
    return text if text and text == value else None


def _mark_special(backend: Backend, tokens: Sequence[str]) -> None:
    """Make special tokens of tokens that are in the vocabulary only; the vocabulary never grows past the model's."""
    from tokenizers import AddedToken

    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = [
        token for token in dict.fromkeys(tokens) if token not in added and backend.token_to_id(token) is not None
    ]
    if missing:
        cast(Any, backend).add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
