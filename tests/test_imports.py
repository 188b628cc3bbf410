"""Who may import whom: the arrows of the design, checked against the code."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lt_cli"
LEAVES = {"errors", "files", "lean", "losses", "refusals", "version", "pictures", "spans", "answers", "reports"}
"""Modules that import nothing of ours but errors; anyone may use them."""


def within(room: str) -> set[str]:
    """All modules of a room."""
    return {f"{room}.{path.stem}" for path in (PACKAGE / room).glob("*.py")}


ALLOWED = {
    "backbones": within("backbones"),
    "data": {*within("data"), "dtensors"},
    "tasks": {
        *within("tasks"),
        *(
            "backbones.base",
            "beam_search",
            "dtensors",
            "fsdp2",
            "generation",
            "losses",
            "metrics",
            "optim",
            "optimizer_settings",
        ),
        *(
            "data.answer_rows",
            "data.base",
            "data.choice_rows",
            "data.labels",
            "data.targets",
            "data.token_labels",
            "coco_scores",
            "text_metrics",
        ),
    },
    "callbacks": {"callbacks", "data.base", "dtensors", "shards", "signals", "tasks.base"},
    "generation": {"backbones.base"},
    "beam_search": {"generation"},
    "losses": set(),
    "metrics": set(),
    "text_metrics": set(),
    "coco_scores": set(),
    "dtensors": set(),
    "optim": {"dtensors"},
    "fsdp2": {"dtensors", "optim", "refusals", "shards"},
    "optimizer_settings": {"optim"},
    "loggers": set(),
    "quiet": set(),
    "shards": set(),
    "checkpoint_io": {"runs", "shards", "tasks.base"},
    "checkpoint": {"checkpoint_io", "data.base", "parser", "runs", "tasks.base"},
    "reuse": {"backbones.base", "checkpoint", "checkpoint_io", "data.palette", "runs"},
    "arguments": {"checkpoint", "checkpoint_io", "runs", "signals"},
    "trainer": {"callbacks", "checkpoint_io", "loggers"},
    "signals": set(),
    "session": {"callbacks", "signals"},
    "cli": {
        *(
            "arguments",
            "callbacks",
            "checkpoint",
            "checkpoint_io",
            "parser",
            "quiet",
            "runs",
            "session",
            "signals",
            "tasks.base",
        ),
        "trainer",
    },
    "parser": {"nulls"},
    "nulls": set(),
    "runs": {"shards"},
    "__main__": {"cli"},
    "errors": set(),
    "files": set(),
    "lean": set(),
    "refusals": set(),
    "version": set(),
    "pictures": set(),
    "spans": set(),
    "answers": set(),
    "reports": set(),
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imports_of(path: Path) -> set[str]:
    """Our own modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lt_cli"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            is_package = (PACKAGE.parent / (node.module or "").replace(".", "/")).is_dir()
            found |= names if is_package else {node.module or ""}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("lt_cli")}
    return {name.removeprefix("lt_cli.") for name in found}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_design(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ALLOWED[room] | LEAVES
    for name in imports_of(path):
        assert name in allowed or name.split(".")[0] in allowed - {"tasks", "data", "backbones"}, (
            f"{path} imports {name}"
        )


def test_no_import_cycles() -> None:
    graph = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): imports_of(path) for path in modules()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join([*above, name])
        if name not in done:
            for below in graph.get(name, set()):
                visit(below, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_packages_export_nothing() -> None:
    """A class_path names the file that a class is in."""
    assert [path for path in PACKAGE.rglob("__init__.py") if path.read_text().strip()] == []


def test_files_stay_small() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
