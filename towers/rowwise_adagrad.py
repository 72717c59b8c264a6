"""Row-wise Adagrad: one accumulator per embedding row rather than per number.

Adagrad (Duchi et al. 2011) with the mean of a row's squared gradient, as in FBGEMM and Mudigere et al. 2022 (arXiv 2104.05158, §4.1.4).
A step costs the rows the batch touched, and a table's state is 1/D of Adam's half.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class RowLookup(torch.autograd.Function):
    """weight[row_R] for distinct rows in rising order, whose gradient is a sparse tensor that need not be sorted."""

    @staticmethod
    def forward(ctx, weight_ID: Tensor, row_R: Tensor) -> Tensor:
        ctx.save_for_backward(row_R)
        ctx.shape = weight_ID.shape
        return weight_ID.index_select(0, row_R)

    @staticmethod
    def backward(ctx, grad_RD: Tensor):
        (row_R,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(row_R[None], grad_RD, ctx.shape, is_coalesced=True, check_invariants=False), None


def lookup_distinct(embedding: nn.Embedding, row_R: Tensor) -> Tensor:
    """Rows of a sparse embedding table, (R, D). `row_R` is distinct and sorted, as `torch.unique` leaves it."""
    return RowLookup.apply(embedding.weight, row_R)


class RowWiseAdagrad(torch.optim.Optimizer):
    """For tables read by `lookup_distinct` (sparse gradients) and for dense parameters alike (there a row is the first dimension).

    `start` is what every accumulator begins with: at 0 a row's first step has the length `lr` however small its gradient; the larger,
    the more a row must have learnt before it moves.

    Raises:
        ValueError: learning rate or eps not positive, or start negative.
    """

    def __init__(self, params: Iterable, lr: float = 0.1, eps: float = 1e-8, start: float = 0.0):
        if lr <= 0 or eps <= 0 or start < 0:
            raise ValueError(f"lr={lr} and eps={eps} must be positive, start={start} not negative")
        super().__init__(params, {"lr": lr, "eps": eps, "start": start})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every row that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["eps"], group["start"])
        return loss

    def _update(self, parameter: Tensor, lr: float, eps: float, start: float) -> None:
        state = self.state[parameter]
        if not state:
            state["sum"] = torch.full((len(parameter),), start, dtype=torch.float32, device=parameter.device)
        grad = parameter.grad
        if grad.is_sparse:
            row_R, grad_RD = rows_once(grad)
            sum_R = state["sum"].index_select(0, row_R) + torch.linalg.vecdot(grad_RD, grad_RD) / grad_RD.shape[1]
            state["sum"].index_copy_(0, row_R, sum_R)
            moved_RD = parameter.index_select(0, row_R).addcdiv_(grad_RD, (sum_R.sqrt() + eps)[:, None], value=-lr)
            parameter.index_copy_(0, row_R, moved_RD)
        else:
            square = grad.pow(2)
            state["sum"] += square.flatten(1).mean(1) if grad.dim() > 1 else square
            scale = lr / (state["sum"].sqrt() + eps)
            parameter -= scale.view(-1, *[1] * (grad.dim() - 1)) * grad


def rows_once(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R,) and values (R, D) of a sparse gradient, each row once. Autograd forgets, as it takes a gradient over, that it is coalesced;
    to look is much cheaper than to sort."""
    row_R = grad._indices()[0]
    if not (row_R[1:] > row_R[:-1]).all():
        grad = grad.coalesce()
    return grad._indices()[0], grad._values()


class TablesAndDense(torch.optim.Optimizer):
    """Several optimisers, each over its own parameters, stepped as one; schedulers see all their parameter groups."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]):
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(self, closure=None):
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict:
        """The states of each, in order."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Undo `state_dict`."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
