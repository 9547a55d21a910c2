import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def bounds(lines: list[str]) -> dict[str, str]:
    requirements = [Requirement(line) for line in lines]
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def test_conda_users_get_the_same_dependencies_as_pip_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    by_pip = bounds(project["dependencies"] + project["optional-dependencies"]["demo"])
    by_pip["python"] = project["requires-python"]

    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_conda = bounds([entry for entry in entries if isinstance(entry, str) and entry != "pip"])

    assert by_conda == by_pip
    assert {"pip": ["--editable ."]} in entries, "conda brings the dependencies, pip only the package itself"
