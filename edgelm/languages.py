"""Where translation models want their language codes: texts in, ids with the codes in place out.

The codes are put there here and not by tokenizer.json, which holds a single language, in some checkpoints at a place where
the model was not trained to find it. Sources: the tokenization_*.py of transformers' models and their model cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from edgelm.errors import InvalidOption
from edgelm.language_codes import spelled_codes, unknown_code
from edgelm.language_files import LanguageFiles, read_language_files
from edgelm.tokenizer import Tokenizer


class Languages:
    """The languages of a package. Here it has none to choose from: texts become what its tokenizer makes of them."""

    def __init__(self, files: LanguageFiles) -> None:
        """Use `from_folder`."""
        self._files = files

    @classmethod
    def from_folder(
        cls, folder: Path, tokenizer: Tokenizer, architecture: str, vocab_size: int, generation: Mapping[str, Any]
    ) -> Languages:
        """What a package's files say of its languages.

        Args:
            folder: holds tokenizer_config.json and, if it is there, config.json and tokenizer_target.json.
            tokenizer: that of tokenizer.json.
            architecture: the model type, which counts where no file names a class of tokenizers.
            vocab_size: ids that the encoder has embeddings for.
            generation: the checkpoint's generation settings.

        Raises:
            ManifestError: a file is missing or unreadable.
        """
        files = read_language_files(folder, tokenizer, vocab_size, generation)
        name = files.tokenizer_class or _CLASSES.get(architecture, "")
        if name in _FAMILIES:
            legacy = name == "Nllb" and files.config.get("legacy_behaviour") is True
            return _Coded(files, _LEGACY_NLLB if legacy else _FAMILIES[name])
        return {"Marian": _Marian, "BlenderbotSmall": _BlenderbotSmall}.get(name, Languages)(files)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes to choose from, sorted."""
        return tuple(sorted(self._codes))

    @property
    def writer(self) -> Tokenizer:
        """Turns the ids that the model writes into text."""
        return self._files.writer

    def source(self, text: str, source_lang: str | None, target_lang: str | None) -> list[int]:
        """Ids of a text to be read.

        Raises:
            InvalidOption: the model does not know such a language, or the text is no Unicode text.
        """
        self.check(source_lang, target_lang)
        return self._encode(self._files.tokenizer, text)

    def target(self, text: str, target_lang: str | None) -> list[int]:
        """Ids of a text as the model would write it after the first token: its end is included.

        Raises:
            InvalidOption: as `source`.
        """
        self.check(None, target_lang)
        ids, ends = self._encode(self._files.target, text), _ids(self._files.generation.get("eos_token_id"))
        ended = not ends or (ids and ids[-1] in ends)
        return ids if ended else [*ids, ends[0]]

    def beginning(self, target_lang: str | None) -> tuple[int | None, int | None]:
        """The id that is forced after the first, and the first itself; None where generation settings are to decide.

        Raises:
            InvalidOption: the model does not know such a language.
        """
        self.check(None, target_lang)
        return None, None

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {}

    def _encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        return tokenizer.encode(text)

    def check(self, source_lang: str | None, target_lang: str | None) -> None:
        """Checks both codes, where they are given.

        Raises:
            InvalidOption: the model does not know such a language.
        """
        for name, code in (("source_lang", source_lang), ("target_lang", target_lang)):
            if code is not None:
                self._check_one(name, code)

    def _check_one(self, name: str, code: str) -> None:
        raise InvalidOption(
            f"{name} {code!r}: the model has no language codes; leave {name} out (models that want to be told a language "
            "in words have it in the text)"
        )


class _BlenderbotSmall(Languages):
    """Its merges lead through pieces that have no token of their own; their ids follow those of the vocabulary."""

    def _encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        unknown = tokenizer.token_id(tokenizer.special_tokens.get("unk_token", "__unk__"))
        limit = self._files.vocab_size
        ids = tokenizer.encode(text)
        return ids if unknown is None else [i if i < limit else unknown for i in ids]


@dataclass(frozen=True)
class _Family:
    """How a class of tokenizers marks languages.

    `source_first` is whether the code stands before a source instead of after its end; `begins` whether a target's code
    is the first token the decoder is fed instead of one forced after it.
    """

    default: str  # the source's language where the files are silent
    source_first: bool = True
    begins: bool = False
    spelled: str = "{}"


_FAMILIES: Mapping[str, _Family] = MappingProxyType(
    {
        # As its model card has it and as it was trained; transformers' pipeline forces the code a second time.
        "MBart": _Family("en_XX", source_first=False, begins=True),
        "MBart50": _Family("en_XX"),
        "Nllb": _Family("eng_Latn"),
        "M2M100": _Family("en", spelled="__{}__"),
    }
)
_LEGACY_NLLB = _Family("eng_Latn", source_first=False)

