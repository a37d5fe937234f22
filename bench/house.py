"""Claim: the layout shows the architecture. Rooms, arrows, names and docstrings, read from the imports and the syntax.

python -m bench.house fails when a limit is broken: no import from a lower room to a higher one, no circle, at most 2
loose modules, at most 15 files a folder, no public name defined twice, no class above 180 lines, at most 40 functions
that receive the settings on a worker's way, and arguments documented wherever the reference pages show a function.
"""

import ast
import re
import statistics
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "ldlva_dist"
WORKER = f"{PACKAGE}.training.loop.train_worker"
LIMITS = {
    "arrows up": 0,
    "circles": 0,
    "loose modules": 2,
    "files in the largest folder": 15,
    "public names defined twice": 0,
    "lines of the largest class": 180,
    "functions that receive the settings on a worker's way": 40,
    "functions on the reference pages without their arguments": 0,
}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    path: Path
    tree: ast.Module = field(repr=False)

    @property
    def room(self) -> str:
        """First folder below the package; the module itself where it is loose."""
        return self.name.split(".")[1] if "." in self.name else self.name

    @cached_property
    def public(self) -> list[Definition]:
        """Functions and classes at the top that others may use."""
        return [node for node in self.tree.body if isinstance(node, Definition) and not node.name.startswith("_")]


def main() -> None:
    """Print the figures and the limits; exit code 1 where one is broken."""
    modules = {module.name: module for module in _modules()}
    figures = measure(modules)
    for name, value in figures.items():
        limit = f"  (limit {LIMITS[name]})" if name in LIMITS else ""
        print(f"{name:58} {len(value) if isinstance(value, list) else value:>7}{limit}")
    counts = {name: len(value) if isinstance(value, list) else value for name, value in figures.items()}
    broken = [name for name, limit in LIMITS.items() if float(counts[name]) > limit]
    for name in broken:
        print(*(f"{name}: {line}" for line in listed(figures[name])), sep="\n")
    sys.exit(f"error: over its limit: {', '.join(broken)}" if broken else 0)


def listed(value: float | str | list[str]) -> list[str]:
    """What a figure counts, where it counts something that can be named."""
    return value if isinstance(value, list) else []


def measure(modules: Mapping[str, Module]) -> dict[str, float | str | list[str]]:
    """Every figure by its name; a list stands for how many it holds."""
    imports = {name: set(_imported(module, modules)) for name, module in modules.items()}
    arrows = {
        (modules[one].room, modules[other].room): f"{one} imports {other}" for one in imports for other in imports[one]
    }
    # The package itself is no room: its two functions open doors to rooms.
    arrows = {pair: said for pair, said in arrows.items() if pair[0] != pair[1] and PACKAGE not in pair}
    floors = _floors()
    folders = Counter(module.path.parent for module in modules.values())
    names = defaultdict(list)
    for module in modules.values():
        for node in module.public:
            names[node.name].append(module.name)
    functions = [node for module in modules.values() for node in _functions(module)]
    documented = [doc for node in functions if (doc := ast.get_docstring(node))]
    classes = [n for m in modules.values() for n in ast.walk(m.tree) if isinstance(n, ast.ClassDef)]
    loose = [m.name for m in modules.values() if m.path.parent == ROOT / PACKAGE and m.path.stem != "__init__"]
    return {
        "modules": len(modules),
        "rooms": len({module.room for module in modules.values()} - {PACKAGE}),
        "arrows between rooms": len(arrows),
        "arrows up": [said for (one, other), said in arrows.items() if floors.get(one, 0) < floors.get(other, 0)],
        "circles": _circles(imports),
        "loose modules": loose,
        "files in a folder, median": statistics.median(folders.values()),
        "files in the largest folder": max(folders.values()),
        "public names defined twice": [f"{name}: {', '.join(at)}" for name, at in names.items() if len(at) > 1],
        "lines of the largest class": max(node.end_lineno - node.lineno + 1 for node in classes if node.end_lineno),
        "functions that receive the settings on a worker's way": _receivers(modules),
        "lines a docstring, mean": f"{statistics.mean(len(doc.splitlines()) for doc in documented):.2f}",
        "share of docstrings with Args": f"{statistics.mean('Args:' in doc for doc in documented):.0%}",
        "functions on the reference pages without their arguments": _undocumented(modules),
    }


