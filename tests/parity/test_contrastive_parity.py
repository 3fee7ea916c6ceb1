"""The CLIP loss, and UniCL's special case of it, against transformers' CLIPModel (loss to 1e-6, gradients to 1e-5)."""

import pytest
import torch

from radscale.losses import clip_loss, unicl_loss, unique_pair_targets

transformers = pytest.importorskip("transformers")


def test_clip_and_unicl_without_labels_are_transformers_clip() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 50, "eos_token_id": 49},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    model = transformers.CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 49, (7, 5), generator=generator)
    tokens[:, -1] = 49
    out = model(input_ids=tokens, pixel_values=torch.randn(7, 3, 16, 16, generator=generator), return_loss=True)
    (expected,) = torch.autograd.grad(out.loss, model.logit_scale)
    for labels in (None, torch.zeros(7, dtype=torch.int64)):
        scale = model.logit_scale.detach().clone().requires_grad_()
        images, texts = out.image_embeds.detach(), out.text_embeds.detach()
        if labels is None:
            loss = clip_loss(images, texts, scale.exp())
        else:
            loss = unicl_loss(images, texts, unique_pair_targets(labels), scale.exp())
        loss.backward()
        torch.testing.assert_close(loss.detach(), out.loss.detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(scale.grad, expected, rtol=1e-5, atol=1e-8)
