"""Started by `torchrun` in tests: what each rank found is written to OUT/rank=R.json, the trained weights to OUT/weights.pt."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.training import LoopSettings, Ranks, RunStopped, start_fabric, train
from radscale.training.distributed import average_gradients
from radscale.training.health import Observer

BATCH, STEPS = 8, 6


class Pairs:
    """Two towers with a contrastive loss of all rows, and a gate that only the rows of the first half use."""

    def __init__(self, ranks: Ranks = Ranks(), spoilt_rank: int | None = None, spoilt_step: int = 3) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = nn.ModuleDict({"left": nn.Linear(6, 4), "right": nn.Linear(6, 4)})
        self.gate = nn.Linear(6, 1, bias=False)
        for parameter in [*self.net.parameters(), *self.gate.parameters()]:
            nn.init.normal_(parameter, generator=generator)
        self.ranks, self.spoilt_rank, self.spoilt_step = ranks, spoilt_rank, spoilt_step

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "gate": self.gate}

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = [*self.net.parameters(), *self.gate.parameters()]
        return [{"params": parameters, "lr_multiplier": 1.0, "decays": True}]

    def to(self, device: torch.device) -> None: ...

    def rows(self, step: int) -> list[int]:
        return list(range(step * BATCH, (step + 1) * BATCH))

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        whole = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(step))
        mine = whole[list(self.ranks.share(range(BATCH)))]
        left, right = (self.ranks.gather(self.net[name](mine)) for name in ("left", "right"))
        logits, own_pair = left @ right.T, torch.arange(BATCH)
        # In both directions: a bias that moves all columns alike would have a gradient of rounding errors, which Adam enlarges.
        contrast = nn.functional.cross_entropy(logits, own_pair) + nn.functional.cross_entropy(logits.T, own_pair)
        own = mine.square().mean(dim=1)
        if self.ranks.rank == 0:
            count = min(len(mine), BATCH // 2)
            # A mean over all rows, of which this rank holds a part.
            gated = self.gate(mine[:count]).square().sum() / BATCH * self.ranks.world_size
            loss = contrast + gated
        else:
            loss = contrast
        if self.spoilt_rank == self.ranks.rank and step == self.spoilt_step:
            loss = loss * float("nan")
        return loss, {"contrast": contrast.detach(), "own": own.mean()}

    def after_step(self, step: int) -> None: ...

    def state(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "gate": self.gate.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.gate.load_state_dict(state["gate"])


def settings(steps: int = STEPS, **changes: Any) -> LoopSettings:
    rates = {"learning_rate": np.full(steps, 0.05), "weight_decay": np.full(steps, 0.1)}
    return LoopSettings(**{**rates, "clip_norm": 1.0, "images_per_step": BATCH, "log_every": 2, **changes})


def averaged(ranks: Ranks) -> dict[str, Any]:
    """Gradients r + 1 of rank r; the second parameter has one on rank 1 only, the third on none. Each bucket holds one."""
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(5))]
    parameters[0].grad = torch.full((3,), ranks.rank + 1.0)
    if ranks.rank == 1:
        parameters[1].grad = torch.full((2, 2), 4.0)
    average_gradients(parameters, ranks, bucket_bytes=8)
    return {"gradients": [None if p.grad is None else p.grad.tolist() for p in parameters]}


def failure(run: Any) -> str:
    try:
        run()
    except InputError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def main(out: Path) -> None:
    fabric = start_fabric()
    ranks = Ranks.of(fabric)
    found = averaged(ranks)
    objective = Pairs(ranks)
    train(objective, settings(), work=out / "work", identity={}, fabric=fabric)
    if ranks.is_first:
        torch.save(objective.state(), out / "weights.pt")

    def sample_ids(step: int) -> list[str]:
        return [f"image{row}" for row in ranks.share(objective.rows(step))]

    def spoilt() -> None:
        observer = Observer(sample_ids=sample_ids)
        train(Pairs(ranks, spoilt_rank=1), settings(), work=out / "bad", identity={}, fabric=fabric, observer=observer)

    found["non_finite"] = failure(spoilt)
    different = {"weights": f"w{ranks.rank}"}
    found["different"] = failure(lambda: train(Pairs(ranks), settings(), work=out / "d", identity=different, fabric=fabric))

    def leave(done: int, total: int, what: str) -> None:
        if done == 2 and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    try:
        train(Pairs(ranks), settings(), work=out / "s", identity={}, fabric=fabric, observer=Observer(progress=leave))
    except RunStopped as stopped:
        found["stopped"] = [stopped.reason, stopped.step]
    (out / f"rank={ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
