"""The installed package: light imports, no second copies, no upward imports, and a wheel that works elsewhere."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from visionzoo.doctor import needs

ROOT = Path(__file__).parent.parent
FOLDERS = ("visionzoo", "models", "pipelines", "demos")
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "gradio",
    "faiss",
    "qdrant_client",
    "transformers",
    "diffusers",
    "scipy",
    "pandas",
}


def run_python(code: str, cwd: Path = ROOT, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imports_of(file: Path) -> Iterator[tuple[str, int]]:
    """(module, level) of every import statement, anywhere in the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def layer(file: Path, module: str, level: int) -> str | None:
    """The one of the four folders that an import reaches, if any."""
    if level:
        base = file.relative_to(ROOT).parent.parts
        parts = base[: len(base) - (level - 1)] + tuple(module.split("."))
    else:
        parts = tuple(module.split("."))
        if parts[0] == "visionzoo" and len(parts) > 1 and parts[1] in FOLDERS[1:]:
            parts = parts[1:]
    return parts[0] if parts and parts[0] in FOLDERS else None


EDITABLE = """
import sys
from setuptools import build_meta
build_meta.build_editable(sys.argv[1])
"""


def test_an_editable_install_works_beside_the_clone(tmp_path: Path) -> None:
    """Python that is started in the folder that holds the clone imports the package, not the clone's folder of the same name."""
    clone, installed = tmp_path / "visionzoo", tmp_path / "installed"
    for folder in (*FOLDERS, "configs"):
        leave_out = shutil.ignore_patterns("__pycache__", "assets")
        shutil.copytree(ROOT / folder, clone / folder, ignore=leave_out)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    installed.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", EDITABLE, str(installed)], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "!!" not in done.stdout + done.stderr, "setuptools warns in a frame"
    (wheel,) = installed.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    # the environment of the tests may have an editable install of its own, which must not be found first
    forget = f"import site, sys; sys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]"
    started = f"{forget}; site.addsitedir({str(installed)!r}); import visionzoo, visionzoo.models.shvit as shvit"
    shown = run_python(f"{started}; print(visionzoo.__file__); print(shvit.__file__)", cwd=tmp_path, PYTHONPATH="")
    assert shown.split() == [str(clone / "visionzoo" / "__init__.py"), str(clone / "models" / "shvit" / "__init__.py")]


def sources() -> list[Path]:
    return [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_layers(file: Path) -> None:
    """visionzoo <- models <- pipelines <- demos: nothing imports upwards."""
    own = FOLDERS.index(file.relative_to(ROOT).parts[0])
    for module, level in imports_of(file):
        reached = layer(file, module, level)
        assert reached is None or FOLDERS.index(reached) <= own, f"{file} imports {module or '.'}, which is above it"
        assert level or module.split(".")[0] not in FOLDERS[1:], (
            f"{file} imports the bare name {module}: a second copy in a checkout"
        )


def test_one_system_reaches_another_only_by_its_public_names() -> None:
    systems = {folder.name for folder in (ROOT / "models").iterdir() if (folder / "__init__.py").is_file()}
    for file in sorted((ROOT / "models").rglob("*.py")):
        own = file.relative_to(ROOT / "models").parts[0]
        for module, level in imports_of(file):
            parts = module.split(".")
            if level == 2 and parts[0] in systems - {own}:
                assert len(parts) == 1, f"{file} reaches into {module}; import from its __init__"


def test_no_bare_names_in_tests_and_benchmarks() -> None:
    for folder in ("tests", "benchmarks", "tools"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for module, level in imports_of(file):
                assert level or module.split(".")[0] not in FOLDERS[1:], f"{file} imports the bare name {module}"


def test_import_loads_nothing_heavy() -> None:
    loaded = run_python("import sys, visionzoo; print(*sorted({name.split('.')[0] for name in sys.modules}))").split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(
    "command",
    [["--help"], ["models"], ["info", "superglobal_r50"], ["retrieve", "search", "--help"], ["fit", "--help"]],
)
def test_light_commands_load_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys\nfrom visionzoo.cli import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = run_python(code).rsplit("LOADED", 1)[1].split()
    assert not HEAVY & set(loaded)


def test_dehazing_and_reenactment_do_not_import_torchvision() -> None:
    """Importing it takes as long as importing torch. `import torchvision` still works afterwards."""
    code = (
        "import sys, numpy as np, visionzoo, visionzoo.pipelines.dehaze.files, visionzoo.pipelines.reenact.files\n"
        "from visionzoo.faces.mtcnn import MTCNN\n"
        "MTCNN()(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))\n"
        "visionzoo.create_model('dehazexl_nano'), visionzoo.create_model('mcnet_nano')\n"
        "print(*{'torchvision', 'torch._dynamo', 'timm'} & set(sys.modules))\n"
        "import torchvision; torchvision.extension._assert_has_ops()"
    )
    assert run_python(code).strip() == ""


def test_every_public_name_resolves() -> None:
    run_python(
        "import visionzoo\nfor name in visionzoo.__all__: getattr(visionzoo, name)\nassert 'create_model' in dir(visionzoo)"
    )


@pytest.mark.slow
def test_wheel_is_complete_and_works_from_another_directory(tmp_path: Path) -> None:
    """The wheel holds every module, config and asset, puts only `visionzoo` into site-packages, and runs without the checkout."""
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "would be ignored" not in done.stdout + done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names} == {"visionzoo", wheel.name.split("-py3")[0] + ".dist-info"}
    expected = {name for name in tracked if name.startswith("visionzoo/") and not name.endswith("__pycache__")}
    expected |= {
        f"visionzoo/{name}"
        for name in tracked
        if name.startswith(FOLDERS[1:]) and name.endswith((".py", ".pyi", ".yaml", "README.md"))
    }
    expected |= {f"visionzoo/{name}" for name in tracked if name.startswith("configs/") and name.endswith(".yaml")}
    assert (
        not {name for name in expected if (ROOT / name).exists() or (ROOT / name.removeprefix("visionzoo/")).exists()}
        - names
    )
    code = (
        "import visionzoo, visionzoo.models.superglobal, visionzoo.pipelines\n"
        "from importlib import resources\n"
        f"assert visionzoo.__file__.startswith({str(tmp_path)!r}), visionzoo.__file__\n"
        "assert 'superglobal_r50' in visionzoo.list_models()\n"
        "assert resources.files('visionzoo.configs').joinpath('superglobal').is_dir()\n"
        "assert visionzoo.create_model('superglobal_r50').dim == 2048\n"
    )
    run_python(code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))


