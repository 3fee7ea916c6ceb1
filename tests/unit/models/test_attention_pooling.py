import math

import torch

from radscale.models.attention_pooling import AttentionPooling, attention_pool


def test_weighs_tokens_by_softmax_of_scaled_products():
    tokens = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    pooled = attention_pool(tokens, torch.tensor([[math.sqrt(2.0) * math.log(3.0) / 2, 0.0]]))
    # The products are log 3 and 0 after scaling by sqrt(2), so the weights are 3/4 and 1/4.
    torch.testing.assert_close(pooled, torch.tensor([[[1.5, 0.25]]]))


def test_zero_query_averages():
    tokens = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    pooled = AttentionPooling(num_tasks=2, width=4)(tokens)
    torch.testing.assert_close(pooled, tokens.mean(1, keepdim=True).expand(3, 2, 4))


def test_each_query_finds_its_own_token():
    tokens = 10 * torch.eye(4)[None]
    torch.testing.assert_close(attention_pool(tokens, 100 * torch.eye(4)[[2, 0]]), tokens[:, [2, 0]])


def test_order_of_tokens_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    tokens, queries = torch.randn(2, 6, 4, generator=generator), torch.randn(3, 4, generator=generator)
    torch.testing.assert_close(attention_pool(tokens.flip(1), queries), attention_pool(tokens, queries))
