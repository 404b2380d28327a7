"""Packaging. The console commands follow from the files of sulcnet/cli; there is no list to keep in step."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Read the version without importing the package, whose dependencies may not be there yet."""
    return re.search(
        r'^__version__ = "(.+)"',
        (HERE / "sulcnet/__init__.py").read_text(),
        re.MULTILINE,
    )[1]


def commands() -> list[str]:
    """Name one console script per file: `cli/import_.py` (a Python keyword) becomes `sulcnet_import`."""
    files = sorted(
        path.stem
        for path in (HERE / "sulcnet/cli").glob("*.py")
        if not path.stem.startswith("_")
    )
    return [
        f"sulcnet_{name.rstrip('_')} = sulcnet.cli.{name}:COMMAND" for name in files
    ]


def beside() -> list[tuple[str, list[str]]]:
    """Take what README and messages point to into share/sulcnet of the environment; a container takes less."""
    folders = {
        "": "*",
        "docs": "docs/*.*",
        "dataset_json_examples": "dataset_json_examples/*",
    }
    wanted = {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "constraints.txt",
    }
    found = []
    for folder, pattern in folders.items():
        files = sorted(
            path.relative_to(HERE).as_posix()
            for path in HERE.glob(pattern)
            if path.is_file()
        )
        found.append(
            (
                f"share/sulcnet/{folder}",
                [file for file in files if folder or file in wanted],
            )
        )
    return found


setup(
    name="sulcnet",
    version=version(),
    description="Find small, variable cortical folds in brain MRI: segment them and classify the whole image.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="sulcnet developers",
    license="Apache-2.0",
    keywords=[
        "MRI",
        "brain",
        "cortex",
        "sulcus",
        "cortical folding",
        "segmentation",
        "classification",
        "pre-training",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    package_dir={
        "": "."
    },  # an editable install is then a plain path, not a finder that slows every start
    packages=find_packages(include=["sulcnet", "sulcnet.*"]),
    package_data={"sulcnet": ["**/*.json", "**/*.tsv", "**/*.html", "**/*.css"]},
    data_files=beside(),
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.11",  # the oldest that is tested
        "monai>=1.5",
        "einops",
        "numpy",
        "scipy",
        "matplotlib",
        "filelock>=3.30",  # the first with lock_descriptor
        "SimpleITK",
        "nibabel",
        "scikit-image",
        "batchgenerators",  # brings pandas, which it imports
        "acvl-utils",
        "blosc2",
        "tqdm",
        "nvidia-ml-py",
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-xdist",
            "scikit-learn",
            "pandas",
            "ruff",
            "mypy",
            "setuptools",
        ],  # oracles, lint, packaging
    },
    entry_points={"console_scripts": commands()},
)