def stubs() -> list[Path]:
    return [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("__init__.pyi"))]


@pytest.mark.parametrize("stub", stubs(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_stub_names_what_the_package_gives(stub: Path) -> None:
    """The stub is the only list of public names: it is what editors show, and what lazy_loader imports on first use.

    lazy_loader takes `from .module import name as name` alone: it refuses to look outside the package, ignores new names
    after `as`, and reads the file in the encoding of the machine.
    """
    place = ".".join(stub.parent.relative_to(ROOT).parts)
    module = importlib.import_module(place if place.startswith("visionzoo") else f"visionzoo.{place}")
    tree = ast.parse(stub.read_text(encoding="ascii"))
    listed = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names: dict[str, str] = {}
    for node in listed:
        assert node.level == 1, ast.unparse(node)
        for alias in node.names:
            assert alias.name == alias.asname, f"{alias.name} is not exported: write {alias.name} as {alias.name}"
            names[alias.name] = node.module or ""
    assert set(names) == set(module.__all__) - {"__version__"}
    for name, inner in names.items():
        expected = getattr(importlib.import_module(f"{module.__name__}.{inner}"), name)
        if module is sys.modules["visionzoo"] and name == "attention":
            expected = importlib.import_module("visionzoo.attention")  # a package that can be called as the function
        # also where a module of the same name has been imported, which would set it as an attribute of its package
        assert getattr(module, name) is expected
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def test_every_package_with_lazy_names_has_a_stub() -> None:
    """A stub hides its `__init__.py` from type checkers, so nothing else public is defined there."""
    lazy = {file for file in sources() if file.name == "__init__.py" and "attach_stub" in file.read_text("utf-8")}
    assert {file.with_suffix(".py") for file in stubs()} == lazy
    for file in lazy:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert not {name for name in defined if not name.startswith("_")}, file


def test_the_callable_package_keeps_its_modules_however_names_are_loaded() -> None:
    for eager in ("0", "1"):  # EAGER_IMPORT=1 is lazy_loader's switch for finding errors in lazy names
        run_python(
            "import visionzoo.attention.blocks, torch\n"
            "x = torch.rand(1, 1, 2, 4)\n"
            "assert visionzoo.attention(x, x, x).shape == x.shape\n"
            "assert visionzoo.attention.blocks.__name__ == 'visionzoo.attention.blocks'\n",
            EAGER_IMPORT=eager,
        )


def declared() -> tuple[set[str], dict[str, set[str]]]:
    """Distributions of the base install, and of every extra (with the extras that it names), in normalised names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def normalised(requirement: str) -> str:
        return re.split(r"[\[<>=~! ;]", requirement)[0].lower().replace("_", "-")

    extras = {name: {normalised(line) for line in lines} for name, lines in project["optional-dependencies"].items()}
    return {normalised(line) for line in project["dependencies"]}, extras


@cache
def brought_by() -> Mapping[str, list[str]]:
    """Import name -> distributions."""
    return metadata.packages_distributions()


def distributions(module: str) -> set[str]:
    """The distributions that may provide an import name."""
    found = brought_by().get(module, [module])
    return {name.lower().replace("_", "-") for name in found}


def test_every_import_is_declared() -> None:
    """A package that is imported anywhere belongs to the base install or to an extra; `require` names the right extra."""
    base, extras = declared()
    anywhere = base.union(*(names for name, names in extras.items() if name not in ("test", "docs", "dev")))
    for file in sources():
        for module, level in imports_of(file):
            top = module.split(".")[0]
            if level or top in sys.stdlib_module_names or top in ("visionzoo", "triton"):  # torch brings triton
                continue
            assert distributions(top) & anywhere, f"{file} imports {top}, which no extra installs"
        for module, extra in re.findall(r'require\(\s*"([\w.]+)", extra="(\w+)"', file.read_text(encoding="utf-8")):
            assert extra in extras, f"{file}: there is no extra {extra}"
            top = module.split(".")[0]
            assert distributions(top) & extras[extra], f"{file}: the extra {extra} does not install {top}"


def test_doctor_names_extras_that_install_the_package() -> None:
    _, extras = declared()
    for need in needs():
        assert distributions(need.module) & extras[need.extra], f"{need.module} is not in the extra {need.extra}"
