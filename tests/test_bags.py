"""nn.EmbeddingBag beyond the op's own cases: the module, padding, frozen tables."""

import numpy as np

import tensorlite as tl
from tensorlite import nn


def test_the_module_is_its_table():
    bag = nn.EmbeddingBag(6, 2, mode="sum", padding_idx=-1)
    assert repr(bag) == "EmbeddingBag(6, 2, mode='sum', padding_idx=5)" and list(bag.state_dict()) == ["weight"]
    assert (bag.weight[5] == 0).all()
    with tl.no_grad():
        bag.weight[5] = 9.0
    y = bag(tl.tensor([1, 5, 5, 0, 1]), tl.tensor([0, 2, 3]))
    rows = bag.weight.detach().numpy()
    assert np.allclose(y.detach().numpy(), [rows[1], 0 * rows[0], rows[0] + rows[1]])
    y.sum().backward()
    assert bag.weight.grad.tolist() == [[1, 1], [2, 2], [0, 0], [0, 0], [0, 0], [0, 0]]


def test_padding_does_not_count():
    table = tl.tensor([[1.0], [-3.0], [-5.0]])
    for mode, wanted in (("mean", [-4.0, 0.0]), ("max", [-3.0, 0.0])):
        bag = nn.EmbeddingBag.from_pretrained(table, mode=mode, padding_idx=0)
        assert bag(tl.tensor([[0, 1, 2], [0, 0, 0]])).flatten().tolist() == wanted and not bag.weight.requires_grad
    assert nn.EmbeddingBag.from_pretrained(table, freeze=False).weight.requires_grad
