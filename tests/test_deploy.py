"""What is deployed holds together: files against the schemas of who reads them, and against one another. No engine is asked; what can run
without one (the health check, Redis' command, pinning, a server without torch) runs."""

import ast
import http.server
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import check_jsonschema.builtin_schemas
import jsonschema
import pytest
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serve import local_triton
from serve.commands.listening import DRAIN_S
from serve.redis_store import RedisStore
from serve.settings import CONF
from serve.store import StoreError
from tests import deployment
from tests.deployment import DEPLOY, PROJECT, ROOT, accepted, compose, containers, final, images_of_compose, last, pinned, pods, stages
from tests.engines import published, started
from tests.releases import write_release
from tests.stores import PATIENT_MS, RedisServer

NOT_SERVING = ("torch", "pytorch_lightning", "lightning", "mlflow", "sklearn", "implicit", "matplotlib", "pyarrow", "pandas")
ASKED_OTHERWISE = {"fastapi-offline", "httpx", "tenacity"}  # its files are served; those of whoever calls a server from Python
AWAITED = ("prometheus", "grafana")  # folders of deploy/ that hold nothing but what is mounted


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory):
    return deployment.dockerfile(tmp_path_factory.mktemp("dockerfile"))


def modules_of_serving():
    rooms = [ROOT / "data" / f"{name}.py" for name in ("__init__", "schema", "features", "aggregates", "content")]
    return [*(ROOT / "serve").rglob("*.py"), *rooms]


