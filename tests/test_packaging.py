"""What is installed, and with which versions: pyproject.toml, constraints.txt, CITATION.cff, CHANGELOG.md."""

import ast
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ecg_finetune
from ecg_finetune.documents import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
DECLARED = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS if not line.startswith(PROJECT["name"])]
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
DISTRIBUTED_AS = {"sklearn": "scikit-learn"}


def imported_modules() -> set[str]:
    """Return the top-level modules that the packages and scripts import."""
    folders = [REPOSITORY / name for name in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    files = [path for folder in folders for path in folder.rglob("*.py")] + [*REPOSITORY.glob("*/scripts/*.py")]
    modules = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
    return modules


def test_every_library_that_is_imported_is_declared():
    packages = {name.rpartition("/")[2] for name in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    libraries = imported_modules() - sys.stdlib_module_names - packages
    assert "torch" in libraries and "isal" in libraries
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
    assert {DISTRIBUTED_AS.get(module, module) for module in libraries} <= declared


def test_constraints_are_versions_and_nothing_else():
    assert CONSTRAINTS[0].startswith("#") and len(CONSTRAINTS) > 50
    for line in CONSTRAINTS[1:]:
        assert re.fullmatch(r'[\w.-]+==[\d.]+(post\d+)?; python_version >= "3\.\d+"', line), line


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_constraints_pin_what_is_declared(requirement):
    pinned = {canonicalize_name(pin.name): pin for pin in map(Requirement, CONSTRAINTS[1:])}
    if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
        (specifier,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(specifier.version), "raise it in constraints.txt, or run `make lock`"


def test_version_has_one_home():
    version = re.escape(ecg_finetune.__version__)
    assert "version" in PROJECT["dynamic"]
    assert re.search(rf"^version: {version}$", (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(rf"^## {version}$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
