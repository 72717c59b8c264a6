"""The body of every model under Triton's Python backend: a TorchScript file, answered as it stands.

Lies in a version's folder beside its `model.pt`. Which tensors go in and come out, and in which order, is read from the model's
config.pbtxt: its inputs are `forward`'s arguments, its outputs what `forward` returns (one tensor or a tuple of them).

Tensors cross by DLPack. A numpy array would not survive: under numpy 2 `pb_utils.Tensor(ndarray)` silently carries zero bytes
(triton-inference-server/python_backend pull request 384).
"""

import ctypes
import json
import warnings
from pathlib import Path

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import to_dlpack

TORCH_DTYPE = {"TYPE_FP16": torch.float16, "TYPE_FP32": torch.float32, "TYPE_INT64": torch.int64}
ALIGNMENT = 64
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 32 << 20  # the most that glibc takes as M_MMAP_THRESHOLD


def keep_memory():
    """Have malloc keep what one request freed for the next. It would give it back to the kernel, whose zeroed pages then cost a user tower
    of 12 histories 1.1 of its 1.5 ms, and a ranker of 600 candidates 1 of 3.7."""
    malloc = ctypes.CDLL(None)
    malloc.mallopt(M_TRIM_THRESHOLD, 8 * KEPT_BYTES)
    malloc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


class TritonPythonModel:
    """One loaded version of one model; Triton calls each method from one thread."""

    def initialize(self, args):
        """Load `model.pt`. `args` is Triton's dict of strings; what fails here refuses this version and leaves the old one serving."""
        config = json.loads(args["model_config"])
        torch.set_num_threads(int(config["parameters"]["torch_threads"]["string_value"]))
        torch.set_num_interop_threads(1)
        keep_memory()
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [(tensor["name"], TORCH_DTYPE[tensor["data_type"]]) for tensor in config["output"]]
        path = Path(args["model_repository"]) / args["model_version"] / "model.pt"
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        try:
            self.model = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise pb_utils.TritonModelException(f"{path} is not a readable TorchScript file: {error}") from error

    def execute(self, requests):
        """Answer each request alone, so that an answer does not depend on who else happened to ask."""
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """One request → one response: the model's outputs, or its error in words."""
        arguments = [self.incoming(pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs]
        try:
            with torch.inference_mode():
                returned = self.model(*arguments)
            tensors = [returned] if isinstance(returned, torch.Tensor) else returned
            answers = [self.outgoing(*pair) for pair in zip(self.outputs, tensors, strict=True)]
        except (RuntimeError, ValueError, TypeError) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(answers)

    @staticmethod
    def incoming(tensor):
        """A tensor of Triton's as torch's, aligned as torch aligns its own: at other addresses the same sum may differ in a bit."""
        tensor = torch.from_dlpack(tensor.to_dlpack())
        return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()

    @staticmethod
    def outgoing(declared, tensor):
        """A tensor as Triton's, under its declared name. Raises TypeError where its dtype is another: Triton would not look."""
        name, dtype = declared
        if tensor.dtype != dtype:
            raise TypeError(f"output {name}: the model returned {tensor.dtype}, config.pbtxt says {dtype}")
        return pb_utils.Tensor.from_dlpack(name, to_dlpack(tensor.contiguous()))
