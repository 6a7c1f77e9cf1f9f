"""Pages from the templates in `service/report/templates`: autoescaped, self-contained, light and dark."""

import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from service.formatting import MISSING, area, counted, exact_percent, name_of, percent, shortened
from service.report.html.heat import shades
from service.report.html.palette import COLOURS

__all__ = ["render"]


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values; strings are escaped, `Markup` is inserted as it is."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("service.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        area=area, exact_percent=exact_percent, percent=percent, shortened=shortened, summary=_summary, pretty=_pretty
    )
    environment.globals.update(colours=COLOURS, counted=counted, shades=shades)
    environment.tests["compound"] = lambda value: isinstance(value, dict | list)
    return environment


def _summary(value: Any) -> str:
    """A JSON value in few words."""
    if isinstance(value, dict | list):
        return name_of(value) or counted(len(value), "value")
    return MISSING if value is None else str(value)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
