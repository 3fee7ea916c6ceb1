import os
from pathlib import Path

import numpy as np
import pytest

from radscale.errors import InputError
from radscale.training import ShuffledEpochs, cosine_schedule, linear_warmup_then_constant
from radscale.training.distributed import Ranks

DATA = Path(os.environ.get("RADSCALE_SHARED_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
FIXTURE = DATA / "dinov2_reference.safetensors"


@pytest.mark.shared_data
@pytest.mark.skipif(not FIXTURE.exists(), reason=f"{FIXTURE.name} not found; set RADSCALE_SHARED_DATA to its folder")
def test_schedules_are_dinov2s() -> None:
    """100 epochs of 1250 iterations, base 0.004 * sqrt 2, 10 epochs of warm-up, 30 of the temperature's."""
    from safetensors.numpy import load_file

    reference = load_file(FIXTURE)
    steps = reference["sched.iters"].astype(int)
    total = 100 * 1250
    inside = steps < total
    ours = {
        "lr": cosine_schedule(0.004 * 2**0.5, 1e-6, total, 10 * 1250),
        "wd": cosine_schedule(0.04, 0.4, total),
        "momentum": cosine_schedule(0.992, 1.0, total),
        "teacher_temp": linear_warmup_then_constant(0.04, 0.07, total, 30 * 1250),
    }
    for name, schedule in ours.items():
        np.testing.assert_allclose(schedule[steps[inside]], reference[f"sched.{name}"][inside], rtol=1e-12, err_msg=name)


def test_warm_up_must_fit() -> None:
    assert len(cosine_schedule(1.0, 0.0, 7, 7)) == 7
    with pytest.raises(InputError, match="warm-up of 8 steps in a run of 7"):
        cosine_schedule(1.0, 0.0, 7, 8)


def test_every_row_is_seen_equally_often_in_a_new_order_each_epoch() -> None:
    sampler = ShuffledEpochs(num_rows=10, batch_size=4, seed=0)
    seen = np.concatenate([sampler.batch(step) for step in range(5)])
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    late = ShuffledEpochs(10, 4, seed=0).batch(1000)
    sampler = ShuffledEpochs(10, 4, seed=0)
    for step in range(999):
        sampler.batch(step)
    np.testing.assert_array_equal(sampler.batch(1000), late)
    assert list(ShuffledEpochs(10, 4, seed=1).batch(1000)) != list(late)


def test_ranks_share_the_batch_that_one_would_have() -> None:
    sampler = ShuffledEpochs(num_rows=10, batch_size=6, seed=0)
    for step in (0, 1, 2, 77):  # the second and the last span two epochs
        whole = sampler.batch(step)
        shares = [Ranks(rank, 3).share(ShuffledEpochs(10, 6, seed=0).batch(step)) for rank in range(3)]
        assert np.concatenate(shares).tolist() == whole.tolist()


def test_epochs_are_numpys_permutations() -> None:
    """Runs that were begun with another version of this code go on in the same order."""
    np.testing.assert_array_equal(ShuffledEpochs(100, 100, seed=4).batch(2), np.random.default_rng([4, 2]).permutation(100))


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    counts = np.bincount(ShuffledEpochs(3, 7, seed=0).batch(0), minlength=3)
    assert sorted(counts) == [2, 2, 3]
