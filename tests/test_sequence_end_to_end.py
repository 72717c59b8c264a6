"""SASRec, HSTU and a graph of items the whole way: trained by train.py, ranked upon, published, and asked through a real Triton."""

import json

import pytest

from tests.test_end_to_end import ROOT, WORLD, alone, run

__all__ = ["run"]  # a fixture
HSTU = ("task.module.user_tower.encoder._target_=towers.encoders.HSTU", "task.module.user_tower.encoder.blocks=2")


@pytest.mark.parametrize(("task", "encoder"), [("id_sequence", ()), ("sequence", HSTU), ("graph", ())], ids=["SASRec", "HSTU", "graph"])
def test_a_tower_of_another_family_is_served(tmp_path, run, task, encoder):
    few = ("trainer.trainer.max_epochs=2", "task.batch_size=500")
    run(tmp_path, str(ROOT / "train.py"), f"task={task}", *WORLD, *few, *encoder, "task.history_length=20")
    run(
        tmp_path,
        str(ROOT / "train.py"),
        "experiment=world_ranker",
        *WORLD,
        "trainer.trainer.max_epochs=1",
        f"task.retrieval=models/world_{task}",
    )
    run(tmp_path, str(ROOT / "export.py"), f"retrieval=models/world_{task}", "version=first", "golden_requests=2", "frontier_requests=2")
    said = alone(tmp_path, "-m", "serve", "recommend", "--user", "u0000042", "--count", "5", "time=log-end", "--json").stdout
    answer = json.loads(said)
    assert len({item["item_id"] for item in answer["recommendations"]}) == 5
