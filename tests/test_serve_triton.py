"""What Triton answers is what the model answers, whatever is loaded, swapped or broken meanwhile."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from serve.contract import MAX_BATCH, ModelSpec, TensorSpec
from serve.local_triton import LocalTriton
from serve.triton import PYTHON, PYTORCH, Client, Refused, Timeout, Unavailable, add_version, config_pbtxt, model_config

WIDTH = 8


class Mixed(torch.nn.Module):
    """Three dtypes in, three out, none of them in the order they came, over a variable number of candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, WIDTH)

    def forward(
        self, half_BKD: torch.Tensor, single_BD: torch.Tensor, whole_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if bool((whole_BK < 0).any()):
            raise ValueError("a negative row")
        query_BD = torch.tanh(self.layer(single_BD))
        score_BK = torch.einsum("bkd,bd->bk", half_BKD.float(), query_BD)
        return whole_BK.flip(1), score_BK, query_BD.half()


class Constant(torch.nn.Module):
    """Answers its own number, so that an answer tells which version gave it."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def forward(self, single_BD: torch.Tensor) -> torch.Tensor:
        return self.value.expand(single_BD.shape[0], 1)


def mixed(name: str) -> ModelSpec:
    return ModelSpec(
        name,
        (TensorSpec("half", "FP16", (-1, WIDTH)), TensorSpec("single", "FP32", (WIDTH,)), TensorSpec("whole", "INT64", (-1,))),
        (TensorSpec("row__0", "INT64", (-1,)), TensorSpec("score__1", "FP32", (-1,)), TensorSpec("query__2", "FP16", (WIDTH,))),
    )


def constant(name: str) -> ModelSpec:
    return ModelSpec(name, (TensorSpec("single", "FP32", (WIDTH,)),), (TensorSpec("value__0", "FP32", (1,)),))


def saved(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module.eval()).save(str(path))
    return path


def mixed_arrays(seed: int, batch: int, candidates: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, candidates, WIDTH)).astype(np.float16),
        rng.normal(size=(batch, WIDTH)).astype(np.float32),
        rng.integers(0, 2**62, size=(batch, candidates)),
    )


@pytest.fixture(scope="module")
def mixed_model(triton_server: LocalTriton, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, torch.nn.Module]:
    torch.manual_seed(0)
    module, spec = Mixed().eval(), mixed("mixed")
    add_version(triton_server.repository, spec, 1, saved(module, tmp_path_factory.mktemp("mixed") / "model.pt"), backend=PYTHON)
    client = Client(triton_server.grpc_url)
    client.load(spec.name)
    client.close()
    return spec, module


@pytest.mark.parametrize(("batch", "candidates"), [(1, 1), (1, 500), (3, 7), (MAX_BATCH, 2)])
def test_answers_are_bitwise_those_of_the_model_in_process(triton_client, mixed_model, batch, candidates):
    spec, module = mixed_model
    arrays = mixed_arrays(candidates, batch, candidates)
    with torch.inference_mode():
        expected = module(*map(torch.tensor, arrays))
    answers = triton_client.infer(spec, *arrays)
    assert [a.dtype for a in answers] == [np.int64, np.float32, np.float16]
    for answer, tensor in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer, tensor.numpy(), strict=True)


def test_strided_arrays_are_sent_as_their_values(triton_client, mixed_model):
    spec, _ = mixed_model
    half, single, whole = mixed_arrays(1, 2, 6)
    sparse = (half[:, ::2], single[::-1], whole[:, ::2])
    packed = tuple(np.ascontiguousarray(array) for array in sparse)
    for a, b in zip(triton_client.infer(spec, *sparse), triton_client.infer(spec, *packed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_wrong_dtype_is_named_and_not_cast(triton_client, mixed_model):
    spec, _ = mixed_model
    half, single, whole = mixed_arrays(1, 1, 2)
    with pytest.raises(TypeError, match="mixed: input half is float32, expected float16"):
        triton_client.infer(spec, half.astype(np.float32), single, whole)


def test_an_error_inside_the_model_is_refused_in_its_own_words_and_the_next_request_is_answered(triton_client, mixed_model):
    spec, _ = mixed_model
    half, single, whole = mixed_arrays(1, 1, 2)
    with pytest.raises(Refused, match="a negative row") as refusal:
        triton_client.infer(spec, half, single, -whole - 1)
    assert refusal.value.name == "mixed"
    assert triton_client.infer(spec, half, single, whole)[0].tolist() == whole[:, ::-1].tolist()


def test_a_wrong_shape_is_refused_by_name(triton_client, mixed_model):
    spec, _ = mixed_model
    half, single, whole = mixed_arrays(1, 1, 2)
    with pytest.raises(Refused, match="single"):
        triton_client.infer(spec, half, single[:, :-1].copy(), whole)


def test_a_batch_beyond_the_limit_is_refused(triton_client, mixed_model):
    spec, _ = mixed_model
    with pytest.raises(Refused, match=f"<= {MAX_BATCH}"):
        triton_client.infer(spec, *mixed_arrays(0, MAX_BATCH + 1, 1))


def test_an_unknown_model_is_refused(triton_client):
    with pytest.raises(Refused, match="nobody"):
        triton_client.infer(constant("nobody"), np.zeros((1, WIDTH), np.float32))


def test_the_deadline_is_kept(triton_server, mixed_model):
    spec, _ = mixed_model
    hurried = Client(triton_server.grpc_url, timeout_ms=0.01)
    with pytest.raises(Timeout, match="mixed"):
        hurried.infer(spec, *mixed_arrays(0, MAX_BATCH, 500))
    hurried.close()


def test_versions_swap_under_load_without_an_error_and_a_corrupt_one_is_refused(triton_server, triton_client, tmp_path):
    spec, one_row = constant("swapped"), np.zeros((1, WIDTH), np.float32)
    repository = triton_server.repository
    add_version(repository, spec, 1, saved(Constant(1.0), tmp_path / "one.pt"), backend=PYTHON)
    triton_client.load(spec.name)
    seen, done = [], threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.append(triton_client.infer(spec, one_row)[0].item())

    pool = ThreadPoolExecutor(2)
    asking = [pool.submit(ask) for _ in range(2)]
    try:
        add_version(repository, spec, 2, saved(Constant(2.0), tmp_path / "two.pt"), backend=PYTHON)
        triton_client.load(spec.name)
        assert triton_client.versions(spec.name) == (1, 2)
        assert triton_client.infer(spec, one_row, version="1")[0].item() == 1.0
        assert triton_client.infer(spec, one_row)[0].item() == 2.0

        cut_short = tmp_path / "three.pt"
        cut_short.write_bytes((tmp_path / "two.pt").read_bytes()[:-200])
        add_version(repository, spec, 3, cut_short, backend=PYTHON)
        with pytest.raises(Refused, match=r"swapped.*3/model\.pt is not a readable TorchScript file"):
            triton_client.load(spec.name)
        assert triton_client.infer(spec, one_row)[0].item() == 2.0

        triton_client.load_versions(model_config(spec, backend=PYTHON, versions=(1,)))
        assert triton_client.versions(spec.name) == (1,)
        assert triton_client.infer(spec, one_row)[0].item() == 1.0
    finally:
        done.set()
    for future in asking:
        future.result()  # raises what any request met
    assert set(seen) == {1.0, 2.0}
    triton_client.unload(spec.name)
    with pytest.raises((Refused, Unavailable), match="swapped"):
        triton_client.infer(spec, one_row)


def test_a_version_is_never_overwritten(tmp_path):
    model_file = saved(Constant(1.0), tmp_path / "model.pt")
    add_version(tmp_path, constant("kept"), 1, model_file, backend=PYTORCH)
    with pytest.raises(FileExistsError, match="kept/1 exists"):
        add_version(tmp_path, constant("kept"), 1, model_file, backend=PYTORCH)
    assert sorted(path.name for path in (tmp_path / "kept" / "1").iterdir()) == ["model.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "model.pt"]


def test_both_backends_declare_the_same_tensors():
    python, pytorch = (text_format.Parse(config_pbtxt(mixed("m"), backend=backend), ModelConfig()) for backend in (PYTHON, PYTORCH))
    assert (python.backend, pytorch.backend) == ("python", "pytorch")
    assert list(python.input) == list(pytorch.input)
    assert list(python.output) == list(pytorch.output)
    assert "INTER_OP_THREAD_COUNT" not in pytorch.parameters


def test_no_server_is_unavailable_and_not_ready():
    client = Client("127.0.0.1:1", timeout_ms=2_000)
    assert not client.ready()
    with pytest.raises(Unavailable, match=r"mixed on Triton at 127\.0\.0\.1:1"):
        client.infer(mixed("mixed"), *mixed_arrays(0, 1, 1))
    client.close()
