"""Constrained output: a schema, an expression, a list or a grammar in; a logits processor out that leaves only tokens that fit.

llguidance parses; this file gives it the vocabulary as bytes and turns its masks into logits. End tokens are ours: they
are allowed exactly when what is written is complete.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import GenerationError, InvalidOption
from edgelm.generation_config import GenerationConfig
from edgelm.json_schema import place_of_error, read_schema
from edgelm.logits import Logits, Processor
from edgelm.token_bytes import TokenBytes

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# As Python's json.dumps writes it. Free white space would let a model that is unsure fill the context with it.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# The compiler recurses from rule to rule and has no limit of its own: a chain of some 3,000 ends the process.
_MOST_RULES = 1500
_RULE = re.compile(r"^[^\n\"/]*:|\"\$ref\"", re.MULTILINE)

# Otherwise what can only go on in one way would have to be spelled with the tokens that a tokenizer would choose.
_ANY_TOKENS = '\n%llguidance {"no_forcing": true}'

_SPECIAL_IN_EXPRESSIONS = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]")


class Vocabulary:
    """The tokens as llguidance reads them, and behind them one for each byte, which a model never gives."""

    def __init__(self, tokens: TokenBytes, special: Mapping[int, str]) -> None:
        """Builds the tries.

        Args:
            tokens: what each token adds to a text.
            special: ids and names of the tokens that add nothing to it; a grammar in Lark's form may ask for them.

        Raises:
            GenerationError: llguidance is not installed.
        """
        try:
            importlib.import_module("llguidance")
        except ImportError as error:
            raise GenerationError(
                "constrained output needs llguidance, which is not installed: pip install 'edgelm[grammar]'"
            ) from error
        self.tokens = tokens
        self._special = frozenset(special)
        # A space that a decoder drops at the start: nothing to the grammar, and the next token may begin with another one.
        pairs = enumerate(zip(tokens.first, tokens.later, strict=True))
        self.silent = np.array([i for i, (first, later) in pairs if later and not first], np.intp)
        self.size = len(tokens.later)
        self.later = _tokenizer(tokens.later, special)
        self.first = self.later if tokens.first is tokens.later else _tokenizer(tokens.first, special)

    def spelled(self, token: int, *, first: bool) -> list[int]:
        """What the `later` vocabulary has for a token: itself, or where it reads otherwise at the start, the bytes it is there."""
        if not first or self.first is self.later or token in self._special:
            return [token]
        return [self.size + byte for byte in self.tokens.first[token]]


class Grammar:
    """What a text must look like, compiled for a vocabulary; every sequence gets a processor of its own from it."""

    def __init__(self, vocabulary: Vocabulary, option: str, value: Any, end_tokens: Sequence[int]) -> None:
        """Compiles.

        Args:
            vocabulary: what texts are made of.
            option: json_schema, regex, choice or grammar.
            value: of that option.
            end_tokens: what a sequence ends with.

        Raises:
            InvalidOption: the value is not valid, and where; or no text fits it.
        """
        self.vocabulary = vocabulary
        self.option = option
        self.end_tokens = end_tokens
        try:
            rules = _rules(option, value)
            self._first = self._later = _compiled(vocabulary.first, rules)
        except UnicodeEncodeError as error:
            raise InvalidOption(f"option {option} holds half a surrogate pair, so it is no Unicode text") from error
        if self._first.is_error():
            raise _refusal(vocabulary.first, option, value, self._first.get_error())
        if vocabulary.first is not vocabulary.later:
            self._later = _compiled(vocabulary.later, rules)
        self._first.compute_bitmask()
        if self._first.is_stopped() and not self._first.is_accepting():
            raise InvalidOption(
                f"option {option}: no text fits it, because every rule needs another one; give one that ends"
            )

    def processor(self, start: int) -> Processor:
        """For one sequence, whose first `start` ids are not the grammar's."""
        return _Follower(self, start, self._first.deep_copy(), self._later.deep_copy())


def compile_grammar(config: GenerationConfig, vocabulary: Vocabulary) -> Grammar:
    """The grammar of the one setting among json_schema, regex, choice and grammar that is given.

    Raises:
        InvalidOption: it is not valid, or there is no end token.
    """
    (option, value), *_ = config.constraints
    if not config.end_token_ids:
        raise InvalidOption(
            f"option {option} needs an end token, and this model has none; give eos_token_id or stop_token_ids"
        )
    return Grammar(vocabulary, option, value, config.end_token_ids)


def _rules(option: str, value: Any) -> str:
    """The setting as a grammar in Lark's form."""
    from llguidance import regex_to_lark

    match option:
        case "json_schema":
            return _json_rules(read_schema(value))
        case "regex":
            return f"start: /{regex_to_lark(value)}/"
        case "choice":
            words = (_SPECIAL_IN_EXPRESSIONS.sub(r"\\\g<0>", word) for word in value)
            return f"start: /{regex_to_lark('|'.join(words))}/"
        case _:
            count = len(_RULE.findall(value))
            if count > _MOST_RULES:
                raise InvalidOption(
                    f"option {option} has about {count} rules and {_MOST_RULES} can be compiled; simplify it"
                )
            return value


