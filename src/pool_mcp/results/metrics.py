"""The pool's state as gauges whose names and labels stay, and as Prometheus' text format."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pool_mcp.choosing.budget import Status
from pool_mcp.model import SECOND_MS
from pool_mcp.results.ledger import ReportResult
from pool_mcp.results.status import StatusResult, SubscriptionResult

Sample = tuple[dict[str, str], float]


class Gauge(NamedTuple):
    """A figure by its labels. The name ends in its unit."""

    name: str
    meaning: str
    samples: list[Sample]


def gauges(status: StatusResult, reports: Sequence[ReportResult], outcomes: Mapping[str, int]) -> list[Gauge]:
    """All of them, without samples that have no value. ``reports`` are of all time, by model, subscription, caller."""
    found: list[Gauge] = []

    def gauge(name: str, meaning: str, samples: Iterable[tuple[dict[str, str], float | None]]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        found.append(Gauge(f"pool_mcp_{name}", meaning, known))

    every = [({"subscription": one.id}, one) for one in status.subscriptions]
    gauge("generated_timestamp_seconds", "When this was read.", [({}, status.generated_at / SECOND_MS)])
    gauge(
        "subscription_available",
        "1 where a subscription can serve now.",
        [(labels, float(one.status in (Status.AVAILABLE, Status.APPROACHING))) for labels, one in every],
    )
    windows = [found for one in status.subscriptions for found in _windows(one)]
    for name, meaning, position in (
        ("window_used_percent", "Used of an official window, by Anthropic's last report and the ledger since.", 0),
        ("window_reset_timestamp_seconds", "When an official window begins again.", 1),
        ("window_observed_timestamp_seconds", "When Anthropic last reported an official window.", 2),
        ("window_kept_percent", "Kept of an official window for the person; agents leave it.", 3),
    ):
        gauge(name, meaning, [(labels, found[position]) for labels, found in windows])
    spans = [
        ({**labels, "period": period}, span)
        for labels, one in every
        for period, span in (("block", one.block), ("week", one.week))
    ]
    gauge("budget_usd", "A budget.", [(labels, span.budget_usd) for labels, span in spans])
    gauge("budget_spent_usd", "Spent of a budget.", [(labels, span.cost_usd) for labels, span in spans])
    gauge("reserved_usd", "Reserved for runs in flight.", [(labels, one.reserved_usd) for labels, one in every])
    gauge("runs_in_flight", "Runs in flight.", [(labels, float(one.in_flight)) for labels, one in every])
    gauge("headroom_usd", "What can be spent now.", [(labels, one.headroom_usd) for labels, one in every])
    gauge("burn_usd_per_hour", "Spent in the last hour.", [(labels, one.burn_usd_per_hour) for labels, one in every])
    gauge("runs", "Runs that have ended.", [({"outcome": name}, float(count)) for name, count in outcomes.items()])
    for report in reports:
        rows = [({report.by: row.key}, row.cost_usd) for row in report.rows]
        gauge(f"{report.by}_cost_usd", f"All that the ledger holds, by {report.by}.", rows)
    return found


def exposition(found: Sequence[Gauge]) -> str:
    """Prometheus' text format."""
    lines: list[str] = []
    for name, meaning, samples in found:
        lines.extend((f"# HELP {name} {meaning}", f"# TYPE {name} gauge"))
        for labels, value in samples:
            written = ",".join(f'{label}="{_escaped(one)}"' for label, one in labels.items())
            lines.append(f"{name}{{{written}}} {value!r}" if written else f"{name} {value!r}")
    return "\n".join(lines) + "\n"


def _windows(one: SubscriptionResult) -> list[tuple[dict[str, str], tuple[float | None, ...]]]:
    return [
        (
            {"subscription": one.id, "window": name},
            (
                window.percent if window.percent_now is None else window.percent_now,
                None if window.resets_at is None else window.resets_at / SECOND_MS,
                window.observed_at / SECOND_MS,
                window.kept_percent,
            ),
        )
        for name, window in one.official.items()
    ]


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
