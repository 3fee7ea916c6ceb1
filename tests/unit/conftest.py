import pytest

from blob_dataset import ENCODER, write_dataset
from radscale.models import build_encoder
from radscale.training.checkpointing import save_checkpoint


@pytest.fixture(scope="session")
def blob_dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("probing") / "dataset")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probing") / "random-vit"
    save_checkpoint(folder, build_encoder(ENCODER, seed=0), info={"objective": "none"})
    return folder
