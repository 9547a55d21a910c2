"""The document that the project comes from: its script runs unchanged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[1] / "spec" / "task-status.md"
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_script_of_the_document_runs_unchanged_in_an_empty_folder(tmp_path: Path) -> None:
    (script,) = re.findall(r"^```python\n(import asyncio\n.*?)^```", DOCUMENT.read_text(), re.S | re.M)
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    run = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    for task in ("Quick task 1", "Quick task 2", "Medium task 3", "Medium task 4", "Long task 5"):
        assert f"✓ {task} completed" in run.stdout
    final = run.stdout.rpartition("Performing final status check")[2]
    assert "Completed: 5" in final
    assert "Average task duration:" in final
    assert "Slowest task:" in final
    assert run.stdout.rstrip().endswith("✅ Status monitoring example completed!")
    assert (tmp_path / "status_tracking_queue.db").exists()
