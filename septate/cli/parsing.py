"""How words of a command line become values, in the manner of the reference: strict numbers, options at most once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

from protocol.logins import without_secret
from septate.errors import UserError

_DIGITS: Final = re.compile(r"\+?[0-9]{1,20}", re.ASCII)


class Number(click.ParamType[int]):
    """A decimal number from `low` to `high`: none of the underscores and spaces that Python allows."""

    def __init__(self, low: int, high: int) -> None:
        self.name = "number"
        self._low = low
        self._high = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, or a usage error."""
        if isinstance(value, int):
            return value
        if _DIGITS.fullmatch(value) is None:
            self.fail(f"{value!r} is no number", param, ctx)
        if not self._low <= int(value) <= self._high:
            self.fail(f"{value} is not between {self._low} and {self._high}", param, ctx)
        return int(value)


class Parsed(click.ParamType[Any]):
    """What `parse` makes of a word; its `ValueError` becomes a usage error that ends with an `example` of one."""

    def __init__(self, name: str, parse: Callable[[str], Any], example: str) -> None:
        self.name = name
        self._parse = parse
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value, or a usage error."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(f"{without_secret(value)!r}: {error}; write it like {self._example}", param, ctx)


class OnceOption(click.Option):
    """An option that may be given once; click would silently take the last one. None, or False, where it is absent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._then = kwargs.pop("callback", None)
        kwargs["callback"] = self._single
        kwargs["count" if kwargs.pop("is_flag", False) else "multiple"] = True
        super().__init__(*args, **kwargs)

    def _single(self, ctx: click.Context, _param: click.Parameter, value: int | tuple[Any, ...]) -> Any:
        given = value if isinstance(value, int) else len(value)
        if given > 1:
            raise click.UsageError(f"Option {self.get_error_hint(ctx)} can't be given twice.", ctx)
        single: Any = bool(given)
        if not isinstance(value, int):
            refuse_options_as_values(self, ctx, value)
            single = value[0] if value else None
        return single if self._then is None else self._then(ctx, self, single)


class RepeatedOption(click.Option):
    """An option that may be given again, one value each time. None where it is absent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["callback"] = self._all
        kwargs["multiple"] = True
        super().__init__(*args, **kwargs)

    def _all(self, ctx: click.Context, _param: click.Parameter, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        refuse_options_as_values(self, ctx, values)
        return values or None


json_option: Final = click.option("--json", "as_json", cls=OnceOption, is_flag=True, help="Print as JSON.")


def refuse_options_as_values(option: click.Option, ctx: click.Context, values: tuple[Any, ...]) -> None:
    """Raises a usage error where an option took the next option for its value, as in `--tun-name --silent`."""
    for value in values:
        word = str(value)
        if len(word) > 1 and word.startswith("-"):
            raise click.UsageError(f"Option {option.get_error_hint(ctx)} requires a value, {word!r} is an option.", ctx)


def spread(args: list[str], option: str) -> list[str]:
    """`--peers A B` as `--peers A --peers B`: the option takes all following words up to the next option."""
    result: list[str] = []
    taking = starved = False
    for position, word in enumerate(args):
        if word == "--":
            return _checked(result, option, starved) + args[position:]
        if word == option:
            _checked(result, option, starved)
            taking = starved = True
        elif len(word) > 1 and word.startswith("-"):
            _checked(result, option, starved)
            taking, starved = word.startswith(f"{option}="), False
            result.append(word)
        elif taking:
            result += [option, word]
            starved = False
        else:
            result.append(word)
    return _checked(result, option, starved)


def _checked(result: list[str], option: str, starved: bool) -> list[str]:
    if starved:
        raise click.UsageError(f"Option '{option}' requires a value.")
    return result


class Group(click.Group):
    """A command with subcommands: alone it prints its help to standard error and exits with 2; it has a `help`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("no_args_is_help", True)
        super().__init__(*args, **kwargs)
        self.add_command(_help_command())

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; an error that a user can mend becomes one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.ClickException(str(error)) from error


def _help_command() -> click.Command:
    @click.command("help", help="Print this message or the help of the given subcommand(s).")
    @click.argument("path", nargs=-1, metavar="[COMMAND]...")
    @click.pass_context
    def show(ctx: click.Context, path: tuple[str, ...]) -> None:
        assert ctx.parent is not None
        found, place = ctx.parent.command, ctx.parent
        for name in path:
            child = found.get_command(place, name) if isinstance(found, click.Group) else None
            if child is None:
                raise click.UsageError(f"No such command {name!r}.", place)
            found, place = child, click.Context(child, info_name=name, parent=place)
        click.echo(found.get_help(place))

    return show
