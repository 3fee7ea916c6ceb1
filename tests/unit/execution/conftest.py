from pathlib import Path

import pytest

from radscale.execution import ArtifactStore
from runner_doubles import Recorder


@pytest.fixture
def display() -> Recorder:
    return Recorder()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")
