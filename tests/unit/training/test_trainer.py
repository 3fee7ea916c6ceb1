"""The loop with an objective of one weight."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.training import LoopSettings, NonFiniteLossError, RunStopped, train
from radscale.training.checkpointing import TrainingStates
from radscale.training.health import Observer
from radscale.training.stopping import WALL_CLOCK
from radscale.training.trainer import OutOfMemoryError, describe_changes


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
    train(whole, loop(3, clip_norm=clip_norm), work=tmp_path / "whole", identity={"seed": 0})
    with pytest.raises(NonFiniteLossError, match=f"^{spoil} .* at step 3.*; try a lower learning rate$"):
        train(spoilt, loop(clip_norm=clip_norm), work=tmp_path / "spoilt", identity={"seed": 0})
    assert all(torch.equal(a, b) for a, b in zip(spoilt.net.parameters(), whole.net.parameters(), strict=True))


def test_a_part_of_a_module_can_be_held_still(tmp_path: Path) -> None:
    toy = Toy()
    train(toy, loop(4, frozen={"net.1": 4}), work=tmp_path, identity={"seed": 0})
    assert toy.net[1].weight.item() == 1
    assert toy.net[0].weight.item() > 0.1
    train(toy, loop(6, frozen={"net.1": 4}), work=tmp_path / "more", identity={"seed": 0})
    assert toy.net[1].weight.item() != 1


def test_a_module_that_was_held_still_starts_slowly(tmp_path: Path) -> None:
    """AdamW's first steps are as long as the rate, whatever the gradient: the weight moves by 0, 1/4, 2/4, ... of it."""
    moved = [Toy().net[0].weight.item()]
    for steps in range(2, 8):
        toy = Toy()
        train(toy, loop(steps, frozen={"net": 2}, rise={"net": 4}), work=tmp_path / str(steps), identity={"seed": 0})
        moved.append(toy.net[0].weight.item())
    lengths = np.abs(np.diff(moved)) / 0.1
    np.testing.assert_allclose(lengths, [0, 0, 0.25, 0.5, 0.75, 1], atol=0.05)


