"""A run → a release, published only if what will be served answers as the model did."""

import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

import hydra
import mlflow
import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data.content import content_vectors
from data.features import HOUR_MS, MOMENT, NUMBERS, PROFILE
from data.log import Log, retold
from data.readers import continued
from serve import continuation, contract, dpp, mmr, publication, release, tags
from serve.cold_start import Quiz, draw_users, fit_quiz, passed_over, verdicts
from serve.contract import MAX_HISTORY
from serve.index import Index
from serve.local_triton import start
from serve.recommender import Recommender
from serve.slates import passing_store
from serve.triton import PYTHON, Client, add_version
from towers import frontier
from towers.release_tables import histories, last_queries, queries_of, room_for, shown_pairs, write_items, write_recipe, write_trends
from towers.saved import SavedModelError, SavedRetrieval, read_ranking, rows_digest

logger = logging.getLogger("export")
PROBING = 128  # users whose queries an index is tuned to


def publish_challenger(staging: Path, root: Path, version: str) -> None:
    """Make a staged release one that is served beside the current one."""
    publication.shelve(staging, root, version)
    publication.challenge(root, version)


PUBLISH = {"current": publication.publish, "challenger": publish_challenger, "none": publication.shelve}


def model_folder(name: str, tracking_uri: str) -> Path:
    """The model folder called `name`: a path, or the artifact of the MLflow run with this id.

    Raises:
        SavedModelError: neither is there.
    """
    if Path(name).is_dir():
        return Path(name).resolve()
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=name, artifact_path="model", tracking_uri=tracking_uri))
    except mlflow.MlflowException as error:
        raise SavedModelError(f"{name} is neither a model folder nor an MLflow run with a model in {tracking_uri}; train first") from error


def run_name(name: str, folder: Path) -> str:
    """What MLflow may know a model folder's run by: its id, if `name` is one, else the name of the run's folder."""
    return folder.parent.name if Path(name).is_dir() else name


def read_log(retrieval: Path) -> Log:
    """The whole log that the run read, by the configuration the run was resolved to.

    Raises:
        SavedModelError: the configuration does not lie beside the model folder.
    """
    path = retrieval.parent / "config.yaml"
    if not path.is_file():
        raise SavedModelError(f"{path} is not there: it says which data the model was trained on; keep the run's folder whole")
    cfg = OmegaConf.load(path)
    return instantiate(cfg.log)(instantiate(cfg.split)(instantiate(cfg.data)))


def write_tables(staging: Path, log: Log, saved: SavedRetrieval, half_life_days: float, room: int | None) -> None:
    """Everything that serving knows besides models: items, words, the clock, what users did, who they are."""
    row_IW = saved.rows_after(log).numpy()
    room = room_for(len(row_IW)) if room is None else room
    write_items(staging, row_IW, room)
    write_recipe(staging, saved, log)
    tags.write(staging, log.catalogue.tag_IT, rows=len(row_IW) + room)
    items = log.split.tables.items
    items.write_parquet(staging / "catalogue.parquet")
    log.split.tables.users.write_parquet(staging / "users.parquet")
    words = {name: list(getattr(log.vocabulary, name).words) for name in ("device", "region", "subscription_tier")}
    words["genres"] = list(log.catalogue.recipe.genres.words)
    (staging / "vocabulary.json").write_text(json.dumps(words))
    clock = log.clock(half_life_days=half_life_days).latest()
    np.savez(staging / "clock.npz", **{name: getattr(clock, name) for name in clock.__slots__})
    events_U = np.diff(log.offset_U1)
    if longer := int((events_U > MAX_HISTORY).sum()):
        logger.warning("%s users have more than %s events: what lies before may be recommended to them again", longer, MAX_HISTORY)
    histories(log, MAX_HISTORY).write_parquet(staging / "histories.parquet")
    quiz(log, saved).save(staging)


def write_content(staging: Path, log: Log, width: int, index: Callable[[np.ndarray], Index]) -> None:
    """Content vectors with as much room as items.f16 (`width` is the towers') has, and the index of the items there are."""
    vector_IC = content_vectors(log.catalogue.feature_IF, log.catalogue.recipe)
    rows = (staging / "items.f16").stat().st_size // (4 * width)
    room_RC = np.zeros((rows, vector_IC.shape[1]), np.float16)
    room_RC[: len(vector_IC)] = vector_IC
    room_RC.tofile(staging / "content.f16")
    index(room_RC[: len(vector_IC)]).save(staging / "content.faiss")


