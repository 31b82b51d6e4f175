"""Language codes as tokens spell them, and what to say of one that a model does not know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from edgelm.errors import InvalidOption

_SHOWN = 6


def spelled_codes(spelled: str, tokens: Mapping[str, int]) -> dict[str, int]:
    """Code -> id of those tokens that spell a code; `spelled` has {} in the place of the code."""
    pattern = re.compile(spelled.format(r"([\w-]+)"))
    matches = ((pattern.fullmatch(text), i) for text, i in tokens.items())
    return {match[1]: i for match, i in matches if match is not None}


def unknown_code(name: str, code: str, codes: Sequence[str]) -> InvalidOption:
    """The error for a code that is not among those of the model; `name` says where it came from."""
    near = _near(code, codes)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif codes:
        rest = f" and {len(codes) - _SHOWN} more, which edgelm inspect lists" if len(codes) > _SHOWN else ""
        hint = f"choose from {', '.join(codes[:_SHOWN])}{rest}"
    else:
        hint = "its tokenizer lists none; add them to the checkpoint's additional_special_tokens and export again"
    return InvalidOption(f"{name} {code!r} is not among the model's language codes ({len(codes)} in all): {hint}")


def _near(code: str, codes: Sequence[str]) -> list[str]:
    """Codes whose language begins alike (en, eng_Latn, en-US), then those spelled alike."""

    def language(text: str) -> str:
        return re.split("[_-]", text.strip("_<>").lower())[0]

    wanted = language(code)
    alike = [known for known in codes if wanted and _begins(language(known), wanted)]
    return list(dict.fromkeys([*alike, *get_close_matches(code, codes, n=_SHOWN)]))[:_SHOWN]


def _begins(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
