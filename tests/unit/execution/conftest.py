from pathlib import Path

import pytest
from runner_doubles import Recorder

from radscale.execution import ArtifactStore


@pytest.fixture
def display() -> Recorder:
    return Recorder()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")
