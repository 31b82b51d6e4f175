"""Where chat templates run: transformers' options and helpers in jinja2's sandbox, with a budget for work.

A template comes with a model and is not trusted. It cannot reach Python's inside, files or the caller's objects; loops,
calls and text cost from a budget, so that a template that never ends, or makes text without bound, ends in an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

BUDGET = 1 << 28  # characters a rendering may make in all, intermediate text included: a long book takes a hundredth
STEP_COST = 1024  # what a loop pass or a call costs beside the text it makes: 262,144 of them are allowed
_ITEM_COST = 256  # what an item costs when a list or mapping is written out
_WIDEST_INDENT = 64
# Methods of text and filters whose result grows with a number they are given.
_STRETCHING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "wordwrap"})
_WRITERS = frozenset({"tojson", "string", "pprint", "join"})  # filters that write out a list with all it holds
_WIDE_FIELD = re.compile(r"%[^a-zA-Z%]*(\*|\d{5})|\{[^{}]*:[^{}]*(\{|\d{5})")


class Refused(TemplateError):
    """The template called raise_exception: it does not accept these messages."""


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """One rendering's environment, options as in transformers; a second rendering takes a new one."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"])
        self._left = BUDGET
        self.code_generator_class = _CodeGenerator
        self.concat = self.joined
        self.finalize = self.weighed
        self.filters["tojson"] = _tojson
        self.filters = {name: self._metered(name, filter_) for name, filter_ in self.filters.items()}
        names = cast("dict[str, Any]", self.globals)  # pyright: ignore[reportUnknownMemberType]
        del names["lipsum"]  # placeholder text of any length
        names |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        names |= {"dict": _Dict(), "namespace": _Namespace}

    def spend(self, amount: int) -> None:
        """Take from the budget.

        Raises:
            SecurityError: nothing is left.
        """
        self._left -= amount
        if self._left < 0:
            raise SecurityError("it loops without end or makes too much text")

    def joined(self, values: Iterable[Any]) -> str:
        """The values as one text; stands in for jinja2's concat wherever pieces are put together."""
        pieces = [str(self.weighed(value)) for value in values]
        self.spend(sum(map(len, pieces)))
        return "".join(pieces)

    def weighed(self, value: Any) -> Any:
        """The value itself, before it is written out: lists may hold each other many times over."""
        pending = [value]
        while pending:
            item: Any = pending.pop()
            if isinstance(item, list | tuple | Mapping):
                self.spend(_ITEM_COST * (1 + _size(item)))
                pending += cast("Mapping[Any, Any]", item).values() if isinstance(item, Mapping) else item
        return value

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Python's own attributes are an error even where nothing is done with them."""
        if attribute.startswith("_"):
            raise SecurityError(f"access to attribute {attribute!r} of a {type(obj).__name__} is not allowed")
        return super().unsafe_undefined(obj, attribute)

    def counted(self, values: Iterable[Any]) -> Counted:
        """What a loop runs over: the same, at a price for each pass."""
        return Counted(values, self.spend)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call from a template: costs a step, what it makes, and what a method of text is about to make."""
        self.spend(STEP_COST)
        if isinstance(obj, LoopContext) and args:  # {% for ... recursive %}
            args = (self.counted(args[0]), *args[1:])
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str):
            self.spend(_growth(name, owner, [*args, *kwargs.values()]))
        result = super().call(context, obj, *args, **kwargs)
        self.spend(_size(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator that can make a small text large: its result is paid before it is made."""
        if operator == "*":
            self.spend(max(_repeated(left, right), _repeated(right, left)))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self.spend(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            _check_fields(left)
        result = super().call_binop(context, operator, left, right)
        self.spend(_size(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format, refused with fields of unbounded width."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_fields(value.__self__)
        return wrapped

    def _metered(self, name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
        at = 1 if hasattr(filter_, "jinja_pass_arg") else 0  # where the filtered value stands

        @wraps(filter_)  # keeps jinja2's mark of what a filter wants passed
        def metered(*args: Any, **kwargs: Any) -> Any:
            if name == "format":
                _check_fields(str(args[at]))
            if name in _WRITERS:
                self.weighed(args[at])
            self.spend(_growth(name, args[at], [*args[at + 1 :], *kwargs.values()]))
            result = filter_(*args, **kwargs)
            self.spend(_size(result))
            return result

        return metered


class Counted:
    """An iterable that charges for each item it gives; as long as what it wraps, for `loop.length`."""

    def __init__(self, values: Iterable[Any], spend: Callable[[int], None]) -> None:
        self._values = values
        self._spend = spend

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._spend(STEP_COST)
            yield value

    def __len__(self) -> int:
        return len(cast("Sequence[Any]", self._values))


class _CodeGenerator(CodeGenerator):
    """Sends loops and `~` through the environment."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        counted = nodes.EnvironmentAttribute("counted", environment=node.environment)
        node.iter = nodes.Call(counted, [node.iter], [], None, None, environment=node.environment)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for value in node.nodes:
            self.visit(value, frame)
            self.write(", ")
        self.write("))")


class _GenerationTag(Extension):
    """{% generation %}: marks what the assistant wrote, for training; here its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - the base class's own type

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Dict:
    """`dict` without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` without names that could reach Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # As in jinja2: no named self, so that an attribute may have that name.
        attributes: dict[Any, Any] = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace attribute must not start with an underscore, but {name!r} does")


def _check_fields(text: str) -> None:
    if _WIDE_FIELD.search(text):
        raise SecurityError("a format field is too wide")


def _raise_exception(message: Any) -> None:
    raise Refused(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own escapes HTML, which no model has seen
    if isinstance(indent, int) and indent > _WIDEST_INDENT:
        raise SecurityError(f"tojson's indent {indent} is larger than {_WIDEST_INDENT}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _size(value: Any) -> int:
    return len(cast("Sequence[Any]", value)) if isinstance(value, str | list | tuple | Mapping) else 0


def _repeated(value: Any, times: Any) -> int:
    return _size(value) * times if isinstance(times, int) else 0


def _growth(name: str, value: Any, arguments: Sequence[Any]) -> int:
    """Characters a method of text or a filter is about to make beyond what it is given."""
    if name in _STRETCHING:
        return sum(number * (1 + _size(value)) for number in arguments if isinstance(number, int) and number > 0)
    if name == "replace" and isinstance(value, str) and len(arguments) >= 2:
        return value.count(str(arguments[0])) * len(str(arguments[1]))
    return 0
