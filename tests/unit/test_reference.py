"""What the docs list is what the code has."""

import re
from pathlib import Path

from sitq.models import EDGES
from sitq.notebook import frames, stats

DOCS = Path(__file__).parents[2] / "docs"


def test_every_column_of_the_frames_is_documented_with_its_type() -> None:
    text = (DOCS / "reference" / "frames.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (.+) \|$", text, re.M)
    wanted = [
        (name, dtype, says) for columns in (frames.COLUMNS, stats.COLUMNS) for name, (dtype, says) in columns.items()
    ]
    assert rows == wanted


def test_the_drawn_state_machine_is_the_coded_one() -> None:
    text = (DOCS / "explanation" / "state-machine.md").read_text()
    drawn = {(a, b) for a, b in re.findall(r"^    (\w+) --> (\w+):", text, re.M)}
    assert drawn == {(str(a), str(b)) for a, b in EDGES}
