"""What deploy/ says, read: the Dockerfile by stages, compose, Kubernetes' objects and pods, and the command lines in all of them."""

import re
import tomllib
from pathlib import Path

import yaml
from dockerfile_parse import DockerfileParser

from serve import command_line
from serve.commands.jobs import serve_words
from serve.refresh import refreshing
from serve.retraining import retraining
from serve.settings import settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def dockerfile(folder):
    """The instructions of the Dockerfile, in order; `folder` is the parser's to write in."""
    path = folder / "Dockerfile"
    path.write_text((DEPLOY / "Dockerfile").read_text())
    return DockerfileParser(path=str(path)).structure


def stages(structure):
    """{name: its instructions} in the file's order; what a stage is built from comes first, as FROM."""
    found, name = {}, None
    for one in structure:
        if one["instruction"] == "FROM":
            name = one["value"].split(" AS ")[1]
        if name is not None:
            found.setdefault(name, []).append((one["instruction"], one["value"]))
    return found


def final(structure, stage):
    """The instructions an image is made by, those of the stages it continues first."""
    every = stages(structure)
    base = every[stage][0][1].split(" AS ")[0]
    return [*(final(structure, base) if base in every else []), *every[stage]]


def last(instructions, name):
    return [value for instruction, value in instructions if instruction == name][-1]


def accepted(words):
    """The settings of `python -m serve <words>`, read as serving reads them."""
    words = words[2:] if words[:2] == ["-m", "serve"] else words
    known = command_line.read(words)
    if known.command == "retrain":
        retraining([one for one in known.overrides if not one.startswith("store=")])
    if known.command == "refresh":
        refreshing([one for one in known.overrides if not one.startswith(("store=", "triton.", "access."))])
    return settings(serve_words(known.command, known.overrides))


def compose(name="compose.yaml"):
    return yaml.safe_load((DEPLOY / name).read_text())


def images_of_compose():
    return [service["image"] for service in compose()["services"].values() if "build" not in service]


def kustomization(folder=BASE):
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def objects():
    """{"Kind/name": object} of the base, and the secrets an operator makes."""
    files = [BASE / name for name in kustomization()["resources"]] + [BASE / "secrets.example.yaml"]
    every = [told for path in files for told in yaml.safe_load_all(path.read_text())]
    found = {f"{told['kind']}/{told['metadata']['name']}": told for told in every}
    assert len(found) == len(every), "a name twice"
    return found


def pods():
    """{"Kind/name": pod template}."""
    found = {}
    for name, told in objects().items():
        spec = told.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            found[name] = template
    return found


def containers(pod):
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def pinned(image):
    name, _, tag = image.partition(":")
    return bool(re.search(r"\d+\.\d+", tag)) or name in {one["name"] for one in kustomization()["images"]}
