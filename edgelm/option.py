"""One setting a caller may give: what it looks like to a command line, and how a value for it is read and checked."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, cast

from edgelm.errors import InvalidOption


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        """True when the value lies inside; never for NaN and infinity."""
        return self.low <= value <= self.high and value != math.inf

    def __str__(self) -> str:
        """In the usual notation, as messages and help texts show it."""
        return f"[{self.low}, inf)" if self.high == math.inf else f"[{self.low}, {self.high}]"


@dataclass(frozen=True)
class OptionField:
    """One field of GenerationConfig as a command line offers it.

    `multiple` options may be given again and again; with `choices`, the value is one of these words; a `nested` option
    is a list of lists. What fits none of these has a `reader` of its own.
    """

    name: str
    default: Any
    type: type[int] | type[float] | type[str]
    range: Interval | None
    help: str
    multiple: bool
    choices: tuple[str, ...] = ()
    nested: bool = False
    reader: Callable[[OptionField, Any], Any] | None = None


def option(default: Any, help_text: str, allowed: Interval | None = None, **extra: Any) -> Any:
    """A dataclass field that describes itself; `extra` overrides what the default value tells (type, multiple, ...).

    What an `OptionField` has no room for is for whoever goes through the fields: "cli", whether a command line offers it,
    "filter", whether it narrows what a draw is made from, and "ours", whether a checkpoint has no say in it: transformers does
    not know it, or it decides how fast tokens come and not which.
    """
    metadata: dict[str, Any] = {"help": help_text, "range": allowed, "type": type(default), "multiple": False}
    metadata |= {"choices": (), "nested": False, "reader": None, "cli": True, "ours": False, "filter": False, **extra}
    return dataclasses.field(default=default, metadata=metadata)


def describe(field: dataclasses.Field[Any]) -> OptionField:
    """What `option` noted about a field."""
    known = {f.name for f in dataclasses.fields(OptionField)}
    return OptionField(field.name, field.default, **{key: v for key, v in field.metadata.items() if key in known})


def read(option: OptionField, value: Any) -> Any:
    """The value in its declared type: 1 as 1.0, a list as a tuple, one item as a list of one, "true" as True.

    Raises:
        InvalidOption: the wrong type, or a value that is not allowed.
    """
    if value is None and option.default is None:
        return None
    if option.reader is not None:
        return option.reader(option, value)
    if not option.multiple:
        return _read_item(option, value)
    if isinstance(value, (str, Integral)):
        value = (value,)
    items = _items(option, value)
    if not option.nested:
        return tuple(_read_item(option, item) for item in items)
    if any(isinstance(item, (list, tuple)) and not item for item in items):
        raise _refusal(option, value)
    return tuple(tuple(_read_item(option, part) for part in _items(option, item)) for item in items)


def read_functions(option: OptionField, value: Any) -> tuple[Callable[..., Any], ...]:
    """One function, or a list of them, as a tuple."""
    functions = list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]
    if not all(callable(function) for function in functions):
        raise InvalidOption(f"option {option.name} is {value!r}, but must be a function or a list of functions")
    return tuple(functions)


def read_words(option: OptionField, value: Any) -> tuple[str | int, ...]:
    """Texts and token ids, one or a list, as a tuple."""
    words = (value,) if isinstance(value, (str, Integral)) else _items(option, value)
    for word in words:
        if (
            type(word) is bool
            or not isinstance(word, (str, Integral))
            or word == ""
            or (not isinstance(word, str) and word < 0)
        ):
            raise InvalidOption(f"option {option.name} is {word!r}, but must be a non-empty text or a token id")
    return tuple(word if isinstance(word, str) else int(word) for word in words)


def read_bias(option: OptionField, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """A mapping of a token id (or a sequence of them) to a number, a list of such pairs, or texts "ID=NUMBER"."""
    pairs = cast("Mapping[Any, Any]", value).items() if isinstance(value, Mapping) else _items(option, value)
    return tuple(_read_bias(option, pair) for pair in pairs)


def read_json(option: OptionField, value: Any) -> str:
    """The text of JSON, or what it stands for."""
    if not isinstance(value, (bool, dict)):
        return _read_item(option, value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOption(f"option {option.name} cannot be written as JSON: {error}") from error


def _read_bias(option: OptionField, pair: Any) -> tuple[tuple[int, ...], float]:
    refusal = InvalidOption(f"option {option.name} has {pair!r}, but must map token ids to numbers in {option.range}")
    try:
        key, number = pair.split("=") if isinstance(pair, str) else pair
        # JSON and the command line write an id as a text.
        listed = isinstance(key, (list, tuple))
        ids = list(cast("Sequence[Any]", key)) if listed else [int(key) if isinstance(key, str) else key]
        number = float(number)
    except (TypeError, ValueError) as error:
        raise refusal from error
    wrong = any(type(token) is bool or not isinstance(token, Integral) or int(token) < 0 for token in ids)
    if wrong or not ids or option.range is None or number not in option.range:
        raise refusal
    return tuple(int(token) for token in ids), number


def _items(option: OptionField, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _refusal(option, value)
    return tuple(cast("list[Any]", value))


def _read_item(option: OptionField, value: Any) -> Any:
    if option.choices:
        return _read_choice(option, value)
    wanted = {int: Integral, float: Real, str: str}[option.type]
    # bool is an int to Python, but `top_k=True` is a mistake.
    if type(value) is bool or not isinstance(value, wanted) or value == "":
        raise _refusal(option, value)
    number_or_text = cast("Any", value)
    if option.range is not None and number_or_text not in option.range:
        raise _refusal(option, value)
    return option.type(number_or_text)


def _read_choice(option: OptionField, value: Any) -> bool | str:
    word = str(value).lower() if type(value) is bool else value
    if word not in option.choices:
        raise _refusal(option, value)
    return {"true": True, "false": False}.get(word, word)


def _refusal(option: OptionField, value: Any) -> InvalidOption:
    noun = {int: "an integer", float: "a number", str: "a non-empty text"}[option.type]
    wanted = noun if option.range is None else f"{noun} in {option.range}"
    if option.nested:
        wanted = f"a list of lists, each item {wanted}"
    if option.choices:
        wanted = f"{', '.join(option.choices[:-1])} or {option.choices[-1]}"
    return InvalidOption(f"option {option.name} is {value!r}, but must be {wanted}")
