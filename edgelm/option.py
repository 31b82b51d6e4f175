"""One setting a caller may give: what it looks like to a command line, and how a value for it is read and checked."""

from __future__ import annotations

import dataclasses
import json
import math
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
    is a list of lists; the text of a `json` option may be given as what it stands for.
    """

    name: str
    default: Any
    type: type[int] | type[float] | type[str]
    range: Interval | None
    help: str
    multiple: bool
    choices: tuple[str, ...] = ()
    nested: bool = False
    json: bool = False


def option(default: Any, help_text: str, allowed: Interval | None = None, **extra: Any) -> Any:
    """A dataclass field that describes itself; `extra` overrides what the default value tells (type, multiple, cli ...)."""
    metadata: dict[str, Any] = {"help": help_text, "range": allowed, "type": type(default)}
    metadata |= {"multiple": False, "cli": True, "choices": (), "nested": False, "json": False, **extra}
    return dataclasses.field(default=default, metadata=metadata)


def describe(field: dataclasses.Field[Any]) -> OptionField:
    """What `option` noted about a field."""
    return OptionField(field.name, field.default, **{key: v for key, v in field.metadata.items() if key != "cli"})


def read(option: OptionField, value: Any) -> Any:
    """The value in its declared type: 1 as 1.0, a list as a tuple, one item as a list of one, "true" as True.

    Raises:
        InvalidOption: the wrong type, or a value that is not allowed.
    """
    if value is None and option.default is None:
        return None
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


def _items(option: OptionField, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _refusal(option, value)
    return tuple(cast("list[Any]", value))


def _read_item(option: OptionField, value: Any) -> Any:
    if option.choices:
        return _read_choice(option, value)
    if option.json and isinstance(value, (bool, dict)):
        value = _as_json(option, value)
    wanted = {int: Integral, float: Real, str: str}[option.type]
    # bool is an int to Python, but `top_k=True` is a mistake.
    if type(value) is bool or not isinstance(value, wanted) or value == "":
        raise _refusal(option, value)
    number_or_text = cast("Any", value)
    if option.range is not None and number_or_text not in option.range:
        raise _refusal(option, value)
    return option.type(number_or_text)


def _as_json(option: OptionField, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOption(f"option {option.name} cannot be written as JSON: {error}") from error


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
