"""Files of the repository: no path of somebody's machine, no link into nowhere, no example that cannot work."""

import ast
import re
import shlex
import subprocess

import pytest
import typer
from typer.core import TyperGroup

from dreamtune.pipelines.cli import app as cli
from tests.house.tree import ROOT

MACHINE_PATH = re.compile(rb"(?<![\w.:/])/(?:home|root|Users|work)/\w")
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
)


def test_no_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    wrong = [f"{file.relative_to(ROOT)}" for file in files if file.is_file() and MACHINE_PATH.search(file.read_bytes())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
    assert [t for t in targets if t and not ((ROOT / page).parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_targets_of_the_makefile(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert set(commands) - targets == set()


def blocks(page: str, language: str) -> list[str]:
    """The fenced code of a page that is marked as `language`."""
    fences = re.findall(r"(?ms)^```(\w*)$\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"))
    return [code for marked, code in fences if marked == language]


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_name_what_is_there(page: str) -> None:
    for line in re.findall(r"(?m)^dreamtune .*", "".join(blocks(page, "")).replace("\\\n", " ")):
        command, words = typer.main.get_command(cli.build()), shlex.split(line)[1:]
        while isinstance(command, TyperGroup):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("page", PAGES)
def test_examples_import_what_is_there(page: str) -> None:
    for block in blocks(page, "python"):
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec("\n".join(map(ast.unparse, imports)), {})
