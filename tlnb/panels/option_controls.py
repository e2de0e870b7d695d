"""A control for each option of a training, as `core.planning.options` describes it, and what was typed into it."""

from __future__ import annotations

from typing import Any

import ipywidgets as w

from tlnb.core.planning.options import Option, TrainOptions
from tlnb.panels.base import WIDE, decimal, field, whole

USUAL = "as the recipe says"
EITHER = ((USUAL, None), ("yes", True), ("no", False))
DEFAULTS = TrainOptions()


def control(option: Option) -> Any:
    """The control that fits: a list of choices, a box to tick, a number with its bounds, or a text."""
    tip = option.panel_help or option.help[0].upper() + option.help[1:]
    if option.choices:
        return _choice(option, tip)
    if option.either:
        return field(w.Dropdown, option.label, tip, WIDE, options=EITHER, value=None)
    if option.is_switch:
        return field(w.Checkbox, option.label, tip, "auto", value=False, indent=False)
    if _start(option) is not None:
        least, most = option.bounds or (None, None)
        return field(w.BoundedIntText, option.label, tip, value=_start(option), min=least, max=most)
    placeholder = "" if option.by_recipe else option.empty
    return field(w.Text, option.label, f"{tip}; empty: {option.empty}", placeholder=placeholder)


def _choice(option: Option, tip: str) -> Any:
    if option.default is not None:
        return field(w.Dropdown, option.label, tip, options=option.choices, value=option.default)
    choices = [(USUAL, ""), *((each, each) for each in option.choices)]
    return field(w.Dropdown, option.label, tip, WIDE, options=choices, value="")


def _start(option: Option) -> Any:
    """What a number is where nothing was asked for; None where the recipe, or nothing, says it."""
    return option.default or getattr(DEFAULTS, option.name, None) if option.number is int else None


def typed_in(option: Option, control: Any) -> Any:
    """What was chosen, as `Session.train` takes it; None where that is the default.

    Raises:
        UsageError: what is no number.
    """
    value = control.value
    if option.is_switch:
        return not option.default if value else None
    if value == option.default or value == _start(option):
        return None
    if isinstance(value, str) and option.number is not None:
        return (whole if option.number is int else decimal)(value, option.label)
    return value.strip() or None if isinstance(value, str) else value
