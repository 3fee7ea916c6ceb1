import sys
from pathlib import Path

import pytest
from runner_doubles import Recorder

from radscale.execution import ArtifactStore

# Worker processes import the step functions of these tests by name.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def display() -> Recorder:
    return Recorder()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")
