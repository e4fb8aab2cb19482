"""Packages are computed, so that no new subpackage is ever left out of the wheel.

The folders beside `visionzoo/` are installed under it: `models/` becomes `visionzoo.models`, and so on.
Everything else about the build is in pyproject.toml.
"""

from setuptools import find_namespace_packages, find_packages, setup

FOLDERS = ("models", "pipelines", "configs", "demos")

packages = find_packages(include=["visionzoo", "visionzoo.*"])
package_dir = {"visionzoo": "visionzoo"}
for folder in FOLDERS:
    package_dir[f"visionzoo.{folder}"] = folder
    packages += [f"visionzoo.{folder}"] + [f"visionzoo.{folder}.{name}" for name in find_namespace_packages(folder)]

setup(
    packages=packages,
    package_dir=package_dir,
    package_data={
        "visionzoo": ["py.typed", "assets/**/*"],
        "visionzoo.configs": ["**/*.yaml"],
        "visionzoo.models": ["**/README.md"],
    },
)
