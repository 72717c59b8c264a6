"""How we speak to Triton: a model repository on disk, and a client over gRPC.

Two backends read the same `model.pt` under the same tensor names: the Python backend, which is all that the server of a laptop has
(`serve.local_triton`), and PyTorch's in NVIDIA's container, for production.
"""

import math
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import json_format, text_format
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput
from tritonclient.utils import InferenceServerException

from serve.contract import MAX_BATCH, ModelSpec, TensorSpec

NUMPY_DTYPE = {"FP16": np.dtype(np.float16), "FP32": np.dtype(np.float32), "INT64": np.dtype(np.int64)}
VERSIONS_SERVED = 2

# The defaults of tritonclient, and: seek a server that came back every second rather than up to every two minutes; no proxy
# stands between us and our own server, whatever the environment says.
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


class TritonError(RuntimeError):
    """Triton did not do what it was asked; the message says what, and what to do."""


class Unavailable(TritonError):
    """No server answers there, or it has no ready version of that model. Trying again later may help."""


class Timeout(TritonError):
    """No answer within the deadline."""


class Refused(TritonError):
    """The server or the model rejected what was sent. Trying again will not help. `name` is the model's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


@dataclass(frozen=True, slots=True)
class Backend:
    """Who runs a `model.pt`: Triton's name for it, its parameter for the number of threads, where it runs, its body if it needs one."""

    name: str
    threads_parameter: str
    instance_kind: str
    body: Path | None


PYTHON = Backend("python", "torch_threads", "KIND_CPU", Path(__file__).resolve().parent.parent / "deploy" / "triton" / "model.py")
# Not INTER_OP_THREAD_COUNT: servers before 25.11 abort when a model that sets it is loaded again (server issue 7836).
PYTORCH = Backend("pytorch", "INTRA_OP_THREAD_COUNT", "KIND_AUTO", None)


def model_config(
    model: ModelSpec, *, backend: Backend, threads: int = 1, instances: int = 1, versions: tuple[int, ...] = ()
) -> ModelConfig:
    """Triton's description of a model; `versions` pins what is served, else it is the newest two.

    Batches form only where max_batch_size is above 0, and only among requests of equal shapes: then the batch dimension is Triton's
    own and appears in no `dims`. Two versions, so that a request which began under the old release ends under it.
    """
    config = ModelConfig(name=model.name, backend=backend.name, max_batch_size=MAX_BATCH)
    config.input.extend(ModelInput(name=t.name, data_type=f"TYPE_{t.dtype}", dims=t.shape) for t in model.inputs)
    config.output.extend(ModelOutput(name=t.name, data_type=f"TYPE_{t.dtype}", dims=t.shape) for t in model.outputs)
    config.instance_group.append(ModelInstanceGroup(kind=backend.instance_kind, count=instances))
    config.dynamic_batching.SetInParent()
    config.parameters[backend.threads_parameter].string_value = str(threads)
    if versions:
        config.version_policy.specific.versions.extend(versions)
    else:
        config.version_policy.latest.num_versions = VERSIONS_SERVED
    return config


def config_pbtxt(model: ModelSpec, *, backend: Backend, threads: int = 1, instances: int = 1) -> str:
    """The text of config.pbtxt for `model`."""
    return text_format.MessageToString(model_config(model, backend=backend, threads=threads, instances=instances))


def add_version(
    repository: Path, model: ModelSpec, version: int, model_file: Path, *, backend: Backend, threads: int = 1, instances: int = 1
) -> Path:
    """Put `model_file` into the repository as a numbered version, whole or not at all; a running server sees it at the next load.

    Raises FileExistsError where the version is there already: versions are never overwritten.
    """
    target = repository / model.name / str(version)
    if target.exists():
        raise FileExistsError(f"{target} exists: a version is never overwritten, choose the next number")
    staging = repository / f".staging-{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(model_file, staging / "model.pt")
    if backend.body is not None:
        shutil.copyfile(backend.body, staging / "model.py")
    config_file = repository / f"{staging.name}.pbtxt"
    config_file.write_text(config_pbtxt(model, backend=backend, threads=threads, instances=instances))
    staging.rename(target)
    config_file.rename(target.parent / "config.pbtxt")
    return target