# Model type -> class where no file names one, as the oldest folders do. None is written here with its Tokenizer.
_CLASSES: Mapping[str, str] = MappingProxyType(
    {"mbart": "MBart", "m2m_100": "M2M100", "marian": "Marian", "blenderbot-small": "BlenderbotSmall"}
)


class _Coded(Languages):
    """A code for the source and one for the target, each a token."""

    def __init__(self, files: LanguageFiles, family: _Family) -> None:
        super().__init__(files)
        self._family = family
        self._end = files.end(files.tokenizer)
        self._source_lang = files.language("src_lang") or family.default
        self._target_lang = files.language("tgt_lang")

    @cached_property
    def _codes(self) -> dict[str, int]:
        """Code -> id. A code is a special token without a name, and spelled like a word."""
        tokenizer = self._files.tokenizer
        named = set(tokenizer.special_tokens.values())
        tokens = {text: i for i in tokenizer.special_ids if (text := tokenizer.token(i)) and text not in named}
        return spelled_codes(self._family.spelled, tokens)

    def source(self, text: str, source_lang: str | None, target_lang: str | None) -> list[int]:
        self.check(source_lang, target_lang)
        code = (
            self._id("the default source_lang", self._source_lang) if source_lang is None else self._codes[source_lang]
        )
        ids = self._files.tokenizer.encode(text, add_special_tokens=False)
        return [code, *ids, self._end] if self._family.source_first else [*ids, self._end, code]

    def target(self, text: str, target_lang: str | None) -> list[int]:
        forced, _ = self.beginning(target_lang)
        second = _ids(self._files.generation.get("forced_bos_token_id")) if forced is None else [forced]
        return [*second, *self._files.tokenizer.encode(text, add_special_tokens=False), self._end]

    def beginning(self, target_lang: str | None) -> tuple[int | None, int | None]:
        decides = "decoder_start_token_id" if self._family.begins else "forced_bos_token_id"
        if target_lang is None and self._files.generation.get(decides) is None:
            target_lang = self._target_lang
        if target_lang is None:
            return None, None
        code = self._id("target_lang", target_lang)
        if not self._family.begins:
            return code, None
        # A checkpoint that was trained to write a language second is told which there, too.
        forces = self._files.generation.get("forced_bos_token_id") in self._codes.values()
        return (code if forces else None), code

    def _check_one(self, name: str, code: str) -> None:
        self._id(name, code)

    def _id(self, name: str, code: str) -> int:
        if code not in self._codes:
            raise unknown_code(name, code, self.codes)
        return self._codes[code]


class _Marian(Languages):
    """Models that write several languages find >>xx<< before a source. What the source itself is in, none is told."""

    def __init__(self, files: LanguageFiles) -> None:
        super().__init__(files)
        self._end, self._target_end = files.end(files.tokenizer), files.end(files.target)
        self._reads, self._writes = files.language("source_lang"), files.language("target_lang")

    @cached_property
    def _codes(self) -> dict[str, int]:
        # Among all tokens, for files made by others list none of these as special.
        tokenizer = self._files.tokenizer
        return spelled_codes(">>{}<<", {text: i for i in range(tokenizer.vocab_size) if (text := tokenizer.token(i))})

    def source(self, text: str, source_lang: str | None, target_lang: str | None) -> list[int]:
        self.check(source_lang, target_lang)
        written = re.match(r">>([^<>]+)<<", text)
        if written is not None and written[1] in self._codes:
            if target_lang not in (None, written[1]):
                raise InvalidOption(
                    f"the text begins with {written[0]}, and target_lang is {target_lang!r}; leave one of them out"
                )
            target_lang, text = written[1], text[written.end() :]
        # A language that is the only one has no code.
        code = [] if target_lang is None or not self._codes else [self._codes[target_lang]]
        return [*code, *self._files.tokenizer.encode(text, add_special_tokens=False), self._end]

    def target(self, text: str, target_lang: str | None) -> list[int]:
        self.check(None, target_lang)
        return [*self._files.target.encode(text, add_special_tokens=False), self._target_end]

    def _check_one(self, name: str, code: str) -> None:
        does, only = ("reads", self._reads) if name == "source_lang" else ("writes", self._writes)
        if does == "writes" and (codes := self.codes):
            if code not in codes:
                raise unknown_code(name, code, codes)
        elif code != only:
            what = f"{does} {only!r} alone" if only else f"is not told what it {does}"
            raise InvalidOption(f"{name} {code!r}: the model {what}; leave {name} out")


def _ids(value: Any) -> list[int]:
    """Token ids as generation settings spell them: one, a list, or none."""
    if value is None:
        return []
    return list(cast("list[int]", value)) if isinstance(value, list) else [int(value)]
