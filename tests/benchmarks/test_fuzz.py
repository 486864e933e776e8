"""A bounded edition of ``benchmarks/fuzz.py``: every input that comes from outside, spoiled."""

import pytest

from fuzz import Tally, play
from fuzz_targets import TARGETS

CASES = {"settings": 150, "arguments": 40, "lines": 40, "streams": 100, "transcripts": 60}


@pytest.mark.parametrize("target", TARGETS)
def test_no_spoiled_input_breaks_anything(target: str) -> None:
    tally = Tally()
    play(target, 1, CASES[target], tally)
    assert tally.findings == []
    assert tally.cases == {target: CASES[target]}
