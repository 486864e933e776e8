"""What a value in ``pool.toml`` may be, by kind. What is refused is not repeated where it may be a key."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, PlainValidator, TypeAdapter, ValidationError

from pool_mcp.choosing.kept import ALL_WINDOWS
from pool_mcp.errors import begins_secret, looks_secret
from pool_mcp.model import NANO


def _not_tiny(usd: float) -> float:
    if usd < 1 / NANO:
        raise ValueError("must be at least 0.000000001")  # less could round to nothing inside
    return usd


def no_secret(words: str) -> str:
    """Text without a key in it."""
    if looks_secret(words):
        raise ValueError("looks like a key; choose a short name, and put the key into a variable (api_key_env)")
    return words


def _printable(words: str) -> str:
    if not words.isprintable():
        raise ValueError("holds a control character; remove it")
    return words


def _no_key(place: str) -> str:
    if begins_secret(place):
        raise ValueError("looks like a key; put it into a variable (api_key_env)")
    return _printable(place)


_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


def _web_address(url: str) -> str:
    try:
        parsed = _URL.validate_python(_printable(url))
    except ValidationError:
        raise ValueError("must be a web address, such as https://ntfy.example.com/my-topic") from None
    if parsed.username or parsed.password:
        raise ValueError("must not hold a name or password; name a variable under headers, such as Authorization")
    return url


def _base_url(url: str) -> str:
    parts = re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", url)
    if url and (parts is None or looks_secret(url)):
        raise ValueError("must be a server's address, such as https://gateway.example.com, without name or password")
    return _printable(url)


def _database_url(url: str) -> str:
    if url and not re.match(r"postgres(ql)?://", url):
        raise ValueError('must be postgresql://user@host/database, or "" for the file')
    if looks_secret(url) or re.search(r"://[^/?#]*:[^/?#@]*@|[?&](ssl)?password=", url):
        raise ValueError("must not hold a password; put it into ~/.pgpass or a service file")
    return _printable(url)


def host_of(url: str) -> str:
    """The host of a web address."""
    return str(_URL.validate_python(url).host)


def _keep(given: object) -> float | dict[str, float]:
    """What to keep of every window, or of each by its name, as it is written."""
    parts = given if isinstance(given, dict) else {ALL_WINDOWS: given}
    for window, percent in parts.items():
        if isinstance(given, dict) and not re.fullmatch(r"(five_hour|seven_day)(_[a-z0-9_]{1,32})?", window):
            raise ValueError(f"no window is called {window!r}; use five_hour, seven_day, or one such as seven_day_opus")
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
            raise ValueError("must be a percentage, 0 to 100, or { five_hour = 30, seven_day = 20 }")
    return given if isinstance(given, int | float | dict) else 0


_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"


def _hours(span: str) -> str:
    begin, _, end = span.partition("-")
    if not re.fullmatch(_CLOCK, begin) or not re.fullmatch(_CLOCK, end) or begin == end:
        raise ValueError('must be two different times of day, such as "22:00-07:00"')
    return span


Usd = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False), AfterValidator(_not_tiny)]
"""A budget in dollars."""
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of a variable in the environment."""
Words = Annotated[str, AfterValidator(no_secret), AfterValidator(_printable)]
"""What is shown to people and agents."""
Argument = Annotated[str, Field(min_length=1), AfterValidator(no_secret), AfterValidator(_printable)]
"""A part of a command."""
HeaderName = Annotated[str, AfterValidator(no_secret), Field(pattern=r"^[A-Za-z0-9-]+$")]
"""The name of an HTTP header."""
Place = Annotated[str, Field(min_length=1), AfterValidator(_no_key)]
"""A file, folder or program."""
BaseUrl = Annotated[str, AfterValidator(_base_url)]
"""A server in place of Anthropic's own; empty for that one."""
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
"""A PostgreSQL database as libpq writes it, without a password; empty for a file."""
Receiver = Annotated[str, AfterValidator(_web_address)]
"""The address of somebody who is sent notices; it may be a secret."""
KeepPercent = Annotated[float | dict[str, float], PlainValidator(_keep)]
"""What of each window is kept for the person."""
DayHoursText = Annotated[str, AfterValidator(_hours)]
"""A span of every day, as ``22:00-07:00``."""

_USD: TypeAdapter[float] = TypeAdapter(Usd)


def read_usd(text: str) -> float:
    """A budget that stands in a variable.

    Raises:
        ValidationError: it is none.
    """
    return _USD.validate_strings(text)
