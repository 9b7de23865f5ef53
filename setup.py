"""What Beam ships to its workers (`--setup_file ./setup.py`). Everything is declared in pyproject.toml."""

from setuptools import setup

setup()
