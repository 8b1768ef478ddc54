"""What CI and CONTRIBUTING name exists; one that is renamed would be noticed late, or never."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CI, CONTRIBUTING = ROOT / ".ci", ROOT / "CONTRIBUTING.md"

pytestmark = pytest.mark.skipif(not CI.exists(), reason="only in a checkout")


def test_the_tests_that_ci_names_exist() -> None:
    text = (CI / "run").read_text() + (CI / "core-tests.txt").read_text()
    names = set(re.findall(r"tests/\w+\.py", text))
    assert len(names) > 10
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_the_files_that_contributors_are_sent_to_exist() -> None:
    folders = ("captum_sgcampp", "docs", "tests", ".ci", ".github")
    files = [f"/{file.relative_to(ROOT)}" for folder in folders for file in (ROOT / folder).rglob("*")]
    files += [f"/{file.name}" for file in ROOT.iterdir()]
    names = re.findall(r"`([\w./-]+\.(?:cff|js|md|py|toml|txt|yml))`", CONTRIBUTING.read_text())
    assert len(names) > 20
    assert [name for name in sorted(set(names)) if not any(file.endswith(f"/{name}") for file in files)] == []


@pytest.mark.parametrize("name", ["captum-sgcampp", "pytest"])
def test_ci_runs_the_commands_that_the_readme_prints(name: str) -> None:
    outcome = subprocess.run([CI / "readme-command", name], capture_output=True, text=True, check=True)
    (command,) = outcome.stdout.splitlines()
    assert command in re.findall(r"```sh\n(.*)\n```", (ROOT / "README.md").read_text())
    run = (CI / "run").read_text()
    assert re.search(
        rf'^command=\$\(\.ci/readme-command {name}\).*\n(output=\$\()?bash -c "\$command"\)?$', run, re.MULTILINE
    )


def test_the_other_versions_of_python_run_the_readmes_tests() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.search(
        r'run: \|\n +command=\$\(\.ci/readme-command pytest\)\n +bash -c "\$command"$', workflow, re.MULTILINE
    )


def test_ci_runs_the_lowest_python_that_is_claimed() -> None:
    (claimed,) = re.findall(r'^requires-python = ">=(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (versions,) = re.findall(r"python-version: \[(.*)\]", workflow)
    assert f'"{claimed}"' in versions.split(", ")
    readme = (ROOT / "README.md").read_text()
    assert f"Python ({claimed} or newer)" in readme
