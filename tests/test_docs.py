"""Every code block of the README runs (`tests/pages.py`; those of docs/ in test_docs_pages.py); every link leads somewhere; every table
that repeats the code agrees with it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient

from data.schema import EVENTS, IMPRESSIONS, ITEMS, USERS
from serve.api import create_app
from tests.engines import published, started
from tests.pages import FENCE, HOW, PAGES, ROOT, blocks, run_blocks


def prose(page: Path) -> str:
    """A page without its blocks and inline code, its lines where they were."""
    told = FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), page.read_text())
    return re.sub(r"`[^`\n]+`", "", told)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_language_is_one_that_is_known(page):
    assert page.read_text().count("\n```") % 2 == page.read_text().startswith("```"), "a fence is not closed, or stands indented"
    for block in blocks(page):
        assert block.language in HOW, f"{block}: expected one of {', '.join(HOW)}"


def test_every_block_of_the_readme_runs(request):
    run_blocks(ROOT / "README.md", request)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it of what we write."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading)).strip().lower())


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_leads_to_something_of_ours(page):
    for text, target in re.findall(r"!?\[([^\]]*)\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(ROOT) and there.is_file(), f"{page.name}: [{text}]({target}) leads nowhere"
        assert not anchor or anchor in anchors(there), f"{page.name}: [{text}]({target}): there is no such heading in {there.name}"


def test_the_readme_opens_with_both_pictures_and_the_two_commands():
    opening = (ROOT / "README.md").read_text()[:2500]
    places = [opening.index(part) for part in ("docs/pictures/home.png", "docs/pictures/mlflow.png", "make demo", "make up")]
    assert places == sorted(places)


def sections(page: Path, level: int = 2) -> dict[str, str]:
    """Heading → text, of one level."""
    parts = re.split(rf"^{'#' * level} (.+)$", page.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("walk", ["Your own data in ten lines", "Your own tower", "Your own loss", "Your own source"])
def test_a_walk_through_is_under_a_screen_of_code(walk):
    lines = [line for fence in FENCE.finditer(sections(ROOT / "README.md")[walk]) for line in fence["text"].splitlines()]
    assert 0 < len(lines) <= 45 and (walk != "Your own data in ten lines" or len(lines) <= 12)


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without the heads; an escaped bar is a bar."""
    lines = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]
    rules = {number for number, line in enumerate(cells) if all(re.fullmatch(r":?-+:?", cell) for cell in line)}
    return [line for number, line in enumerate(cells) if number not in rules and number + 1 not in rules]


@pytest.mark.parametrize("table", ["Events", "Impressions", "Items", "Users"])
def test_the_tables_are_those_of_the_schema(table):
    columns = {"Events": EVENTS, "Impressions": IMPRESSIONS, "Items": ITEMS, "Users": USERS}[table]
    told = [row[:4] for row in rows(sections(ROOT / "docs" / "tables.md")[table])]
    assert told == [
        [f"`{name}`", f"`{column.dtype}`", "yes" if column.required else "", column.expected] for name, column in columns.items()
    ]


def leaves(node: yaml.Node, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """Key → value of a YAML file; what stands in braces on one line is one value."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        for key, value in node.value:
            yield from leaves(value, (*path, key.value))
    else:
        yield ".".join(path), yaml.safe_load(yaml.serialize(node))


def keyed_files() -> list[Path]:
    return sorted(path for path in (ROOT / "conf").glob("*.yaml") if path.name != "editorial.yaml")


@pytest.mark.parametrize("path", keyed_files(), ids=lambda path: path.name)
def test_every_key_of_the_configuration_is_told_with_its_default_and_meaning(path):
    told = rows(sections(ROOT / "docs" / "configuration.md").get(f"conf/{path.name}", ""))
    known = {key: value for key, value in leaves(yaml.compose(path.read_text())) if key.split(".")[0] not in ("defaults", "hydra")}
    assert {key.strip("`"): yaml.safe_load(default.strip("`")) for key, default, _ in told} == known
    assert all(meaning for *_, meaning in told)


def test_every_choice_of_the_configuration_is_told():
    told = {row[0].strip("`") for row in rows(sections(ROOT / "docs" / "configuration.md")["Choices"])}
    assert told == {f"{path.parent.name}={path.stem}" for path in (ROOT / "conf").glob("*/*.yaml")}


def test_every_route_is_told(tmp_path):
    told = set(re.findall(r"`(GET|POST) ([^`?]+)`", (ROOT / "docs" / "api.md").read_text()))
    with started(published(tmp_path / "releases", "v1"), tmp_path / "state") as engine:
        document = TestClient(create_app(engine)).get("/openapi.json").json()
    known = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert known and known <= told, f"docs/api.md says nothing of {sorted(known - told)}"


def test_every_bench_that_is_named_is_there():
    named = {name for page in PAGES for name in re.findall(r"bench\.(\w+)", page.read_text())}
    assert len(named) >= 9 and all((ROOT / "bench" / f"{name}.py").is_file() for name in named)


def test_the_site_is_built_without_a_warning_and_asks_no_other_server_for_anything(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    built = sorted(path.stem for path in tmp_path.glob("*.html"))
    assert {page.stem for page in PAGES[1:]} <= set(built)
    for page in tmp_path.glob("*.html"):
        asked = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]+)|<link[^>]*\shref=\"([^\"]+)", page.read_text())
        assert not [one for one in asked if "".join(one).startswith(("http:", "https:", "//"))], page.name