class Client:
    """Asks one Triton server over gRPC. Every method may be called from any thread."""

    def __init__(self, url: str, *, timeout_ms: float = 1_000, load_timeout_ms: float = 120_000) -> None:
        """`url` is host:port of the gRPC port. Nothing is connected yet."""
        self.url = url
        self._timeout_s = timeout_ms / 1000
        self._load_timeout_s = load_timeout_ms / 1000
        self._client = InferenceServerClient(url, channel_args=list(CHANNEL_OPTIONS))

    def infer(self, model: ModelSpec, *arrays: np.ndarray, version: str = "", within_ms: float = math.inf) -> tuple[np.ndarray, ...]:
        """Run `model` on one array per input, batch dimension first → one read-only array per output, in the model's order.

        Without a `version` the newest served answers. It is waited for no longer than the client's timeout and than `within_ms`. Raises
        TypeError for a wrong number or dtype of arrays (nothing is cast), Unavailable, Timeout, Refused.
        """
        timeout_s = min(self._timeout_s, within_ms / 1000)
        if timeout_s <= 0:
            raise Timeout(f"{model.name} on Triton at {self.url}: not asked, the request's time was up")
        inputs = [_outgoing(model, tensor, array) for tensor, array in zip(model.inputs, arrays, strict=True)]
        outputs = [InferRequestedOutput(tensor.name) for tensor in model.outputs]
        try:
            result = self._client.infer(model.name, inputs, version, outputs, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._meaning(model.name, error) from error
        return tuple(result.as_numpy(tensor.name) for tensor in model.outputs)

    def ready(self) -> bool:
        """Whether the server answers within the deadline and says it is ready."""
        try:
            return self._client.is_server_ready(client_timeout=self._timeout_s)
        except InferenceServerException:
            return False

    def versions(self, name: str) -> tuple[int, ...]:
        """The versions of a model that are loaded and ready. Raises as `infer` does."""
        try:
            metadata = self._client.get_model_metadata(name, client_timeout=self._timeout_s)
        except InferenceServerException as error:
            raise self._meaning(name, error) from error
        return tuple(sorted(int(version) for version in metadata.versions))

    def load(self, name: str) -> None:
        """Load a model, or what is new of it, from the repository. Where that fails, what was loaded before goes on serving.

        Raises Refused with Triton's reason (a model.pt that cannot be read, a version that is missing), Unavailable, Timeout.
        """
        self._load(name, None)

    def load_versions(self, config: ModelConfig) -> None:
        """Load a model under this configuration rather than its config.pbtxt: how versions are pinned or rolled back. Raises as `load`."""
        self._load(config.name, json_format.MessageToJson(config, preserving_proto_field_name=True))

    def unload(self, name: str) -> None:
        """Take every version of a model out of service. Raises as `load`."""
        try:
            self._client.unload_model(name, client_timeout=self._load_timeout_s)
        except InferenceServerException as error:
            raise self._meaning(name, error) from error

    def close(self) -> None:
        """Close the connection; the client cannot be used after."""
        self._client.close()

    def _load(self, name: str, config: str | None) -> None:
        try:
            self._client.load_model(name, config=config, client_timeout=self._load_timeout_s)
        except InferenceServerException as error:
            raise self._meaning(name, error) from error

    def _meaning(self, name: str, error: InferenceServerException) -> TritonError:
        match error.status():
            case "StatusCode.UNAVAILABLE":
                return Unavailable(f"{name} on Triton at {self.url}: {error.message()}")
            case "StatusCode.DEADLINE_EXCEEDED":
                return Timeout(f"{name} on Triton at {self.url}: no answer within the deadline")
            case _:
                return Refused(name, error.message())


def _outgoing(model: ModelSpec, tensor: TensorSpec, array: np.ndarray) -> InferInput:
    if array.dtype != NUMPY_DTYPE[tensor.dtype]:
        raise TypeError(f"{model.name}: input {tensor.name} is {array.dtype}, expected {NUMPY_DTYPE[tensor.dtype]}")
    return InferInput(tensor.name, array.shape, tensor.dtype).set_data_from_numpy(array)
