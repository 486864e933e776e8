"""What runs have cost so far, read from their output while they write it; for people who watch."""

from dataclasses import dataclass, field

from pool_mcp.asks.runner import Runner
from pool_mcp.claude.process import READ_BYTES
from pool_mcp.claude.stream import LineBuffer, RunStream
from pool_mcp.model import Run


@dataclass(slots=True)
class _Reading:
    """How far a run's output has been read."""

    stream: RunStream = field(default_factory=RunStream)
    lines: LineBuffer = field(default_factory=LineBuffer)
    offset: int = 0


class LiveSpend:
    """Reads each run's output on from where the last look left it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._readings: dict[str, _Reading] = {}

    def of(self, running: list[Run]) -> dict[str, int]:
        """Nano-dollars by run, a floor; runs that are not started yet, or whose output is elsewhere, are left out."""
        self._readings = {run.run_id: self._readings.get(run.run_id, _Reading()) for run in running}
        spent = {run.run_id: self._read(run, self._readings[run.run_id]) for run in running if run.started_at_ms}
        return {run_id: nanousd for run_id, nanousd in spent.items() if nanousd is not None}

    def _read(self, run: Run, reading: _Reading) -> int | None:
        try:
            with self._runner.files(run.run_id).stdout.open("rb") as file:
                file.seek(reading.offset)
                while data := file.read(READ_BYTES):
                    reading.offset += len(data)
                    for line in reading.lines.feed(data):
                        reading.stream.feed(line, None)
        except OSError:
            return None
        return self._runner.spent_nanousd(run, reading.stream)