def _json_rules(schema: Mapping[str, Any]) -> str:
    own = schema.get("x-guidance")  # llguidance's key for how JSON is written
    style = {**JSON_STYLE, **cast("dict[str, Any]", own)} if isinstance(own, dict) else JSON_STYLE
    return f"start: %json {json.dumps({**schema, 'x-guidance': style})}"


def _compiled(tokenizer: LLTokenizer, rules: str) -> LLMatcher:
    """A matcher, or one that is in error: so llguidance tells what is wrong."""
    from llguidance import LLMatcher

    return LLMatcher(tokenizer, LLMatcher.grammar_from_lark(rules + _ANY_TOKENS), log_level=0)


def _refusal(tokenizer: LLTokenizer, option: str, value: Any, error: str) -> InvalidOption:
    reason = _one_line(error)
    if option != "grammar":  # the line is one that was made here
        reason = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", reason)
    if option == "json_schema":

        def complaint(schema: Mapping[str, Any]) -> str:
            return _one_line(_compiled(tokenizer, _json_rules(schema)).get_error())

        reason = f"at {place_of_error(read_schema(value), complaint)}: {reason}"
    return InvalidOption(f"option {option}: {reason}")


def _one_line(error: str) -> str:
    """A message without the lines that show the source and point into it."""
    lines = [line.strip() for line in error.splitlines() if not re.fullmatch(r"\s*(\^+|\d+ \|.*|)\s*", line)]
    return " ".join(lines)[:500]


def _tokenizer(tokens: Sequence[bytes], special: Mapping[int, str]) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    # llguidance marks special tokens with 0xFF, and no text has that byte.
    spelled = [b"" if token.startswith(b"\xff") else token for token in tokens]
    for token_id, name in special.items():
        spelled[token_id] = name.encode()
    end = len(spelled) + 255
    return LLTokenizer(
        TokenizerWrapper(_Spelling([*spelled, *(bytes([byte]) for byte in range(255)), b"<|complete|>"], special, end)),
        eos_token=end,
    )


class _Spelling:
    """What TokenizerWrapper reads of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: Mapping[int, str], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = [*special, end]
        self.eos_token_id = end

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a text, byte by byte: nothing here asks for the model's own tokens."""
        raw = text.encode() if isinstance(text, str) else text
        return [self.eos_token_id - 255 + byte for byte in raw]


def _within(tokens: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Those that a model of this size can give."""
    return tokens[tokens < size]


class _Follower:
    """One sequence's place in a grammar. Called with other ids than before, as beams do, it goes back to where they part."""

    def __init__(self, grammar: Grammar, start: int, first: LLMatcher, later: LLMatcher) -> None:
        self._grammar = grammar
        self._start = start
        self._first, self._later = first, later
        self._followed: list[int] = []
        self._bits = np.empty((1, (grammar.vocabulary.size + 256 + 31) // 32), np.int32)
        self._ends = np.array(grammar.end_tokens, np.intp)

    def __call__(self, ids: Sequence[int], logits: Logits) -> Logits:
        """Forbids the tokens that do not fit, and end tokens until the text is complete.

        Raises:
            GenerationError: the grammar became too large while it was followed.
        """
        if len(ids) < self._start:
            return logits
        self._follow(list(ids[self._start :]))
        allowed = self._allowed(logits.size)
        if not self._followed:
            allowed[_within(self._grammar.vocabulary.silent, logits.size)] = 1
        allowed[_within(self._ends, logits.size)] = self._later.is_accepting()
        np.copyto(logits, -np.inf, where=allowed == 0)
        return logits

    def _allowed(self, size: int) -> NDArray[np.uint8]:
        from llguidance.numpy import fill_next_token_bitmask

        matcher = self._later if self._followed else self._first
        fill_next_token_bitmask(matcher, self._bits)
        self._check(matcher)
        count = min(size, self._grammar.vocabulary.size)
        allowed = np.zeros(size, np.uint8)
        allowed[:count] = np.unpackbits(self._bits.view(np.uint8)[0], count=count, bitorder="little")
        return allowed

    def _follow(self, ids: list[int]) -> None:
        common = len(self._followed)
        if ids[:common] != self._followed:
            pairs = enumerate(zip(self._followed, ids, strict=False))
            common = next((i for i, (old, new) in pairs if old != new), len(ids))
            self._later.rollback(sum(len(self._spelled(i)) for i in range(common, len(self._followed))))
            del self._followed[common:]
        for token in ids[common:]:
            self._followed.append(token)
            self._later.consume_tokens(self._spelled(len(self._followed) - 1))
            self._check(self._later)

    def _spelled(self, position: int) -> list[int]:
        return self._grammar.vocabulary.spelled(self._followed[position], first=position == 0)

    def _check(self, matcher: LLMatcher) -> None:
        if matcher.is_error():
            raise GenerationError(
                f"option {self._grammar.option} cannot be followed any further: {_one_line(matcher.get_error())}; simplify it"
            )
