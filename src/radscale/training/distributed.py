"""What the processes of one training run say to each other. One process is the case of one: nothing is sent.

W = processes (ranks), b = rows of one rank. Rows of all ranks are ordered by rank.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor, nn

from radscale.errors import InputError

Precision = Literal["fp32", "bf16"]
BUCKET_BYTES = 100_000_000
T = TypeVar("T")
Rows = TypeVar("Rows", range, list[Any], np.ndarray)


def start_fabric(*, precision: Precision = "fp32", devices: int | None = None, num_nodes: int | None = None) -> Fabric:
    """Devices of a run. Under `torchrun` or `srun` this process is one of those that they started; alone it is the only one, or
    starts one more for each further device.

    Args:
        precision: of the forward pass; weights and optimizer are float32 in both cases.
        devices: on this node; None takes those of the launcher, or one.
        num_nodes: None takes those of the launcher, or one.

    Raises:
        InputError: devices that this machine does not have, that differ from the launcher's, or cannot compute in `precision`.
    """
    launched = _launched()
    if launched is not None and (devices or launched[0], num_nodes or launched[1]) != launched:
        raise InputError(
            f"started on {launched[1]} nodes with {launched[0]} processes each, but --devices {devices or launched[0]} "
            f"--num-nodes {num_nodes or launched[1]}; leave both out, the launcher decides"
        )
    per_node, nodes = launched or (devices or 1, num_nodes or 1)
    alone = per_node * nodes == 1
    try:
        fabric = Fabric(
            accelerator="auto",
            devices=per_node,
            num_nodes=nodes,
            strategy="auto" if alone else "ddp",
            precision={"fp32": "32-true", "bf16": "bf16-mixed"}[precision],  # type: ignore[arg-type]
            plugins=_environment(launched is not None, alone),  # type: ignore[arg-type]
        )
    except Exception as error:  # Lightning's own classes, one for each way to ask for too much
        raise InputError(f"{per_node} devices on {nodes} nodes: {str(error).splitlines()[0]}") from None
    if not alone:
        fabric.launch()
        # Gloo's threads that still run when the interpreter ends abort it, and a run that is done would seem to have failed;
        # Lightning does this for NCCL alone.
        atexit.register(_leave_group)
    _check_precision(precision, fabric.device)
    return fabric


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _launched() -> tuple[int, int] | None:
    """Processes per node and nodes that a launcher started, or None without one."""
    if dist.is_torchelastic_launched():
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return per_node, int(os.environ["WORLD_SIZE"]) // per_node
    num_tasks, nodes = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)), int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    if num_tasks % nodes:
        raise InputError(
            f"srun started {num_tasks} processes on {nodes} nodes; every node needs as many as the others: --ntasks-per-node"
        )
    return (num_tasks // nodes, nodes) if num_tasks > 1 else None


class _SlurmStep(SLURMEnvironment):
    """The processes of one `srun`, as `_launched` counts them.

    Lightning looks at the job instead: it refuses `srun -n 2`, does not see an `srun` within `salloc`, and looks for the first
    process on the first node of the job, though the step may have others.
    """

    @staticmethod
    def _validate_srun_variables() -> None: ...

    def validate_settings(self, num_devices: int, num_nodes: int) -> None: ...

    @property
    def main_address(self) -> str:
        nodes = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")
        return os.environ.setdefault("MASTER_ADDR", self.resolve_root_node_address(nodes))


def _environment(is_launched: bool, alone: bool) -> list[LightningEnvironment | SLURMEnvironment] | None:
    """Who says which process this is; None lets Fabric find out."""
    if is_launched and not dist.is_torchelastic_launched():
        return [_SlurmStep()]
    if alone or (not is_launched and "SLURM_JOB_ID" in os.environ):
        return [LightningEnvironment()]  # the process of a scheduler's job that is no rank, and may start ranks of its own
    return None


def _check_precision(precision: Precision, device: torch.device) -> None:
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(f"precision bf16: {torch.cuda.get_device_name(device)} does not compute in it; set precision: fp32")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, fabric: Fabric) -> "Ranks":
        return cls(fabric.global_rank, fabric.world_size)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """This rank's part of a batch, whose length is a multiple of the number of ranks: consecutive rows."""
        size = len(rows) // self.world_size
        return rows[self.rank * size : (self.rank + 1) * size]

    def gather(self, rows: Tensor) -> Tensor:
        """(b, ...) -> (W * b, ...): rows of all ranks; their gradients, summed over ranks, flow back to where a row came from.

        Where every rank computes one and the same loss of all rows, that sum is W times its gradient, which averaging the
        gradients of weights over ranks (`average_gradients`) makes exact again.
        """
        return rows if self.world_size == 1 else _Gather.apply(rows, self)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks, without gradient."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""
        if self.world_size == 1:
            return flag
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
        return bool(self.sum(torch.tensor(int(flag), device=device)))

    def collect(self, value: T) -> list[T]:
        """A small picklable value of every rank, for words rather than numbers of every step."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def first_of(self, words: str) -> str:
        """What the first rank that has something to say says; "" if none has. Cheap while there is nothing."""
        return next(filter(None, self.collect(words))) if self.any(bool(words)) else ""

    def wait(self) -> None:
        """For all ranks."""
        if self.world_size > 1:
            dist.barrier()


ONE_RANK = Ranks()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        parts = [torch.empty_like(rows) for _ in range(ranks.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(ctx.ranks.world_size)[ctx.ranks.rank], None


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], ranks: Ranks, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Replace every gradient by its mean over ranks.

    A parameter without a gradient counts as zero on that rank, and stays without one if no rank has one: the optimizer then
    leaves it alone everywhere.

    Args:
        parameters: the same ones, in the same order, on all ranks.
        ranks: nothing is done for one.
        bucket_bytes: gradients are sent together up to this much; few large messages are faster than many small ones.
    """
    if ranks.world_size == 1 or not parameters:
        return
    has_gradient = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    anywhere = ranks.sum(has_gradient.to(parameters[0].device)).tolist()
    gradients: list[Tensor] = []
    for parameter, count in zip(parameters, anywhere, strict=True):
        if count:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    for bucket in buckets(gradients, bucket_bytes):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        parts = (flat / ranks.world_size).split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [part.view_as(gradient) for part, gradient in zip(parts, bucket, strict=True)])


def buckets(tensors: Sequence[Tensor], bucket_bytes: int) -> Iterator[list[Tensor]]:
    """Tensors of one type, in order, up to so many bytes together; a larger one alone."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        for tensor in (tensor for tensor in tensors if tensor.dtype == dtype):
            if bucket and sum(other.nbytes for other in bucket) + tensor.nbytes > bucket_bytes:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket
