"""A display that remembers, and steps whose functions stand beside it."""

from radscale.execution import Step


class Recorder:
    """A display that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def started(self, step: Step) -> None:
        self.events.append(("started", step.name, ""))

    def waiting(self, step: Step) -> None:
        self.events.append(("waiting", step.name, ""))

    def progressed(self, step: Step, done: int, total: int, what: str) -> None:
        self.events.append(("progressed", step.name, what))

    def finished(self, step: Step, outcome: str, reason: str, seconds: float) -> None:
        self.events.append((outcome, step.name, reason))


def make_step(name: str, function: str = "write_text", inputs: list[Step] | None = None, **config: object) -> Step:
    return Step(
        name=name,
        function=f"steps_for_tests:{function}",
        config=config,
        inputs={step.name: step for step in inputs or []},
    )