def outside(path):
    """Top-level names of other people's packages that a file imports at its own top level: what a function imports when it is called may be
    an extra's."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"data", "serve"}


def required(*extras):
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_serving_names_every_package_it_imports():
    allowed, homes = required("cpu", "redis"), packages_distributions()
    for path in modules_of_serving():
        for name in outside(path):
            assert allowed & set(map(canonicalize_name, homes[name])), (
                f"{path.relative_to(ROOT)} imports {name}, which serving does not install"
            )


def test_every_package_of_serving_is_imported_and_none_trains():
    homes = packages_distributions()
    imported = {canonicalize_name(home) for path in modules_of_serving() for name in outside(path) for home in homes[name]}
    assert required("cpu", "redis") - ASKED_OTHERWISE <= imported
    assert not {canonicalize_name(home) for name in NOT_SERVING for home in homes.get(name, ())} & required("cpu", "redis")


def without_training(*words, cwd=ROOT):
    """`python <words>` where what trains cannot be imported: None in sys.modules is how Python says that it looked in vain."""
    code = f"import sys; sys.modules |= dict.fromkeys({NOT_SERVING}); sys.argv = sys.argv[1:]; import runpy; "
    run = "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code + run, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_a_server_without_torch_lists_releases_and_says_how_to_get_what_trains(tmp_path):
    write_release(tmp_path / "releases" / "v1", items=30)
    (tmp_path / "releases" / "current").symlink_to("v1")
    listed = without_training("serve", "release", "list", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "v1" in listed.stdout
    told = without_training("serve", "retrain", cwd=tmp_path)
    assert told.returncode == 2, told.stderr
    assert "pip install towers[train]" in told.stderr
    assert not (tmp_path / "state").exists()


def test_what_a_wheel_carries_of_conf_is_all_of_it():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    carried = {path for pattern in told["package-data"]["conf"] for path in CONF.glob(pattern)}
    assert "conf" in told["packages"]
    assert {path for path in CONF.rglob("*") if path.is_file()} == carried


@pytest.mark.parametrize("stage", ["server", "train"])
def test_an_image_runs_as_nobody_of_importance_and_by_itself(dockerfile, stage):
    made = final(dockerfile, stage)
    assert int(last(made, "USER").split(":")[0]) > 0
    assert [json.loads(last(made, name)) for name in ("ENTRYPOINT", "CMD")]
    assert last(made, "STOPSIGNAL") == "SIGTERM"
    labels = " ".join(value for name, value in made if name == "LABEL")
    assert f'licenses="{PROJECT["license"]}"' in labels
    assert any(name == "ENV" and "PYTHONUNBUFFERED=1" in value for name, value in made)
    assert not any(word in value for name, value in made if name == "RUN" for word in ("pip install", "apt-get", "gcc")), "build tools"


def test_the_server_is_what_a_plain_build_makes_and_knows_no_training(dockerfile):
    assert list(stages(dockerfile))[-1] == "server"
    assert not any("towers/" in value or "train" in value for name, value in final(dockerfile, "server") if name == "COPY")
    arguments = [value for name, value in itertools.chain(*stages(dockerfile).values()) if name == "ARG"]
    assert f"VERSION={PROJECT['version']}" in arguments


def test_every_image_is_pinned_and_the_interpreter_is_one_we_support(dockerfile):
    base = next(one["value"] for one in dockerfile if one["instruction"] == "ARG").removeprefix("PYTHON_IMAGE=")
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", base)
    named = set(stages(dockerfile)) | {"${PYTHON_IMAGE}"}
    assert {one["value"].split()[0] for one in dockerfile if one["instruction"] == "FROM"} <= named
    for image in [*images_of_compose(), *(one["image"] for pod in pods().values() for one in containers(pod))]:
        assert pinned(image), image


def test_every_file_copied_is_there_and_sent_to_the_builder(dockerfile):
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    sent = exclude_paths(str(ROOT), patterns)
    copied = [shlex.split(one["value"]) for one in dockerfile if one["instruction"] in ("COPY", "ADD")]
    sources = {source for words in copied if not words[0].startswith("--from") for source in words[:-1]}
    assert {"conf", "serve", "data", "pyproject.toml"} <= sources
    for source in sources:
        files = [path.relative_to(ROOT).as_posix() for path in (ROOT / source).rglob("*") if path.is_file()] or [source]
        kept = [path for path in files if "__pycache__" not in path]
        assert kept and set(kept) <= sent, f"{source}: {sorted(set(kept) - sent)[:3]} not sent"
    assert not {path for path in sent if path.startswith(("tests/", ".git/", "releases", "models", "deploy/.env"))}


class Answering(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        type(self).asked = self.path
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status, said", [(200, 0), (503, 1)])
def test_the_images_health_check_is_what_healthz_answers(dockerfile, status, said):
    Answering.status = status
    command = json.loads(last(final(dockerfile, "server"), "HEALTHCHECK").split("CMD", 1)[1])
    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {**os.environ, "SERVE_PORT": str(server.server_port)}
        done = subprocess.run([sys.executable, *command[1:]], env=env, capture_output=True, timeout=60)
        server.shutdown()
    assert command[0] == "python"
    assert (bool(done.returncode), Answering.asked) == (bool(said), "/healthz")
    assert subprocess.run([sys.executable, *command[1:]], env=env, capture_output=True, timeout=60).returncode, "nobody listens"


def test_the_image_starts_by_what_its_environment_says(dockerfile, monkeypatch):
    made = final(dockerfile, "server")
    monkeypatch.setenv("SERVE_PORT", re.search(r"SERVE_PORT=(\d+)", " ".join(v for n, v in made if n == "ENV"))[1])
    monkeypatch.setenv("TRITON_URL", "triton:8001")
    assert json.loads(last(made, "ENTRYPOINT")) == ["python", "-m", "serve"]
    chosen = accepted(json.loads(last(made, "CMD")))
    assert (chosen.host, chosen.port, chosen.triton.url, chosen.store) == ("0.0.0.0", int(last(made, "EXPOSE")), "triton:8001", None)
    assert chosen.editorial == Path("/app/conf/editorial.yaml")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_are_what_the_compose_specification_says(name):
    schema = json.loads((Path(check_jsonschema.builtin_schemas.__file__).parent / "vendor" / "compose-spec.json").read_text())
    allows = jsonschema.validators.validator_for(schema)(schema)
    allows.validate(compose(name))
    misspelt = compose(name)
    misspelt["services"]["triton"]["shmsize"] = "256m"
    assert not allows.is_valid(misspelt), "this validator lets anything in"


def test_compose_names_only_what_is_there():
    told = compose()
    services, volumes = told["services"], told["volumes"]
    assert set(compose("compose.gpu.yaml")["services"]) <= set(services)
    used = set()
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        for other, how in service.get("depends_on", {}).items():
            healthy = "healthcheck" in services[other] or services[other]["image"].startswith("towers:")
            assert how["condition"] != "service_healthy" or healthy, f"{name} waits for {other}, which says nothing of its health"
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                awaited = source.split("/")[1] in AWAITED and not (DEPLOY / source.split("/")[1]).exists()
                assert (DEPLOY / source).exists() or awaited, f"{name} mounts {source}"
            elif not source.startswith("$"):
                used.add(source)
    assert used == set(volumes)


def test_every_service_of_compose_is_kept_small_alive_and_to_this_machine():
    for name, service in compose()["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert "memory" in service["deploy"]["resources"]["limits"], name
        assert service["restart"] == ("no" if name in ("pin", "train") else "unless-stopped"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert int(service.get("user", "10001:10001").split(":")[0]), name


def test_compose_holds_no_password_and_asks_for_each():
    text = (DEPLOY / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.search(r"password|redis://", line, re.IGNORECASE) and not line.lstrip().startswith(("#", "-", "requirepass")):
            assert re.search(r"\$\{\w+:\?", line), line
    asked = set(re.findall(r"(?<!\$)\$\{(\w+):?[?-]", text))
    named = dict(line.split("=") for line in (DEPLOY / "example.env").read_text().splitlines() if "=" in line and line[0] != "#")
    assert set(named) == asked
    assert not any(named[name] for name in named if "PASSWORD" in name)


def test_ports_agree_between_image_compose_and_what_is_asked(dockerfile, monkeypatch):
    services = compose()["services"]
    monkeypatch.setenv("STORE_URL", "redis://:x@redis:6379/0")
    chosen = accepted([word.replace("$$", "$") for word in services["server"]["command"]])
    assert services["server"]["ports"] == [f"127.0.0.1:8080:{chosen.port}"]
    assert chosen.port == int(last(final(dockerfile, "server"), "EXPOSE"))
    assert chosen.triton.url == "triton:8001", "where Triton listens to gRPC when told nothing"
    assert {"8000", "8001", "8002"} == set(services["triton"]["expose"])
    assert chosen.store == "redis://:x@redis:6379/0"
    assert chosen.editorial == Path("/etc/towers/editorial.yaml")
    assert "../conf:/etc/towers:ro" in [mount.split(" ")[0] for mount in services["server"]["volumes"]]
    assert chosen.at_once == 2 * int(services["server"]["deploy"]["resources"]["limits"]["cpus"])
    assert int(services["server"]["stop_grace_period"].removesuffix("s")) > 2 * DRAIN_S
    accepted([word.replace("$$", "$") for word in services["train"]["command"]])


def test_triton_reads_what_was_pinned_where_the_release_lies():
    services = compose()["services"]
    (script,) = services["pin"]["command"]
    for name in ("pin", "triton"):
        assert {mount.removesuffix(":ro") for mount in services[name]["volumes"]} == {
            "releases:/var/lib/towers/releases", "pinned:/var/lib/towers/pinned",
        }  # fmt: skip
    assert "--model-repository=/var/lib/towers/pinned/models" in services["triton"]["command"]
    assert script.replace("$$", "$") == next(one for one in containers(pods()["Deployment/towers"]) if one["name"] == "pin")["args"][0]


def test_pinning_points_at_the_release_of_now_and_stays_there(tmp_path):
    (script,) = compose()["services"]["pin"]["command"]
    script = script.replace("$$", "$")
    (tmp_path / "pinned").mkdir()
    (tmp_path / "releases").mkdir()

    def pin():
        return subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True)

    refused = pin()
    assert refused.returncode and "no release in the volume" in refused.stderr
    for version in ("v1", "v2"):
        (tmp_path / "releases" / version / "triton" / "ranker").mkdir(parents=True)
    (tmp_path / "releases" / "current").symlink_to("v1")
    assert pin().returncode == 0
    models = tmp_path / "pinned" / "models"
    (tmp_path / "releases" / "current").unlink()
    (tmp_path / "releases" / "current").symlink_to("v2")
    assert models.resolve() == tmp_path / "releases" / "v1" / "triton"
    assert pin().returncode == 0
    assert models.resolve() == tmp_path / "releases" / "v2" / "triton"


def test_a_server_follows_releases_of_its_tritons_models_and_refuses_others(tmp_path):
    """What the layout and docs/deploy.md stand on: a Triton that was started on one release, as `pin` has it."""
    releases = published(tmp_path / "releases", "v1")
    log = tmp_path / "triton.log"
    with local_triton.start(releases / "v1" / "triton", log_path=log, models=("user_tower", "item_tower", "ranker")) as triton:
        with started(releases, tmp_path / "state", f"triton.url={triton.grpc_url}") as engine:
            published(releases, "v2")
            engine.fleet.refresh()
            assert serving(engine) == ("v2", None)
            published(releases, "v3", seed=4)
            engine.fleet.refresh()
            version, error = serving(engine)
            assert version == "v2" and "golden" in error
            assert not engine.readiness()[0]
        with started(releases, tmp_path / "state", f"triton.url={triton.grpc_url}") as engine:
            assert serving(engine)[0] == "v2", "a server that starts again falls back to what its Triton answers for"


def serving(engine):
    (champion,) = engine.fleet.status().arms
    return champion.serving, champion.error


def commands_of_redis():
    (service,) = (one for one in containers(pods()["StatefulSet/towers-redis"]))
    return {"compose": compose()["services"]["redis"]["command"][0].replace("$$", "$"), "kubernetes": service["args"][0]}


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_the_redis_we_deploy_is_one_that_the_store_takes(where, tmp_path, monkeypatch):
    """The very command, with another port and folder: it wants the password, and keeps what it acknowledged."""
    script = commands_of_redis()[where].replace("dir /data", f"dir {tmp_path}\nbind 127.0.0.1")
    server = RedisServer(tmp_path)  # for a free port
    server.kill()
    monkeypatch.setenv("REDISCLI_AUTH", "abc123")
    process = subprocess.Popen(
        ["sh", "-ec", script.replace("redis-server -", f"redis-server - --port {server.port}")], stdout=subprocess.DEVNULL
    )
    try:
        health = f"timeout 20 sh -c 'until redis-cli -p {server.port} ping | grep -q PONG; do sleep 0.05; done'"
        assert subprocess.run(["sh", "-c", health], capture_output=True).returncode == 0
        with_password = server.url.replace("redis://", "redis://:abc123@")
        RedisStore(with_password, timeout_ms=PATIENT_MS).close()
        with pytest.raises(StoreError, match=r"(?i)authentication"):
            RedisStore(server.url, timeout_ms=PATIENT_MS).read("u1")
        assert b"abc123" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        process.wait(30)
