"""What the package index shows: the README, whose links and pictures lead to the repository.

Everything else stands in pyproject.toml; links that work in a clone lead nowhere on the index.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

FOLDER = Path(__file__).parent
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
TAG = f"v{PROJECT['version']}"
PLACES = {
    "!": REPOSITORY.replace("://github.com", "://raw.githubusercontent.com") + f"/{TAG}/",
    "": f"{REPOSITORY}/blob/{TAG}/",
}


def description() -> str:
    """Return the README with whole addresses."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    link = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)]+)\)")
    return link.sub(lambda m: f"{m[1]}[{m[2]}]({PLACES[m[1]]}{m[3]})", text)


setup(long_description=description(), long_description_content_type="text/markdown")
