"""docs/pictures/mlflow.png: MLflow's own page comparing runs, really trained and really asked. `make docs/pictures/mlflow.png`

    python docs/mlflow_picture.py [STORE]

Without a STORE (sqlite:///mlflow.db) four runs of the simulated world are trained into a temporary folder first, one thing changed in each.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "mlflow.png"
CHROMIUM = "/usr/bin/chromium"
RUNS = {
    "plain": [],
    "narrow": ["task.module.width=32"],
    "wide": ["task.module.width=128"],
    "whole_catalogue": ["task.module.negatives._target_=towers.negatives.WholeCatalogue"],
}
"""What is compared: the name of a run, and what is changed in it."""
CHARTS = "^val/(ndcg|recall|mrr)_at_(20|100)$"
SIZE = {"width": 1280, "height": 1000}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def trained(folder: Path) -> str:
    """Train `RUNS` in a folder; the store they are in."""
    for name, changed in RUNS.items():
        command = [sys.executable, str(ROOT / "train.py"), "experiment=world_two_tower", f"name={name}", *changed]
        subprocess.run(command, cwd=folder, env=os.environ | QUIET | {"PYTHONPATH": str(ROOT)}, check=True)
    return f"sqlite:///{folder}/mlflow.db"


@contextmanager
def ui(store: str) -> Iterator[str]:
    """The address of `mlflow ui` over a store, for as long as the block lasts."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, env=os.environ | QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"mlflow ui does not answer at {url}") from None
                time.sleep(0.3)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def compared(store: str) -> str:
    """The part of the address that opens the charts of the experiment's runs."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("towers")
    if experiment is None:
        raise SystemExit(f"{store} holds no experiment 'towers'; train first")
    return f"/#/experiments/{experiment.experiment_id}/runs?compareRunsMode=CHART"


def take(url: str, picture: Path) -> None:
    """Open the page in Chromium, wait until its charts are drawn, and photograph it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"])
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
        for close in page.get_by_role("button", name="Close").all():  # the assistant's panel
            close.click()
        page.get_by_role("button", name="Toggle sidebar").click()
        page.get_by_placeholder("Search metric charts").fill(CHARTS)
        page.wait_for_timeout(4_000)
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture)
        browser.close()


def main() -> None:
    """Train if need be, then photograph."""
    with tempfile.TemporaryDirectory(prefix="towers-picture-") as folder:
        store = sys.argv[1] if len(sys.argv) > 1 else trained(Path(folder))
        with ui(store) as url:
            take(url + compared(store), PICTURE)
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
