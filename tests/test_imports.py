"""The static import graph has no cycle, and the base package names no system and no task, not even in a string."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from visionzoo.registry import list_pipelines

ROOT = Path(__file__).parent.parent
FOLDERS = ("visionzoo", "models", "pipelines", "demos")


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "visionzoo" else ("visionzoo", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))}


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """The statements under `if TYPE_CHECKING:`, which never run."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return {inner for block in blocks for node in block.body for inner in ast.walk(node)}


def imports(module: str, file: Path) -> Iterator[str]:
    """Modules of ours that a file imports, at its top or inside a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    skipped = for_types_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                if inner in MODULES:
                    yield inner
                elif origin in MODULES:
                    yield from named_in_stub(origin, alias.name)
                elif origin.split(".")[0] == "visionzoo":
                    yield origin  # no such module


def named_in_stub(package: str, name: str) -> Iterator[str]:
    """The module from which a package's stub imports a lazy name; for other names, the package itself."""
    stub = MODULES[package].with_suffix(".pyi")
    if stub.is_file() and MODULES[package].name == "__init__.py":
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                target = ".".join([*base, *(node.module.split(".") if node.module else [])])
                inner = f"{target}.{name}"
                yield inner if inner in MODULES else target
                return
    yield package


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            part = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(part) > 1:
                found.append(sorted(part))

    for module in graph:
        if module not in index:
            visit(module)
    return found


def test_no_import_circle() -> None:
    graph = {module: {*imports(module, file)} & MODULES.keys() - {module} for module, file in MODULES.items()}
    assert sum(map(len, graph.values())) > len(graph), "the graph is read"
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == [["a", "b", "c"]]
    assert not circles(graph)


def test_imports_inside_functions_name_modules_that_exist() -> None:
    """A wrong one at the top of a file shows at once; one inside a function only when that function is called."""
    assert not [
        (module, name) for module, file in MODULES.items() for name in imports(module, file) if name not in MODULES
    ]


def docstrings(tree: ast.Module) -> set[int]:
    """Line numbers of strings that are statements, which are documentation, and of the module's own names in `__all__`."""
    documentation = {
        node.value.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    exported = {
        name.lineno
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.walk(node.value)
        if isinstance(name, ast.Constant)
    }
    return documentation | exported


def test_the_base_package_names_no_system_and_no_task() -> None:
    """Everything specific to a task or system is registered: names in strings would hide dependencies from the import test."""
    systems = [folder.name for folder in (ROOT / "models").iterdir() if (folder / "__init__.py").is_file()]
    names = re.compile(rf"(?<![\w-])({'|'.join([*systems, *list_pipelines()])})(?![a-z-])")
    guilty = []
    for module, file in MODULES.items():
        if file.relative_to(ROOT).parts[0] != "visionzoo":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        documentation = docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in documentation:
                guilty += [f"{module}:{node.lineno}: {match[0]}" for match in names.finditer(node.value)]
    assert not guilty
