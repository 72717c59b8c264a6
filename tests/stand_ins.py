"""What stands before `python`, `towers`, `mlflow` and `make` on the PATH of a page's shell, so that its commands run as they are written
in a minute instead of an hour: training and export get overrides of size, servers are started, waited for and left to the page's end,
commands that would start a Triton each are given one (`triton.url`), and what another test of this suite runs anyway is only resolved.

    python tests/stand_ins.py python train.py experiment=world_two_tower
    python tests/stand_ins.py forged train.py experiment=world_two_tower        # as it stands

Whatever is added is printed. Nothing that a command says itself is changed. Most of a small training is imports; so a forge, where one is
open (`STAND_IN_FORGE`), imports what comes from outside once, and each script runs in a fork of it.
"""

import atexit
import importlib
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

KEPT = Path(".stand_ins")
"""In a page's folder: what ran already, and the server that is up."""
PATIENT = ("triton.timeout_ms=10000", "deadline_ms=20000")
SMALL_TOWERS = ("trainer.trainer.max_epochs=1", "task.batch_size=128")
SMALL_RANKER = ("trainer.trainer.max_epochs=1",)
SMALL_WORLD = ("data.users=150", "data.items=160", "data.events=6000")
SMALL_EXPORT = ("golden_requests=2", "frontier_requests=2")
SMALL_REFRESH = ("export=['golden_requests=2','frontier_requests=2']",)
SMALL_RETRAIN = ("overrides=['trainer.trainer.max_epochs=1']", *SMALL_REFRESH)
REFUSED = 3  # of `serve retrain`, where its gate refused: what the page says it may
IMPORTED_ONCE = (
    "torch", "pytorch_lightning", "hydra", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg", "fastapi", "fastapi_offline", "faiss", "git", "httpx", "lightgbm", "narwhals.stable.v2", "polars",
    "rich.table", "scipy.stats", "sklearn.model_selection", "tritonclient.grpc", "uvicorn",
)  # fmt: skip
REALLY_MADE = {"help", "demo", "up", "release"}


def key(word: str) -> str:
    """What a word of a Hydra command line sets."""
    return word.lstrip("+~").partition("=")[0]


def beside(words: Sequence[str], sizes: Iterable[str]) -> list[str]:
    """The words, and those of `sizes` that set what no word does."""
    told = {key(word) for word in words}
    return [*words, *(size for size in sizes if key(size) not in told)]


def smaller(words: Sequence[str]) -> list[str]:
    """A training command with what makes it quick."""
    told = {key(word): word.partition("=")[2] for word in words}
    ranker = told.get("task") == "ranker" or told.get("experiment", "").endswith("ranker")
    world = told.get("data", data_of(told.get("experiment"))).startswith("world")
    return beside(words, (*(SMALL_RANKER if ranker else SMALL_TOWERS), *(SMALL_WORLD if world else ())))


def data_of(experiment: str | None) -> str:
    """The data that an experiment is about: what its file says, or the world, as conf/train.yaml has it."""
    told = "" if experiment is None else Path("conf", "experiment", f"{experiment}.yaml").read_text()
    found = re.search(r"override /data: (\w+)", told)
    return found[1] if found else "world"


def ran(*words: str) -> int:
    """Run the interpreter that this is, or a fork of the forge; the exit code."""
    if "STAND_IN_FORGE" in os.environ:
        return forged(words)
    return subprocess.run([sys.executable, *words], check=False).returncode


def once(words: Sequence[str]) -> int:
    """`ran`, but for a command that went well in this folder and whose models, those there were then, are there still."""
    print("stand-in: python", *words, flush=True)
    done = KEPT / "done"
    for line in done.read_text().splitlines() if done.exists() else ():
        before, there = json.loads(line)
        if before == list(words) and there.items() <= models().items():
            print("stand-in: it ran before in this folder, went well, and no model changed since")
            return 0
    if (code := ran(*words)) == 0:
        with done.open("a") as log:
            log.write(json.dumps([list(words), models()]) + "\n")
    return code


def models() -> dict[str, str]:
    """Which run each name in models/ is a link to."""
    return {link.name: str(link.resolve()) for link in Path("models").glob("*")}


def forged(words: Sequence[str]) -> int:
    """The exit code of a script or module that a fork of the forge ran."""
    KEPT.mkdir(exist_ok=True)
    order = (KEPT / "order").absolute()
    order.write_text(json.dumps({"words": list(words), "folder": str(Path.cwd()), "environment": dict(os.environ)}))
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ["STAND_IN_FORGE"])
        socket.send_fds(line, [os.fsencode(order)], [0, 1, 2])
        said = line.recv(1)
    return said[0] if said else 1


def forge(address: str) -> None:
    """Listen at a Unix socket for what to run, until told to stop or left alone."""
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    keeper = os.getppid()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        door.settimeout(1)
        while os.getppid() == keeper:
            try:
                line, _ = door.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                line.settimeout(None)
                run_order(line)
            line.close()


