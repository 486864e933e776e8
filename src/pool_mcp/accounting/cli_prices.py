"""Whether a CLI version prices a model as Anthropic's list does: an old one has the list of its own day; pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.model import Tokens

MOST_ABOVE_LIST = 1.1
"""What inference that is kept in the US costs more; neither the stream nor the CLI's account tells of it."""
TOLERANCE = 0.01
LONG_PROMPT = 200_000
"""From here on some models cost more per token, by the length of one prompt, which a sum of calls does not show."""


@dataclass(frozen=True, slots=True)
class PricedByCli:
    """What a run used of one model, and what its CLI said that it cost."""

    cli_version: str
    model: str
    subscription: str
    at_ms: int
    tokens: Tokens
    nanousd: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A CLI version that prices a model otherwise: at so many times the list price."""

    cli_version: str
    model: str
    subscription: str
    times: float

    @property
    def key(self) -> str:
        """The same for the same difference, whoever finds it."""
        return f"prices {self.cli_version} {self.model}"

    @property
    def text(self) -> str:
        """The difference for a person."""
        return f"Claude Code {self.cli_version} prices {self.model} at {self.times:.2f} times the list price"


def differences(said: Iterable[PricedByCli]) -> list[Difference]:
    """The versions and models that some run was priced for as its day's list never would.

    The two lifetimes of a cache write, which cost 1.25 and 2 times the input, are not told apart by every version: so
    what lies between both is no difference.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    subscriptions: dict[tuple[str, str], str] = {}
    for one in said:
        if (found := _times_list(one)) is not None:
            times[one.cli_version, one.model].append(found)
            subscriptions.setdefault((one.cli_version, one.model), one.subscription)
    return [Difference(*name, subscriptions[name], sum(values) / len(values)) for name, values in sorted(times.items())]


def _times_list(said: PricedByCli) -> float | None:
    """At how many times the list price a run was priced; None where that may have been the list's."""
    creation = said.tokens.cache_creation
    if said.tokens.input + creation + said.tokens.cache_read >= LONG_PROMPT:
        return None
    least, most = (
        price_nanousd(said.model, replace(said.tokens, cache_creation_5m=short, cache_creation_1h=long), said.at_ms)
        for short, long in ((creation, 0), (0, creation))
    )
    if not least or not most:
        return None
    if said.nanousd < least * (1 - TOLERANCE):
        return said.nanousd / least
    return said.nanousd / most if said.nanousd > most * MOST_ABOVE_LIST * (1 + TOLERANCE) else None