def quiz(log: Log, saved: SavedRetrieval) -> Quiz:
    """The quiz for strangers, from the queries of users as they stood at their last event and from what they think of items."""
    said = passed_over(verdicts(log.user_row_E, log.item_row_E, log.event_code_E), *shown_pairs(log))
    user_row_U, said = draw_users(said)
    return fit_quiz(queries_of(log, saved, user_row_U), said, priors=len(saved.half_lives_days))


def golden_tensors(*folders: Path) -> dict[str, np.ndarray]:
    """Inputs of every model, and what the trained modules answered to them before they were scripted, as the runs recorded it.

    Raises:
        SavedModelError: a record is missing or cannot be read.
    """
    tensors = {}
    for folder in folders:
        try:
            with np.load(folder / "golden.npz") as recorded:
                tensors |= {name: recorded[name] for name in recorded.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise SavedModelError(f"{folder / 'golden.npz'} cannot be read ({error}); train the run again") from error
    return tensors


def spread(log: Log, count: int) -> tuple[list[str], int]:
    """(users with histories of all lengths, shortest first; the hour after the log's last in ms UTC, when they are asked for)."""
    by_length = np.argsort(np.diff(log.offset_U1), kind="stable")
    users = [log.user_ids[by_length[int(place)]] for place in np.linspace(0, len(by_length) - 1, count)]
    return users, (int(log.timestamp_E.max()) // HOUR_MS + 1) * HOUR_MS


def relevance_and_diversity(recommender: Recommender, log: Log, count: int) -> dict:
    """The frontier of the release's slates over λ, by ways to choose them: the means over `count` users."""
    users, now = spread(log, count)
    requests = [contract.Request(user_id, now, request_id=f"frontier-{number}") for number, user_id in enumerate(users)]
    scored = [recommender.scored(request) for request in requests]
    return frontier.frontier(scored, {"mmr": mmr.mmr, "dpp": dpp.dpp}, count=requests[0].count)


def golden_answers(recommender: Recommender, log: Log, count: int) -> list[dict]:
    """Whole requests of users with histories of all lengths, and of nobody, with the items they were answered by."""
    users, now = spread(log, count)
    answers = []
    for number, user_id in enumerate([*users, "nobody in particular"]):
        request = contract.Request(user_id, now, count=10, request_id=f"golden-{number}")
        found = recommender.store.read(user_id)
        history, fields = found.history, found.fields
        slate = recommender.answer(request, found)
        known = {name: list(values) if name == "item_ids" else values.tolist() for name, values in _fields(history).items()}
        known["rating_L"] = [None if np.isnan(rating) else rating for rating in known["rating_L"]]
        shown = [shown.item_id for shown in slate.recommendations]
        answers.append({"request": asdict(request), "history": known, "fields": asdict(fields), "item_ids": shown})
    return answers


def _fields(history: contract.History) -> dict:
    return {name: getattr(history, name) for name in history.__slots__}


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Stage, compare, record, publish."""
    retrieval, ranking = (model_folder(name, cfg.mlflow) for name in (cfg.retrieval, cfg.ranker))
    saved, ranks = SavedRetrieval.open(retrieval), read_ranking(ranking)
    if ranks["retrieval_rows"] != rows_digest(retrieval):
        raise SavedModelError(
            f"{ranking} learned on the rows of {ranks['retrieval']}, not of {retrieval}; train the ranker again or export its own"
        )
    log = read_log(retrieval)
    saved.check_same_items(log)
    trained_to = int(log.timestamp_E.max())
    if cfg.logs:
        log = retold(log, continued.read(log.split.tables, list(cfg.logs), forgotten=cfg.forgotten, liked_from=log.liked_from))
        saved = saved.knowing(log)
    if cfg.promote not in PUBLISH:
        raise ValueError(f"promote={cfg.promote}: expected one of {', '.join(PUBLISH)}")
    root = Path(cfg.releases)
    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=root))
    try:
        (staging / continuation.TRAINED_TO).write_text(json.dumps(trained_to))
        points = stage(cfg, staging, log, saved, retrieval, ranking, ranks)
        PUBLISH[cfg.promote](staging, root, cfg.version)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    run_id = frontier.publish(points, version=cfg.version, run=run_name(cfg.retrieval, retrieval), tracking_uri=cfg.mlflow)
    logger.info("relevance and diversity over λ: releases/%s/frontier.png of MLflow run %s", cfg.version, run_id)
    logger.info("published release %s: %s items, %s users", cfg.version, f"{len(log.catalogue.item_ids):,}", f"{len(log.user_ids):,}")


def stage(cfg: DictConfig, staging: Path, log: Log, saved: SavedRetrieval, retrieval: Path, ranking: Path, ranks: dict) -> dict:
    """Write the release and hold it against its source on a running Triton; its frontier of relevance and diversity.

    Raises:
        ReleaseError: an answer of the server differs from the trained module's.
    """
    sizes = len(MOMENT), log.catalogue.genre_IG.shape[1] + len(PROFILE), len(NUMBERS), len(ranks["heads"])
    specs = {
        contract.user_tower(saved.width, len(MOMENT)): retrieval / "user_tower.pt",
        contract.item_tower(saved.width, log.catalogue.feature_IF.shape[1]): retrieval / "item_tower.pt",
        contract.ranker(saved.width, *sizes): ranking / "ranker.pt",
    }
    backend = instantiate(cfg.backend)
    for spec, path in specs.items():
        add_version(staging / "triton", spec, 1, path, backend=backend, threads=cfg.threads, instances=cfg.instances)
    write_tables(staging, log, saved, ranks["clock_half_life_days"], cfg.room)
    write_trends(staging, log, cfg.half_life_days)
    write_content(staging, log, saved.width, instantiate(cfg.index))
    index = instantiate(cfg.index)(saved.rows_after(log)[:, saved.width :].float().numpy(), query_BD=last_queries(log, saved, PROBING))
    index.save(staging / "index.faiss")
    np.savez(staging / "golden.npz", **golden_tensors(retrieval, ranking))
    (staging / "golden.json").write_text("[]")
    manifest = {
        "version": cfg.version, "runs": {"retrieval": str(retrieval.parent.name), "ranker": str(ranking.parent.name)},
        "width": saved.width, "history_length": saved.history_length,
        "liked_from": saved.liked_from if np.isfinite(saved.liked_from) else None, "backend": backend.name,
        "item_count": len(log.catalogue.item_ids), "feature_count": log.catalogue.feature_IF.shape[1],
        "numbers": ranks["numbers"], "profile": ranks["profile"], "heads": ranks["heads"],
        "learned": ranks["learned"],
        "relevance_head": ranks["heads"].index(contract.ORDERED_BY),
    }  # fmt: skip
    release.seal(staging, manifest)
    with running(cfg, staging, specs) as url:
        opened = release.Release.open(staging)
        store = passing_store(opened)
        Recommender.verified(opened, Client(url), store=store).close()
        recommender = Recommender.patient(opened, url, store=store)
        (staging / "golden.json").write_text(json.dumps(golden_answers(recommender, log, cfg.golden_requests)))
        release.seal(staging, manifest)
        points = relevance_and_diversity(recommender, log, cfg.frontier_requests)
        recommender.close()
    (Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir) / "frontier.json").write_text(json.dumps(points, indent=1))
    return points


@contextmanager
def running(cfg: DictConfig, staging: Path, specs: dict[contract.ModelSpec, Path]) -> Iterator[str]:
    """A local Triton that answers with the staged models, by its gRPC address. It has the Python backend alone: models staged for another
    are asked through that one, from the same `model.pt`."""
    output = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    with tempfile.TemporaryDirectory(prefix=".triton-", dir=staging.parent) as folder:
        repository = staging / "triton"
        if instantiate(cfg.backend) != PYTHON:
            repository = Path(folder)
            for spec, path in specs.items():
                add_version(repository, spec, 1, path, backend=PYTHON, threads=cfg.threads, instances=cfg.instances)
        with start(repository, log_path=output / "triton.log", models=tuple(spec.name for spec in specs)) as server:
            yield server.grpc_url


if __name__ == "__main__":
    main()
