"""The ledger's SQL and schema as PostgreSQL has them; pure text.

Statements are written once, for SQLite, in what both engines know. What is left to change is how values are marked,
two column names that PostgreSQL reserves, and in the schema the types and the triggers.
"""

import re
from functools import lru_cache

from pool_mcp.ledger.migrations import Step

_TOKENS = re.compile(r"""'(?:[^']|'')*'|"[^"]*"|--[^\n]*|(?<![:\w]):(?P<name>[a-z_]\w*)|\?|%|\b(?:window|offset)\b""")

_TYPES = {"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "TEXT": 'TEXT COLLATE "C"'}
"""Text is compared by its bytes, as SQLite compares it, whatever the database's language is."""

_SUMS = (
    *("calls", "unpriced_calls", "input_tokens", "output_tokens"),
    *("cache_creation_tokens", "cache_read_tokens", "cost_nanousd"),
)

_TRIGGERS = {
    "entries_are_never_changed": """
CREATE FUNCTION entries_are_never_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'entries are never changed; book a further one'; END $$;
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
FOR EACH ROW EXECUTE FUNCTION entries_are_never_changed();
""",
    "hours_are_summed_when_added": f"""
CREATE FUNCTION hours_are_summed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE subscription_hours SET {", ".join(f"{one} = {one} - OLD.{one}" for one in _SUMS)}
        WHERE subscription = OLD.subscription AND hour_ms = OLD.hour_ms;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO subscription_hours (subscription, hour_ms, {", ".join(_SUMS)})
        VALUES (NEW.subscription, NEW.hour_ms, {", ".join(f"NEW.{one}" for one in _SUMS)})
        ON CONFLICT (subscription, hour_ms) DO UPDATE
        SET {", ".join(f"{one} = subscription_hours.{one} + excluded.{one}" for one in _SUMS)};
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER hours_are_summed AFTER INSERT OR UPDATE OR DELETE ON hours
FOR EACH ROW EXECUTE FUNCTION hours_are_summed();
""",  # noqa: S608  (the columns above)
    "hours_are_summed_when_changed": "",
    "hours_are_summed_when_removed": "",
}
"""What PostgreSQL has in the place of each trigger of SQLite's."""


@lru_cache(maxsize=1024)
def statement(sql: str) -> str:
    """A statement with its values marked as psycopg wants them."""
    return _TOKENS.sub(_token, sql)


def _token(found: re.Match[str]) -> str:
    word = found[0]
    if word.startswith("--"):
        return ""
    if found["name"]:
        return f"%({found['name']})s"
    if word.isalpha():
        return f'"{word}"'
    return "%s" if word == "?" else word.replace("%", "%%")


def schema(step: Step) -> str:
    """A step's statements, to be run at once and without values."""
    if step.postgres is not None:
        return step.postgres
    script = re.sub(r"--[^\n]*", "", step.script)
    script = re.sub(r"CREATE TRIGGER (\w+) .*?\bEND;", lambda found: _TRIGGERS[found[1]], script, flags=re.DOTALL)
    script = re.sub(r"\)\s*STRICT(, WITHOUT ROWID)?", ")", script)
    script = re.sub(r"DROP VIEW (\w+)", r"DROP VIEW IF EXISTS \1", script)
    script = re.sub(r"\b(INTEGER|REAL|TEXT)\b", lambda found: _TYPES[found[0]], script)
    return re.sub(r"\b(window|offset)\b", r'"\1"', script)


def views(steps: tuple[Step, ...]) -> str:
    """Makes every view again, since ``*`` in one means the columns that there were when it was made."""
    found = {}
    for step in steps:
        for view in re.finditer(r"CREATE VIEW (\w+) .*?;", schema(step), flags=re.DOTALL):
            found[view[1]] = view[0]
    return "".join(f"DROP VIEW IF EXISTS {name}; {made}\n" for name, made in found.items())
