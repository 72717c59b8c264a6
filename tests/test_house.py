"""The arrows between the rooms, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "data": ("data",),
    "towers": ("data", "towers"),
    "serve": ("data.schema", "data.features", "data.aggregates", "data.content", "serve"),
}
FORBIDDEN = {"serve": ("torch", "pytorch_lightning", "lightning", "mlflow")}
OURS = ("data", "towers", "serve", "train", "export", "bench", "tests")


def imported(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_point_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        for module in imported(path):
            assert not within(module, OURS) or within(module, ALLOWED[room]), f"{path.relative_to(ROOT)} imports {module}"
            assert not within(module, FORBIDDEN.get(room, ())), f"{path.relative_to(ROOT)} imports {module}"


def test_nobody_imports_a_script():
    for path in [
        *ROOT.glob("*.py"),
        *(path for room in ("data", "towers", "serve", "bench", "tests") for path in (ROOT / room).rglob("*.py")),
    ]:
        for module in imported(path):
            assert not within(module, ("train", "export")), f"{path.relative_to(ROOT)} imports {module}"


def test_the_world_is_known_to_no_model():
    world = ("data.world", "data.audience", "data.outcomes", "data.logging_policy")
    its_own = {ROOT / f"{module.replace('.', '/')}.py" for module in world}
    for room in ("data", "towers", "serve"):
        for path in set((ROOT / room).rglob("*.py")) - its_own:
            assert not any(within(module, world) for module in imported(path)), f"{path.relative_to(ROOT)} knows the simulated world"


def test_outside_libraries_have_one_home():
    homes = {"faiss": ["serve/index.py"], "tritonclient": ["serve/triton.py"]}
    for library, expected in homes.items():
        users = [
            str(path.relative_to(ROOT))
            for room in ALLOWED
            for path in (ROOT / room).rglob("*.py")
            if any(within(m, (library,)) for m in imported(path))
        ]
        assert users == expected


def test_files_stay_readable():
    for room in ("data", "towers", "serve"):
        for path in (ROOT / room).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 320, f"{path.relative_to(ROOT)} is long: does it hold two things?"
