"""What pyproject.toml cannot say: the recorded results, which lie in ``results/``, are installed with the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["reference*", "torchimpl*", "paper_tables*", "arm*"]), "paper_tables.recorded"],
    py_modules=["quantgap_gate"],
    package_dir={"paper_tables.recorded": "results"},
)
