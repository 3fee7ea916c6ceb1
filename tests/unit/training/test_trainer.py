"""The loop with an objective of one weight."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from radscale.training import LoopSettings, NonFiniteLossError, train


class Toy:
    """Pulls one weight to 1; `spoil` makes the loss or its gradient infinite at a step."""

    def __init__(self, spoil: str = "", at: int = -1) -> None:
        self.net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        nn.init.zeros_(self.net[0].weight)
        nn.init.ones_(self.net[1].weight)
        self.spoil, self.at = spoil, at

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.parameters()), "lr_multiplier": 1.0, "decays": False}]

    def to(self, device: torch.device) -> None:
        self.net.to(device)

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.net(torch.ones(1, 1)).sum()
        loss = (out - 1).square()
        if step == self.at:
            # sqrt(0) is finite and its slope is not.
            loss = loss + ((out - out).sqrt() if self.spoil == "gradient" else out * float("inf"))
        return loss, {"distance": (out - 1).detach()}

    def after_step(self, step: int) -> None: ...

    def evaluate(self, step: int) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"net": self.net.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])


def loop(steps: int = 6, **changes: Any) -> LoopSettings:
    return LoopSettings(learning_rate=np.full(steps, 0.1), weight_decay=np.zeros(steps), **changes)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_what_is_no_number_stops_before_the_weights_are_lost(spoil: str, clip_norm: float | None, tmp_path: Path) -> None:
    whole, spoilt = Toy(), Toy(spoil, at=3)
    train(whole, loop(3, clip_norm=clip_norm), work=tmp_path / "whole", identity="a")
    with pytest.raises(NonFiniteLossError, match=f"^{spoil} .* at step 3.*; try a lower learning rate$"):
        train(spoilt, loop(clip_norm=clip_norm), work=tmp_path / "spoilt", identity="a")
    assert all(torch.equal(a, b) for a, b in zip(spoilt.net.parameters(), whole.net.parameters(), strict=True))


def test_a_part_of_a_module_can_be_held_still(tmp_path: Path) -> None:
    toy = Toy()
    train(toy, loop(4, frozen={"net.1": 4}), work=tmp_path, identity="a")
    assert toy.net[1].weight.item() == 1
    assert toy.net[0].weight.item() > 0.1
    train(toy, loop(6, frozen={"net.1": 4}), work=tmp_path / "more", identity="a")
    assert toy.net[1].weight.item() != 1


def test_the_log_has_the_last_step(tmp_path: Path) -> None:
    result = train(Toy(), loop(13), work=tmp_path, identity="a")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"step": 10', '{"step": 13']
    assert result.last["loss"] == pytest.approx(result.last["distance"] ** 2, rel=1e-5)
