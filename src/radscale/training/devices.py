"""Where an encoder runs."""

import torch

from radscale.errors import InputError


def choose_device(device: str) -> torch.device:
    """ "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        InputError: another name, or a GPU that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise InputError(f"device is '{device}': choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch finds no GPU; use auto or cpu")
    return torch.device(device)
