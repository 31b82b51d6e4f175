"""What the files of a package say about the texts of its model: a folder in, tokenizers and settings out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import ManifestError
from edgelm.tokenizer import Tokenizer, read_object, read_tokenizer_config

_TARGET, _CONFIG = "tokenizer_target.json", "tokenizer_config.json"


@dataclass(frozen=True)
class LanguageFiles:
    """Tokenizers and settings. `target` cuts the texts that the model writes, and `writer` turns its ids into text."""

    folder: Path
    config: Mapping[str, Any]  # tokenizer_config.json
    tokenizer_class: str  # without Tokenizer and Fast at its end; empty where no file names one
    tokenizer: Tokenizer
    target: Tokenizer
    vocab_size: int
    generation: Mapping[str, Any]  # the manifest's

    @property
    def writer(self) -> Tokenizer:
        """The other tokenizer only where it has ids of its own."""
        return self.target if self.config.get("separate_vocabs") else self.tokenizer

    def language(self, name: str) -> str | None:
        """A language that tokenizer_config.json names.

        Raises:
            ManifestError: it is no text.
        """
        value = self.config.get(name)
        if value is not None and not isinstance(value, str):
            raise ManifestError(
                f"{self.folder / _CONFIG}: {name} is {value!r} instead of a text; correct it in the checkpoint and export again"
            )
        return value or None

    def end(self, tokenizer: Tokenizer) -> int:
        """The id of the token that ends a text.

        Raises:
            ManifestError: the vocabulary has none.
        """
        text = tokenizer.special_tokens.get("eos_token", "</s>")
        found = tokenizer.token_id(text)
        if found is None:
            raise ManifestError(
                f"{self.folder}: the end token {text!r} is not in the vocabulary; name the right one as eos_token in the "
                f"checkpoint's {_CONFIG} and export again"
            )
        return found


def read_language_files(
    folder: Path, tokenizer: Tokenizer, vocab_size: int, generation: Mapping[str, Any]
) -> LanguageFiles:
    """Reads tokenizer_config.json and, where they are there, config.json and tokenizer_target.json.

    Raises:
        ManifestError: a file cannot be read, or a vocabulary for targets is missing.
    """
    config = read_tokenizer_config(folder)
    target = tokenizer
    if (folder / _TARGET).exists():
        target = Tokenizer.from_folder(folder, _TARGET)
    elif config.get("separate_vocabs"):
        raise ManifestError(
            f"{folder}: {_CONFIG} says that targets have a vocabulary of their own (separate_vocabs), but there is no "
            f"{_TARGET}; export again from a folder without tokenizer.json that holds vocab.json, target_vocab.json, "
            "source.spm and target.spm"
        )
    # Older checkpoints name the class in config.json.
    named = config.get("tokenizer_class") or read_object(folder / "config.json").get("tokenizer_class")
    name = named.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(named, str) else ""
    return LanguageFiles(folder, config, name, tokenizer, target, vocab_size, generation)