def _modules() -> Iterator[Module]:
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield Module(name, path, ast.parse(path.read_text()))


def _imported(module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module


def _floors() -> dict[str, int]:
    """How high each room stands, from the contract of the layers."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in settings if contract["type"] == "layers")
    return {room: height for height, layer in enumerate(reversed(layers)) for room in layer.split(" : ")}


def _circles(imports: Mapping[str, set[str]]) -> list[str]:
    # A package imports its own files to show their names; whoever imports one of these files imports the package too.
    graph = {name: {other for other in found if not other.startswith(f"{name}.")} for name, found in imports.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" imports ".join(error.args[1])]
    return []


def _functions(module: Module) -> Iterator[Definition]:
    """Public functions, classes, and public methods of public classes."""
    for node in module.public:
        yield node
        if isinstance(node, ast.ClassDef):
            yield from (
                inner
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_")
            )


def _receivers(modules: Mapping[str, Module]) -> list[str]:
    """Functions that receive the whole settings, found by following the calls of a worker from its first one."""
    found: list[str] = []
    ahead, seen = [WORKER], {WORKER}
    while ahead:
        name = ahead.pop()
        module = modules[name.rpartition(".")[0]]
        node = next(n for n in module.tree.body if isinstance(n, Definition) and n.name == name.rpartition(".")[2])
        if isinstance(node, ast.FunctionDef) and any(
            argument.annotation is not None and ast.unparse(argument.annotation) == "RunConfig"
            for argument in (*node.args.args, *node.args.kwonlyargs)
        ):
            found.append(name)
        for called in _called(node, module, modules):
            if called not in seen:
                seen.add(called)
                ahead.append(called)
    return sorted(found)


def _called(node: ast.AST, module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """Functions and classes of the package whose names stand in a function or class."""
    places = {inner.name: f"{module.name}.{inner.name}" for inner in module.tree.body if isinstance(inner, Definition)}
    for statement in ast.walk(module.tree):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(PACKAGE):
            for alias in statement.names:
                home = modules.get(statement.module or "")
                if home and any(isinstance(n, Definition) and n.name == alias.name for n in home.tree.body):
                    places[alias.asname or alias.name] = f"{statement.module}.{alias.name}"
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id in places:
            yield places[inner.id]


def _undocumented(modules: Mapping[str, Module]) -> list[str]:
    """Functions of the reference pages with arguments that their docstrings do not name."""
    shown = re.findall(rf"^::: ({PACKAGE}[\w.]*)", _reference(), re.MULTILINE)
    found = []
    for name in shown:
        module = modules.get(name) or modules.get(name.rpartition(".")[0])
        if module is None:
            found.append(f"{name} does not exist")
            continue
        wanted = module.public if name in modules else [n for n in module.public if n.name == name.rpartition(".")[2]]
        found += [f"{module.name}.{node.name}" for node in wanted if not _names_its_arguments(node)]
    return found


def _reference() -> str:
    pages = (ROOT / "docs" / "reference").rglob("*.md") if (ROOT / "docs" / "reference").exists() else []
    return "\n".join(page.read_text() for page in pages)


def _names_its_arguments(node: Definition) -> bool:
    if isinstance(node, ast.ClassDef):
        return bool(ast.get_docstring(node))
    arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    documented = (ast.get_docstring(node) or "").partition("Args:")[2]
    return all(re.search(rf"\b{name}\b.*:", documented) for name in arguments if name not in ("self", "cls"))


if __name__ == "__main__":
    main()
