"""gradcheck finds wrong gradients and says where; it accepts right ones."""

import pytest

import tensorlite as tl
from tensorlite.autograd import Function, gradcheck, gradgradcheck
from tensorlite.autograd.gradcheck import GradcheckError


def leaf(*shape, dtype=tl.float64):
    return tl.rand(*shape, dtype=dtype).add_(0.5).requires_grad_()


class Wrong(Function):
    """x * x whose gradient is wrong in one element, by as much as asked for."""

    @staticmethod
    def forward(ctx, x, off):
        ctx.save_for_backward(x)
        ctx.off = off
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = x * 2
        slope = slope + ctx.off * (tl.arange(x.numel()).reshape(x.shape) == 4).to(x.dtype)
        return g * slope, None


def test_right_gradients_pass():
    x, w = leaf(3, 4), leaf(4, 2)
    assert gradcheck(lambda x, w: (x @ w).tanh(), (x, w))
    assert gradgradcheck(lambda x, w: (x @ w).tanh(), (x, w))
    assert gradcheck(lambda x: (x.exp(), x.sum(), x > 0), x)
    assert gradcheck(lambda x, n, t: x * n + t, (x, 3, tl.ones(4, dtype=tl.float64)))
    assert gradcheck(lambda x: x, x) and gradcheck(lambda x: x.t(), x)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("off", [1.0, 0.01, -3.0])
def test_one_wrong_element_is_found_and_named(off, fast):
    with pytest.raises(GradcheckError, match=r"1 of 6 elements differ, most of all \[1, 1\]"):
        gradcheck(lambda x: Wrong.apply(x, off), leaf(2, 3), fast_mode=fast)
    assert gradcheck(lambda x: Wrong.apply(x, off), leaf(2, 3), raise_exception=False) is False
    assert gradcheck(lambda x: Wrong.apply(x, 0.0), leaf(2, 3))


def test_the_message_names_input_and_output():
    with pytest.raises(GradcheckError, match="output 1 with respect to input 2"):
        gradcheck(lambda a, n, b: (a * b, a + Wrong.apply(b, 1.0)), (leaf(2, 3), 5, leaf(2, 3)))


def test_a_cut_tape_is_found():
    with pytest.raises(GradcheckError, match="jacobian mismatch"):
        gradcheck(lambda x: x * x.detach(), leaf(3))
    with pytest.raises(GradcheckError, match="does not require grad"):
        gradcheck(lambda x: x.detach() * 2, leaf(3))
    with pytest.raises(GradcheckError, match="jacobian mismatch"):
        gradgradcheck(lambda x: x * x.detach() * x, leaf(3))


def test_backward_must_be_repeatable():
    calls = []

    class Drifting(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            calls.append(1)
            return g * (2 + len(calls) * 1e-9)

    with pytest.raises(GradcheckError, match="not reentrant"):
        gradcheck(Drifting.apply, leaf(3))
    assert gradcheck(Drifting.apply, leaf(3), nondet_tol=1e-6)


def test_inputs_are_left_as_they_were():
    x = leaf(2, 3)
    before, version = x.tolist(), x._version
    gradcheck(lambda x: x.sin(), x)
    gradcheck(lambda x: Wrong.apply(x, 1.0), x, raise_exception=False)
    assert x.tolist() == before and x._version == version and x.grad is None


def test_what_cannot_be_checked():
    with pytest.raises(ValueError, match="at least one input"):
        gradcheck(lambda x: x, tl.ones(2, dtype=tl.float64))
    with pytest.warns(UserWarning, match="double precision"):
        gradcheck(lambda x: x * 2, leaf(2, dtype=tl.float32), eps=1e-2, atol=1e-2)
    with pytest.raises(RuntimeError, match="stride 0"):
        gradcheck(lambda x: x * 2, leaf(1).expand(3))
    with pytest.raises(NotImplementedError, match="check_forward_ad"):
        gradcheck(lambda x: x, leaf(2), check_forward_ad=True)
    with pytest.raises(NotImplementedError, match="check_fwd_over_rev"):
        gradgradcheck(lambda x: x, leaf(2), check_fwd_over_rev=True)


def test_given_grad_outputs():
    assert gradgradcheck(lambda x: x**3, leaf(3), leaf(3))
    assert gradgradcheck(lambda x: x**3, leaf(3), gen_non_contig_grad_outputs=True)