def run_order(line: socket.socket) -> None:
    """In a fork: become the process that was asked for, run its script or module, tell its exit code and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told, files, *_ = socket.recv_fds(line, 4096, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    order = json.loads(Path(os.fsdecode(told)).read_text())
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv, code = order["words"], 0
    sys.path[0] = order["folder"] if sys.argv[0] == "-m" else str(Path(sys.argv[0]).absolute().parent)
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    try:
        if sys.argv[0] == "-m":
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    line.send(bytes([code]))
    os._exit(code)


def python(words: Sequence[str]) -> int:
    """`python …`."""
    match list(words):
        case ["train.py", *rest]:
            return once(["train.py", *smaller(rest)])
        case ["export.py", *rest]:
            return once(["export.py", *beside(rest, SMALL_EXPORT)])
        case ["-m", "serve", *rest]:
            return towers(rest)
        case ["-m", module, *_] if module.startswith(("bench.", "towers.")):
            return ran(*words)
    return subprocess.run([sys.executable, *words], check=False).returncode


def towers(words: Sequence[str]) -> int:
    """`towers …`, which is `python -m serve …`."""
    match list(words):
        case ["up", *rest]:
            return up(rest)
        case ["retrain" | "refresh" as job, *rest]:
            code = ran("-m", "serve", job, *beside(rest, SMALL_RETRAIN if job == "retrain" else SMALL_REFRESH))
            return 0 if code == REFUSED else code
        case ["recommend" | "explain" | "precompute" | "quiz", *_] | ["release", "check", *_]:
            return ran("-m", "serve", *beside(words, (*PATIENT, f"triton.url={triton_url(Path())}")))
    return ran("-m", "serve", *words)


def answers(url: str) -> bool:
    """Whether there is an answer of 200 at this address now."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def waited(process: subprocess.Popen, url: str, log: Path) -> int:
    """0 once `url` answers; else why not is printed, and 1."""
    deadline = time.monotonic() + 120
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            print(f"stand-in: {url} does not answer\n{log.read_text()[-4000:]}")
            return 1
        time.sleep(0.2)
    return 0


def started(words: Sequence[str], log: Path, *, pid: str = "up") -> subprocess.Popen:
    """A process that goes on after this one, in a session of its own; `down` stops it."""
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, *words], stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    log.with_name(f"{pid}.pid").write_text(str(process.pid))
    return process


def up(rest: Sequence[str]) -> int:
    """`python -m serve up`: the server stays until the page ends, or the next one comes."""
    down(Path())
    port = os.environ["STAND_IN_PORT"]
    log = (KEPT / "up.log").absolute()
    process = started(["-m", "serve", "up", *beside(rest, (*PATIENT, f"port={port}"))], log)
    return waited(process, f"http://127.0.0.1:{port}/readyz", log)


def triton_url(folder: Path) -> str:
    """A Triton with the models of the current release of a page's folder: one for all commands that would start one, see that it answers
    as at export, and stop it again."""
    release, told = (folder / "releases" / "current").resolve(), (folder / KEPT / "triton.json").absolute()
    if told.exists() and json.loads(told.read_text())["release"] == str(release):
        return json.loads(told.read_text())["url"]
    down(folder, "triton")
    told.unlink(missing_ok=True)
    process = started([__file__, "triton", str(release), str(told)], told.with_suffix(".out"), pid="triton")
    while not told.exists():
        if process.poll() is not None:
            raise RuntimeError(told.with_suffix(".out").read_text()[-4000:])
        time.sleep(0.1)
    return json.loads(told.read_text())["url"]


def keep_triton(release: str, told: str) -> None:
    """Be the process that a page's Triton lives as long as."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from serve import local_triton

    models = tuple(path.name for path in (Path(release) / "triton").iterdir() if path.is_dir())
    with local_triton.start(Path(release) / "triton", log_path=Path(told).with_suffix(".log"), models=models) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        Path(f"{told}.new").write_text(json.dumps({"release": release, "url": server.grpc_url}))
        Path(f"{told}.new").replace(told)
        server.process.wait()


def down(folder: Path, what: str = "up") -> None:
    """Stop the server that a page's folder has, or its Triton, if it has one."""
    pid = folder / KEPT / f"{what}.pid"
    if not pid.exists():
        return
    number = int(pid.read_text())
    pid.unlink()
    try:
        os.kill(number, signal.SIGTERM)
        for _ in range(600):
            os.kill(number, 0)
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.1)
    except (ProcessLookupError, FileNotFoundError):
        return
    os.killpg(number, signal.SIGKILL)


def mlflow(words: Sequence[str]) -> int:
    """`mlflow …`; of `mlflow ui` that it answers, and then it is stopped."""
    if list(words[:1]) != ["ui"]:
        return ran("-m", "mlflow", *words)
    port = os.environ["STAND_IN_PORT"]
    log = (KEPT / "mlflow.log").absolute()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    down(Path())
    process = started(["-m", "mlflow", *words, "--port", port, "--workers", "1"], log)
    code = waited(process, f"http://127.0.0.1:{port}/", log)
    down(Path())
    return code


def make(words: Sequence[str]) -> int:
    """`make …`: really, where it is the demonstration; of everything else the recipes are resolved and not run."""
    targets = [word for word in words if "=" not in word]
    dry = [] if set(targets) <= REALLY_MADE else ["-n"]
    return subprocess.run(["/usr/bin/make", "--no-print-directory", *dry, *words], check=False).returncode


if __name__ == "__main__":
    if sys.argv[1] == "forge":
        forge(sys.argv[2])
    if sys.argv[1] == "triton":
        keep_triton(*sys.argv[2:])
        sys.exit(1)  # it ended by itself
    KEPT.mkdir(exist_ok=True)
    tool = {"python": python, "towers": towers, "mlflow": mlflow, "make": make, "forged": forged}[sys.argv[1]]
    sys.exit(tool(sys.argv[2:]))