def test_the_log_has_the_last_step(tmp_path: Path) -> None:
    position = train(Toy(), loop(13), work=tmp_path, identity={"seed": 0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"step": 1', '{"step": 10', '{"step": 13']
    assert position.last["loss"] == pytest.approx(position.last["distance"] ** 2, rel=1e-5)


def lines_of(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


def stop_at(step: int, number: signal.Signals = signal.SIGTERM) -> Observer:
    return Observer(progress=lambda done, total, what: signal.raise_signal(number) if done == step else None)


def test_a_line_of_the_log_says_how_the_run_is(tmp_path: Path) -> None:
    shown: list[str] = []
    observer = Observer(progress=lambda done, total, what: shown.append(what), input_facts=lambda: {"waiting_share": 0.25})
    train(Toy(), loop(4, log_every=2, images_per_step=8), work=tmp_path, identity={}, observer=observer)
    first = lines_of(tmp_path)[1]
    assert first.keys() >= {"step", "loss", "distance", "learning_rate", "gradient_norm/net", "images_per_second"}
    assert first["waiting_share"] == 0.25
    assert 0.05 < first["peak_memory_gb"] < 100
    assert first["gradient_norm/net"] > 0
    assert shown[0].startswith("steps, loss 1.000, ")
    assert "images/s, waiting 25%" in shown[-1]


class Watched(Toy):
    """An objective that can be evaluated and that has something to complain about."""

    def alarms(self, measurements: dict[str, float]) -> list[str]:
        if "distance" not in measurements:  # of an evaluation
            return []
        far = f"distance is {measurements['distance']:.3f}, which is far; raise learning_rate"
        return [far, "late: it is late; wait"] if measurements["loss"] < 0.3 else [far]

    def evaluate(self, step: int) -> dict[str, float]:
        return {"weight": self.net[0].weight.item()} if step % 3 == 0 else {}


def test_alarms_ring_once_per_kind(tmp_path: Path) -> None:
    said: list[str] = []
    train(Watched(), loop(8, log_every=1), work=tmp_path, identity={}, observer=Observer(say=said.append))
    assert said[0] == "step 1: distance is -1.000, which is far; raise learning_rate"
    assert said[1].endswith(": late: it is late; wait")
    assert [line["alarm"] for line in lines_of(tmp_path) if "alarm" in line] == [line.split(": ", 1)[1] for line in said]


def test_waiting_for_images_is_an_alarm(tmp_path: Path) -> None:
    said: list[str] = []
    observer = Observer(say=said.append, input_facts=lambda: {"waiting_share": 0.6})
    train(Toy(), loop(4, log_every=2), work=tmp_path, identity={}, observer=observer)
    assert len(said) == 1
    assert "waiting for images: 60% of the time; more CPU cores" in said[0]


def test_an_evaluation_is_made_before_during_and_after_and_its_time_is_not_training(tmp_path: Path) -> None:
    class Slow(Watched):
        def evaluate(self, step: int) -> dict[str, float]:
            time.sleep(0.1)
            return super().evaluate(step)

    with pytest.raises(RunStopped):
        train(Slow(), loop(7), work=tmp_path, identity={}, observer=stop_at(4))
    position = train(Slow(), loop(7), work=tmp_path, identity={})
    found = {line["step"]: line["weight"] for line in lines_of(tmp_path) if "weight" in line}
    assert list(found) == [0, 3, 6]
    assert found[6] > found[3] > found[0] == 0
    assert position.seconds < 0.3  # of 0.8 that were slept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_run_with_its_state_saved(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        pytest.skip("the tests were started with this signal ignored, as in the background of a shell")
    with pytest.raises(RunStopped) as stopped:
        train(Toy(), loop(6), work=tmp_path, identity={}, observer=stop_at(3, number))
    assert (stopped.value.reason, stopped.value.step, stopped.value.total_steps) == (number.name, 3, 6)
    assert stopped.value.by_the_user == (number == signal.SIGINT)
    assert signal.getsignal(number) == before
    assert [path.name for path in TrainingStates(tmp_path).paths()] == ["state.step=000000003.pt"]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(Toy(), loop(6), work=tmp_path, identity={}, observer=stop_at(3, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_ends_before_its_deadline_and_goes_on_later(tmp_path: Path) -> None:
    with pytest.raises(RunStopped) as stopped:
        train(Toy(), loop(6), work=tmp_path, identity={}, deadline=time.monotonic() + 5)  # saving may take 10
    assert (stopped.value.reason, stopped.value.step) == (WALL_CLOCK, 1)
    steps: list[int] = []
    observer = Observer(progress=lambda done, total, what: steps.append(done))
    train(Toy(), loop(6), work=tmp_path, identity={}, deadline=time.monotonic() + 1000, observer=observer)
    assert steps == [2, 3, 4, 5, 6]


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    train(Toy(), loop(6, save_every_seconds=-1.0, keep_states=2), work=tmp_path, identity={})
    assert [path.name for path in TrainingStates(tmp_path).paths()] == ["state.step=000000004.pt", "state.step=000000005.pt"]


def test_a_state_of_another_run_is_refused_replaced_or_discarded(tmp_path: Path) -> None:
    def run(identity: dict[str, Any], **changes: Any) -> list[int]:
        steps: list[int] = []
        observer = Observer(progress=lambda done, total, what: steps.append(done))
        train(Toy(), loop(5, log_every=1), work=tmp_path, identity=identity, observer=observer, **changes)
        return steps

    def stop() -> None:
        with pytest.raises(RunStopped):
            train(Toy(), loop(5), work=tmp_path, identity=old, observer=stop_at(3), earlier_state="discard")

    old, new = {"learning_rate": 0.001, "weights": "a" * 64}, {"learning_rate": 0.0003, "weights": "b" * 64}
    stop()
    refusal = r"step 3 of another run \(learning_rate: 0.001 -> 0.0003; weights: changed\); take back .* or add --restart"
    with pytest.raises(InputError, match=refusal):
        run(new)
    assert run(old) == [4, 5]
    stop()
    assert run(new, earlier_state="resume_or_restart") == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4, 5]
    stop()
    assert run(old, earlier_state="discard") == [1, 2, 3, 4, 5]


def test_at_most_four_changes_are_named() -> None:
    before, now = (dict.fromkeys("abcdef", value) for value in (1, 2))
    assert describe_changes(before, now) == "a: 1 -> 2; b: 1 -> 2; c: 1 -> 2; d: 1 -> 2; and 2 more"
    assert describe_changes({"a": 1}, {"a": 1, "b": 2}) == "b: none -> 2"


def test_samples_of_a_bad_step_are_named_and_written(tmp_path: Path) -> None:
    observer = Observer(sample_ids=lambda step: [f"{step}-{index}" for index in range(7)])
    expected = r"at step 3 with images 3-0, 3-1, 3-2, 3-3, 3-4 and 2 more, all in non_finite.json; try"
    with pytest.raises(NonFiniteLossError, match=expected):
        train(Toy("loss", at=3), loop(), work=tmp_path, identity={}, observer=observer)
    assert json.loads((tmp_path / "non_finite.json").read_text())["sample_ids"][-1] == "3-6"


def test_too_little_memory_is_one_line_with_what_helps(tmp_path: Path) -> None:
    class Large(Toy):
        def loss(self, step: int) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match=r"^out of memory on cpu with 64 images per device; set loop.activation_checkp"):
        train(Large(), loop(images_per_step=64), work=tmp_path, identity={})


def test_a_full_disk_is_the_systems_error_and_leaves_the_older_state(tmp_path: Path) -> None:
    """A file may grow to 20 kB only: states do not fit any more after the first one."""
    limit = 20_000
    script = f"""
        import resource, sys, torch
        from pathlib import Path
        from radscale.training.checkpointing import TrainingStates
        states = TrainingStates(Path({str(tmp_path)!r}))
        states.save(1, {{"weights": torch.ones(100)}})
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            states.save(2, {{"weights": torch.ones(100_000)}})
        except OSError as error:
            print(error.errno, len(str(error).splitlines()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["28", "1"]
    assert [path.name for path in tmp_path.iterdir()] == ["state.step=000000001.pt"]
    state = TrainingStates(tmp_path).newest()
    assert state is not None
    assert torch.equal(state["weights"], torch.ones(100))


def test_tensorboard_that_is_missing_is_said_and_has_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(InputError, match=r"pip install 'radscale\[tensorboard\]'"):
            train(Toy(), loop(tensorboard=True), work=tmp_path, identity={})
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (folder, purge_step) == (str(tmp_path / "tensorboard"), 1)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type("Module", (), {"SummaryWriter": Writer}))
    settings = loop(4, log_every=2, tensorboard=True)
    train(Watched(), settings, work=tmp_path, identity={}, observer=Observer(say=lambda line: None))
    assert {name for name, _, _ in written} >= {"loss", "distance", "weight", "learning_rate", "closed"}
    losses = {step: value for name, value, step in written if name == "loss"}
    assert losses == {line["step"]: pytest.approx(line["loss"], rel=1e-5) for line in lines_of(tmp_path) if "loss" in line}


def test_tensorboard_reads_each_step_once_after_a_run_was_killed_and_resumed(tmp_path: Path) -> None:
    """The state is of step 4, and steps 5 and 6 were logged before the run was killed: they are not shown twice."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")

    class Killed(Toy):
        def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            if step == 6:
                raise KeyboardInterrupt
            if step == 4:
                shutil.copytree(tmp_path, copy)  # with the state of step 4
            return super().loss(step)

    copy = tmp_path.with_name("copy")
    settings = loop(8, log_every=1, tensorboard=True, save_every_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(Killed(), settings, work=tmp_path, identity={})
    for state in TrainingStates(tmp_path).paths():
        state.unlink()
    for state in TrainingStates(copy).paths():
        shutil.copy(state, tmp_path)
    assert [path.name for path in TrainingStates(tmp_path).paths()] == ["state.step=000000004.pt"]
    train(Toy(), settings, work=tmp_path, identity={})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "distance", "learning_rate", "gradient_norm/net"):
        assert [event.step for event in events.Scalars(name)] == list(range(1, 9)), name
    expected = [line["loss"] for line in lines_of(tmp_path) if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(expected, rel=1e-5)
