"""Packages are computed, so that no new subpackage is ever left out of the wheel.

The folders beside `visionzoo/` are installed under it: `models/` becomes `visionzoo.models`, and so on.
Everything else about the build is in pyproject.toml.
"""

import sys

from setuptools import find_namespace_packages, setup

FOLDERS = ("models", "pipelines", "configs", "demos")
CACHES = ["__pycache__", "*.__pycache__"]

packages = find_namespace_packages(include=["visionzoo", "visionzoo.*"], exclude=CACHES)
package_dir = {"": "."}
# An editable install is a line in a .pth file that names this folder, and `visionzoo/__init__.py` finds the folders beside it. With a
# mapping of folders, setuptools installs an import hook instead, which comes after the folder that Python was started in: there, a
# clone that is called visionzoo, too, would be imported as an empty namespace.
if "editable_wheel" not in sys.argv:
    package_dir = {"visionzoo": "visionzoo"}
    for folder in FOLDERS:
        package_dir[f"visionzoo.{folder}"] = folder
        inside = find_namespace_packages(folder, exclude=CACHES)
        packages += [f"visionzoo.{folder}"] + [f"visionzoo.{folder}.{name}" for name in inside]

setup(
    packages=packages,
    package_dir=package_dir,
    package_data={
        "": ["*.pyi"],  # not for type checkers alone: lazy_loader reads the public names of a package from its stub
        "visionzoo": ["py.typed"],
        "visionzoo.assets": ["**/*"],
        "visionzoo.configs": ["**/*.yaml"],
        "visionzoo.models": ["**/README.md"],
    },
)
