"""Modules by value: their code travels with tasks, and counts for versions."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

import sitq
from sitq.errors import InvalidArgument, InvalidType
from sitq.packing import Packer
from sitq.serialization import CloudpickleSerializer
from sitq.versions import version_of

TEXT = "FACTOR = 3\n\ndef times(x):\n    return x * FACTOR\n"
READ = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))(14))"


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """An installed module that nobody else can import."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "carried_helpers.py").write_text(TEXT)
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("carried_helpers")
    yield module
    if "carried_helpers" in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.unregister_pickle_by_value(module)
    del sys.modules["carried_helpers"]


def runs_elsewhere(payload: bytes, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "function.pickle").write_bytes(payload)
    return subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "function.pickle")], capture_output=True, text=True, timeout=60
    )


def test_its_functions_run_where_it_cannot_be_imported(helpers: types.ModuleType, tmp_path: Path) -> None:
    packer = Packer(CloudpickleSerializer())
    by_name = packer.function(helpers.times).payload
    assert "No module named 'carried_helpers'" in runs_elsewhere(by_name, tmp_path).stderr
    sitq.by_value(helpers)
    assert runs_elsewhere(packer.function(helpers.times).payload, tmp_path).stdout == "42\n"


def test_its_code_counts_for_versions(helpers: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(x: int) -> int:
        return int(helpers.times(x))

    before = version_of(train)
    monkeypatch.setattr(helpers, "FACTOR", 4)
    assert version_of(train).digest == before.digest, "an installed one counts by its name"
    sitq.by_value(helpers)
    four = version_of(train)
    assert four.digest != before.digest
    monkeypatch.setattr(helpers, "FACTOR", 5)
    assert version_of(train).digest != four.digest


def test_what_changes_in_it_is_packed_anew(helpers: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sitq.by_value(helpers)
    packer = Packer(CloudpickleSerializer())
    before = packer.function(helpers.times).digest
    monkeypatch.setattr(helpers, "FACTOR", 4)
    assert packer.function(helpers.times).digest != before


def test_only_imported_modules_are_taken() -> None:
    with pytest.raises(InvalidType, match=r"module must be an imported module.* not 'helpers'"):
        sitq.by_value("helpers")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="'made_up' is not the imported one"):
        sitq.by_value(types.ModuleType("made_up"))
