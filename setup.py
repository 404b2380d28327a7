"""Packaging. The console commands follow from the files of sulcnet/cli; there is no list to keep in step."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Read the version without importing the package, whose dependencies may not be there yet."""
    return re.search(r'^__version__ = "(.+)"', (HERE / "sulcnet/__init__.py").read_text(), re.MULTILINE)[1]


def commands() -> list[str]:
    """Name one console script per file: `cli/import_.py` (a Python keyword) becomes `sulcnet_import`."""
    files = sorted(path.stem for path in (HERE / "sulcnet/cli").glob("*.py") if not path.stem.startswith("_"))
    return [f"sulcnet_{name.rstrip('_')} = sulcnet.cli.{name}:COMMAND" for name in files]


setup(
    name="sulcnet",
    version=version(),
    description="Find small, variable cortical folds in brain MRI: segment them and classify the whole image.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": "."},  # an editable install is then a plain path, not a finder that slows every start
    packages=find_packages(include=["sulcnet", "sulcnet.*"]),
    package_data={"sulcnet": ["**/*.json", "**/*.tsv", "**/*.html", "**/*.css"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.11",  # the oldest that is tested
        "monai>=1.5",
        "einops",  # MONAI needs it for SwinUNETR and does not install it
        "numpy",
        "scipy",
        "matplotlib",
        "filelock>=3.30",  # the first with lock_descriptor
        "SimpleITK",
        "nibabel",
        "batchgenerators",
        "acvl-utils",
        "blosc2",
        "tqdm",
        "nvidia-ml-py",
    ],
    extras_require={"test": ["pytest", "pytest-xdist"]},
    entry_points={"console_scripts": commands()},
)
