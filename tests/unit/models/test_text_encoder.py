"""Text tower and tokenizer: ids, truncation, padding, and a naive forward pass."""

import torch

from naive_encoders import naive_text
from radscale.models import ClipTokenizer, TextEncoder, TextEncoderConfig

CONFIG = TextEncoderConfig(width=16, depth=2, num_heads=2)


def tiny() -> TextEncoder:
    model = TextEncoder(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.double().eval()


def test_forward_is_the_naive_one_and_padding_changes_nothing() -> None:
    model, texts = tiny(), ["pleural effusion", "x-ray chest anteroposterior no acute cardiopulmonary process"]
    ids, mask = ClipTokenizer()(texts)
    with torch.no_grad():
        together = model.float()(ids, mask)
        zeros = model(torch.where(mask.bool(), ids, 0), mask)
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for row, tokens in enumerate(ids):
        expected = naive_text(state, tokens[mask[row].bool()].tolist(), CONFIG)
        torch.testing.assert_close(together[row].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(zeros, together, rtol=0, atol=0)


def test_tokenizer_gives_clips_ids_whatever_the_case_and_spacing() -> None:
    ids, mask = ClipTokenizer()(["a photo of a cat", "A  photo\nof a CAT"])
    assert ids[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert torch.equal(ids[0], ids[1])
    assert mask.all()


def test_a_long_text_keeps_its_head_and_the_end_token() -> None:
    tokenizer = ClipTokenizer()
    long = "effusion " * 200
    ids, mask = tokenizer([long, "clear"])
    assert ids.shape == (2, 77)
    assert ids[0].argmax() == 76
    assert mask.sum(1).tolist() == [77, 3]
    assert tokenizer.num_truncated([long, "clear"]) == 1
    assert tokenizer([""])[0].tolist() == [[49406, 49407]]
