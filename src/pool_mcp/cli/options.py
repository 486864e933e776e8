"""Options and types that several commands share."""

import math
from typing import Any

import click

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


class Usd(click.ParamType[float]):
    """An amount of dollars: a number above zero."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a message that shows what one looks like."""
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not 0 < amount < math.inf:
            self.fail(f"{value!r} is not a dollar amount, such as 0.50", param, ctx)
        return amount
