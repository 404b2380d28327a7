"""What is given away holds what the README promises; nothing of the checkout stays behind; requirements are used."""

import ast
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from setuptools._distutils.filelist import FileList

ROOT = Path(__file__).parents[1]
OF_A_CHECKOUT = {".ci/run", ".gitignore"}
ADDED = {"setup.py", "pyproject.toml", "README.md", "MANIFEST.in"}  # by setuptools
# what is imported -> what is installed, where the two names differ
DISTRIBUTIONS = {
    "acvl_utils": "acvl-utils",
    "pynvml": "nvidia-ml-py",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}


def files_of_the_checkout() -> set[str]:
    """List what git keeps."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: what of one was left behind cannot be seen")
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines())


def manifest(monkeypatch, lines: list[str]) -> set[str]:
    """List what MANIFEST.in takes, beside the package's modules and what setuptools adds."""
    monkeypatch.chdir(ROOT)
    files = FileList()
    files.findall()
    for line in lines:
        files.process_template_line(line)
    return {Path(file).as_posix() for file in files.files} | ADDED


def left_behind(taken: set[str]) -> set[str]:
    modules = {
        file
        for file in files_of_the_checkout()
        if file.startswith("sulcnet/") and file.endswith(".py")
    }
    return files_of_the_checkout() - modules - taken - OF_A_CHECKOUT


def test_the_source_distribution_holds_the_checkout(monkeypatch):
    lines = [line for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line]
    assert not left_behind(manifest(monkeypatch, lines))
    without = [line for line in lines if "docs" not in line]
    assert "docs/guide.md" in left_behind(manifest(monkeypatch, without))


@cache
def told() -> dict:
    """Give what setup.py tells setuptools."""
    with patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def test_metadata_are_complete_and_agree_with_the_citation():
    citation, facts = (ROOT / "CITATION.cff").read_text(), told()
    assert facts["author"] == "sulcnet developers" and facts["author"] in citation
    assert (
        f"\nversion: {facts['version']}\n" in citation
        and f"\nlicense: {facts['license']}\n" in citation
    )
    assert f"\n## {facts['version']} " in (ROOT / "CHANGELOG.md").read_text()
    assert (
        facts["keywords"]
        and "Programming Language :: Python :: 3.13" in facts["classifiers"]
    )


def test_an_installation_holds_what_messages_and_the_readme_point_to():
    files = {file for _, files in told()["data_files"] for file in files}
    assert {
        "README.md",
        "LICENSE",
        "constraints.txt",
        "docs/guide.md",
        "dataset_json_examples/README.md",
    } <= files
    assert all(
        f"share/sulcnet/{file}".startswith(folder)
        for folder, files in told()["data_files"]
        for file in files
    )


def required(*texts: str) -> set[str]:
    """Give the names in requirements."""
    return {re.match(r"[\w-]+", text)[0] for text in texts}


def imported(folder: str) -> set[str]:
    """List the distributions that the modules of a folder import."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return {
        DISTRIBUTIONS.get(name, name) for name in found - set(sys.stdlib_module_names)
    } - {
        "",
        "sulcnet",
    }


def test_what_is_required_is_imported_and_the_other_way_round():
    assert required(*told()["install_requires"]) == imported("sulcnet")


def test_every_requirement_is_pinned_among_the_versions_that_are_tested():
    pinned = set(
        re.findall(
            r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE
        )
    )
    wanted = required(*told()["install_requires"], *told()["extras_require"]["test"])
    assert wanted - pinned == {"setuptools"}  # torch's choice


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/README.md",
        "docs/guide.md",
        "dataset_json_examples/README.md",
    ],
)
def test_links_lead_to_what_is_given_away(page, monkeypatch):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    taken = manifest(monkeypatch, [line for line in lines if line])
    folders = {folder for file in taken for folder in Path(file).parents}
    reachable = taken | {folder.as_posix() for folder in folders}
    targets = {
        ((ROOT / page).parent / link).resolve().relative_to(ROOT).as_posix()
        for link in links
    }
    assert links and not targets - reachable
