"""vision.transforms: values against NumPy and Pillow; the three kinds of images; chance and seeds."""

import colorsys
import statistics
from collections import Counter

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import GradError
from tensorlite.ops import philox
from tensorlite.utils.data import DataLoader
from tensorlite.vision import transforms as T
from tensorlite.vision.transforms import chance, functional as F

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 9), np.uint8)
RGB = RNG.integers(0, 256, (8, 6, 3), np.uint8)
FLOAT = RNG.random((6, 7, 3))


def chw(array):
    return np.array(array if array.ndim == 2 else array.transpose(2, 0, 1))


def kinds(array):
    """The same uint8 image as an array, a tensor, a batch of one, and Pillow's image."""
    found = [array, tl.tensor(chw(array)), tl.tensor(chw(array)[None])]
    try:
        from PIL import Image
    except ImportError:
        return found
    return [*found, Image.fromarray(array)]


def values(img, like):
    """Any kind of image as an array (H, W[, C])."""
    array = np.asarray(img) if not isinstance(img, tl.Tensor) else img.numpy()
    if isinstance(img, tl.Tensor):
        array = array.reshape(array.shape[-like.ndim :])
        array = array if like.ndim == 2 else array.transpose(1, 2, 0)
    return array


# ---- every transform, every kind of image
STEPS = [
    T.CenterCrop(5),
    T.CenterCrop((12, 3)),
    T.Pad((1, 2, 3, 0), fill=7),
    T.Pad(2, padding_mode="reflect"),
    T.Resize((4, 5), "nearest-exact"),
    T.RandomCrop(5),
    T.RandomCrop((6, 4), padding=2, padding_mode="edge"),
    T.RandomCrop(14, pad_if_needed=True, fill=9),
    T.RandomHorizontalFlip(),
    T.RandomVerticalFlip(),
    T.RandomRotation(30),
    T.RandomRotation((10, 90), "bilinear", expand=True, fill=3),
    T.RandomAffine(20, (0.2, 0.1), (0.8, 1.2), 10, fill=5),
    T.RandomErasing(1.0, value=6),
    T.ColorJitter(0.4, 0.4, 0.4, 0.2),
    T.RandomGrayscale(0.0),
    T.RandomApply([T.Pad(1), T.RandomVerticalFlip(0.5)], 0.5),
    T.RandomChoice([T.Pad(1), T.CenterCrop(3)]),
    T.RandomOrder([T.Pad(2), T.CenterCrop(6)]),
    T.Lambda(lambda img: img),
]


@pytest.mark.parametrize("image", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_kinds_agree_and_seeds_decide(step, image):
    """One seed gives one result, whatever the kind; the kind stays; what was given is not changed."""
    for seed in range(6):
        results = []
        for img in kinds(image):
            tl.manual_seed(seed)
            out = step(img)
            assert type(out) is type(img)
            results.append(values(out, image))
            np.testing.assert_array_equal(values(img, image), image)
            tl.manual_seed(seed)
            np.testing.assert_array_equal(values(step(img), image), results[-1])
        for other in results:
            assert other.dtype == np.uint8
            np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("step", [s for s in STEPS if "Random" in repr(s) or "Jitter" in repr(s)], ids=repr)
def test_seeds_differ(step):
    def run(seed):
        tl.manual_seed(seed)
        return [np.asarray(step(RGB)).tobytes() for _ in range(3)]

    different = {tuple(run(seed)) for seed in range(8)}
    assert len(different) == 1 if "p=0.0" in repr(step) else len(different) > 3


def test_in_a_loader():
    """Random transforms move the generator on, and a seed brings an epoch again."""
    step = T.Compose([T.RandomCrop(28, padding=4), T.RandomHorizontalFlip(), T.ToTensor()])
    images = tl.vision.datasets.FakeData(20, (1, 28, 28), transform=step)

    def epoch(seed=None):
        if seed is not None:
            tl.manual_seed(seed)
        return tl.cat([x for x, _ in DataLoader(images, batch_size=8, shuffle=True)])

    first, more = epoch(5), epoch()
    assert first.shape == (20, 1, 28, 28)
    assert not tl.equal(first, more) and tl.equal(epoch(5), first) and tl.equal(epoch(), more)


def test_what_is_no_image():
    for wrong in ("a", 3, np.zeros(3), np.zeros((1, 1, 1, 1)), tl.zeros(3), [[1]]):
        with pytest.raises(TypeError, match="hflip: "):
            F.hflip(wrong)
    grad = tl.zeros(3, 4, 4, requires_grad=True)
    with pytest.raises(GradError, match=r"pad: .*wanted image.detach\(\)"):
        F.pad(grad, 1)
    with tl.no_grad():
        assert F.pad(grad, 1).shape == (3, 6, 6)
    assert F.hflip(grad).requires_grad  # a flip is an op
    image = pytest.importorskip("PIL.Image")
    with pytest.raises(TypeError, match="an image of mode P"):
        F.hflip(image.fromarray(GREY).convert("P"))


def test_sizes():
    for img, size in zip(kinds(RGB), [[3, 8, 6]] * 4):
        assert F.get_dimensions(img) == size
        assert F.get_image_size(img) == [6, 8] and F.get_image_num_channels(img) == 3
    assert F.get_dimensions(GREY) == [1, 7, 9]


# ---- conversion
def test_to_tensor():
    x = T.ToTensor()(RGB)
    assert x.dtype is tl.float32 and x.is_contiguous()
    np.testing.assert_array_equal(x.numpy(), chw(RGB).astype(np.float32) / np.float32(255))
    assert T.ToTensor()(GREY).shape == (1, 7, 9)
    kept = T.ToTensor()(FLOAT)
    assert kept.dtype is tl.float64 and np.array_equal(kept.numpy(), chw(FLOAT))
    kept[0, 0, 0] = 9.0
    assert FLOAT[0, 0, 0] != 9.0  # a copy
    with pytest.raises(TypeError, match="pic should be PIL Image or ndarray"):
        T.ToTensor()(x)
    with pytest.raises(ValueError, match=r"pic should be 2/3 dimensional\. Got 1"):
        T.ToTensor()(np.zeros(3))
    tl.set_default_dtype(tl.float64)
    try:
        assert T.ToTensor()(GREY).dtype is tl.float64
    finally:
        tl.set_default_dtype(tl.float32)


def test_pil_to_tensor():
    x = T.PILToTensor()(RGB)
    assert x.dtype is tl.uint8 and np.array_equal(x.numpy(), chw(RGB))
    with pytest.raises(TypeError, match="pic should be"):
        T.PILToTensor()(x)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I", "I;16", "F"])
def test_pillow_and_back(mode):
    image = pytest.importorskip("PIL.Image")
    img = image.fromarray(RGB).convert("L" if mode == "I;16" else mode).convert(mode)
    x = T.PILToTensor()(img)
    assert x.shape[-2:] == (8, 6) and len(x) == len(img.getbands())
    assert np.asarray(F.hflip(img)).tolist() == np.asarray(img)[:, ::-1].tolist() and F.hflip(img).mode == mode
    if mode not in ("1", "I;16"):
        back = T.ToPILImage("F" if mode == "F" else None)(x)
        assert back.mode == mode and back.tobytes() == img.tobytes()
    if mode in ("1", "L", "RGB"):
        assert tl.equal(T.ToTensor()(img), x / (255.0 if mode != "1" else 1.0))


def test_to_pillow():
    image = pytest.importorskip("PIL.Image")
    assert T.ToPILImage()(tl.tensor([[[0.0, 0.5, 1.0]]])).tobytes() == bytes([0, 127, 255])
    for array, mode in ((GREY, "L"), (RGB, "RGB"), (GREY.astype(np.int32), "I"), (GREY.astype(np.float32), "F")):
        img = T.ToPILImage()(array)
        assert isinstance(img, image.Image) and img.mode == mode and np.array_equal(np.asarray(img), array)
    assert F.to_pil_image(GREY.astype(np.int16)).mode == "I;16"
    assert F.to_pil_image(RGB, "HSV").mode == "HSV" and F.to_pil_image(tl.tensor(GREY)).size == (9, 7)
    assert repr(T.ToPILImage("L")) == "ToPILImage(mode=L)"
    for error, wrong in (
        (TypeError, "a"), (ValueError, np.zeros(3)), (ValueError, np.zeros((2, 2, 5), np.uint8)),
        (TypeError, FLOAT), (TypeError, GREY.astype(np.float64)),
    ):  # fmt: skip
        with pytest.raises(error, match="to_pil_image: "):
            F.to_pil_image(wrong)
    with pytest.raises(ValueError, match="mode 'L' for 3 channels"):
        F.to_pil_image(RGB, "L")


@pytest.mark.parametrize(
    "source, target, given, wanted",
    [
        (tl.uint8, tl.float32, [0, 51, 255], [0, 0.2, 1]),
        (tl.int16, tl.float64, [0, 32767], [0, 1]),
        (tl.float32, tl.uint8, [0, 0.5, 0.999, 1], [0, 127, 255, 255]),
        (tl.float32, tl.float64, [0.5], [0.5]),
        (tl.uint8, tl.int16, [0, 255], [0, 32640]),
        (tl.int32, tl.uint8, [0, 2**31 - 1], [0, 255]),
        (tl.uint8, tl.uint8, [3], [3]),
    ],
)
def test_convert_image_dtype(source, target, given, wanted):
    x = T.ConvertImageDtype(target)(tl.tensor([given], dtype=source))
    assert x.dtype is target
    np.testing.assert_allclose(x.numpy(), [wanted], rtol=1e-6)
    again = F.convert_image_dtype(np.array([given], source.np), target)
    assert type(again) is np.ndarray and np.array_equal(again, x.numpy())


def test_convert_that_is_not_safe():
    for source, target in ((tl.float32, tl.int32), (tl.float32, tl.int64), (tl.float64, tl.int64)):
        with pytest.raises(RuntimeError, match="cannot be performed safely"):
            F.convert_image_dtype(tl.zeros(1, 1, dtype=source), target)


def test_normalize():
    x = tl.rand(2, 3, 4, 5)
    mean, std = [0.1, 0.2, 0.3], (0.5, 0.25, 2.0)
    wanted = (x.numpy() - np.reshape(np.float32(mean), (3, 1, 1))) / np.reshape(np.float32(std), (3, 1, 1))
    got = T.Normalize(mean, std)(x)
    np.testing.assert_array_equal(got.numpy(), wanted)
    assert np.array_equal(F.normalize(x, tl.tensor(mean), np.array(std)).numpy(), wanted)
    y = x.clone()
    assert T.Normalize(mean, std, inplace=True)(y) is y and tl.equal(y, got) and not tl.equal(x, got)
    grad = tl.rand(3, 2, 2, requires_grad=True)
    T.Normalize(mean, std)(grad).sum().backward()
    np.testing.assert_allclose(grad.grad[:, 0, 0].numpy(), [2, 4, 0.5])
    for error, wrong in ((TypeError, RGB), (TypeError, tl.ones(3, 2, 2, dtype=tl.uint8)), (ValueError, tl.ones(2, 2))):
        with pytest.raises(error, match="normalize: "):
            F.normalize(wrong, mean, std)
    with pytest.raises(ValueError, match="division by zero"):
        F.normalize(x, mean, [1, 0, 1])


# ---- cut, fill up, flip
def test_crop():
    wide = np.pad(GREY, 20)
    for top, left, h, w in ((0, 0, 7, 9), (2, 3, 4, 5), (-2, -3, 5, 5), (5, 6, 9, 9), (-4, 2, 15, 3), (-9, 0, 3, 3)):
        np.testing.assert_array_equal(F.crop(GREY, top, left, h, w), wide[20 + top :, 20 + left :][:h, :w])
    assert F.crop(tl.tensor(chw(RGB)), 1, 2, 3, 4).shape == (3, 3, 4)


def test_center_crop():
    np.testing.assert_array_equal(F.center_crop(GREY, 3), GREY[2:5, 3:6])
    np.testing.assert_array_equal(F.center_crop(GREY, [7, 4]), GREY[:, 2:6])  # 2.5 is rounded to the even number
    np.testing.assert_array_equal(F.center_crop(GREY, (10, 12)), np.pad(GREY, ((1, 2), (1, 2))))
    np.testing.assert_array_equal(F.center_crop(GREY, (8, 3)), np.pad(GREY, ((0, 1), (0, 0)))[:, 3:6])
    with pytest.raises(ValueError, match="CenterCrop: size"):
        T.CenterCrop((1, 2, 3))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("padding", [3, [2], (1, 2), (3, 0, 1, 4), 0])
def test_pad(mode, padding):
    left, top, right, bottom = [padding] * 4 if isinstance(padding, int) else list(padding) * (4 // len(padding))
    options = {"constant_values": 5} if mode == "constant" else {}
    wanted = np.pad(GREY, ((top, bottom), (left, right)), mode=mode, **options)
    np.testing.assert_array_equal(F.pad(GREY, padding, 5, mode), wanted)


def test_pad_of_channels_and_refusals():
    got = F.pad(RGB, 1, fill=(1, 2, 3))
    assert got[0, 0].tolist() == [1, 2, 3] and np.array_equal(got[1:-1, 1:-1], RGB)
    assert F.pad(tl.tensor(chw(RGB)), 1, fill=[4])[:, 0, 0].tolist() == [4, 4, 4]
    for error, wrong in (
        (ValueError, dict(padding=(1, 2, 3))), (ValueError, dict(padding=-1)), (TypeError, dict(padding="1")),
        (ValueError, dict(padding=1, padding_mode="wrap")), (TypeError, dict(padding=1, fill=(1, 2))),
        (TypeError, dict(padding=1.5)),
    ):  # fmt: skip
        with pytest.raises(error, match="pad: "):
            F.pad(RGB, **wrong)


def test_flips():
    assert F.hflip([GREY][0]).tolist() == [row[::-1] for row in GREY.tolist()]
    assert F.vflip(GREY).tolist() == GREY.tolist()[::-1]
    assert F.hflip(tl.arange(12).reshape(1, 2, 2, 3))[0, 1].tolist() == [[8, 7, 6], [11, 10, 9]]


def test_erase():
    x = tl.tensor(chw(RGB))
    y = F.erase(x, 1, 2, 3, 2, 0)
    assert y[:, 1:4, 2:4].sum() == 0 and tl.equal(x, tl.tensor(chw(RGB)))
    assert F.erase(x, 0, 0, 1, 1, np.array([1, 2, 3])[:, None, None], inplace=True) is x
    assert x[:, 0, 0].tolist() == [1, 2, 3]
    array = RGB.copy()
    assert F.erase(array, 0, 0, 2, 2, 9, inplace=True) is array and (array[:2, :2] == 9).all()


def test_whose_memory_it_is():
    """A cut of a tensor is a view that autograd knows; a flip is new; an erasure in place counts as a write."""
    x = tl.zeros(3, 4, 4)
    F.crop(x, 1, 1, 2, 2).add_(1)
    assert x.sum() == 12
    F.hflip(x).add_(1), F.vflip(x).add_(1), F.pad(x, 0).add_(1), F.erase(x, 0, 0, 1, 1, 5)
    assert x.sum() == 12
    version = x._version
    F.erase(x, 0, 0, 1, 1, 5, inplace=True)
    assert x._version > version and x.sum() == 27


@pytest.mark.parametrize("value", [0.5, 256, -1, (1, 2, 300)])
def test_values_that_an_image_cannot_hold(value):
    for act in (
        lambda: F.pad(RGB, 1, value),
        lambda: F.rotate(RGB, 9, fill=value),
        lambda: T.RandomErasing(1.0, value=value)(RGB),
    ):
        with pytest.raises(ValueError, match="in an image of uint8; wanted what that can hold"):
            act()
    assert F.pad(FLOAT, 1, 0.5)[0, 0].tolist() == [0.5] * 3


# ---- colours
def test_grey():
    got = F.rgb_to_grayscale(RGB)
    assert got.shape == (8, 6) and got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.floor(RGB @ np.array([0.2989, 0.587, 0.114]) + 1e-5))
    assert np.array_equal(F.to_grayscale(RGB, 3), np.stack([got] * 3, -1))
    x = T.Grayscale(3)(tl.tensor(chw(RGB)))
    assert x.shape == (3, 8, 6) and np.array_equal(x[1].numpy(), got)
    assert T.Grayscale()(tl.tensor(chw(RGB))[None]).shape == (1, 1, 8, 6)
    assert np.array_equal(F.rgb_to_grayscale(GREY), GREY)
    image = pytest.importorskip("PIL.Image")
    pil = F.rgb_to_grayscale(image.fromarray(RGB))
    assert pil.mode == "L" and abs(np.asarray(pil).astype(int) - got).max() <= 1
    assert F.rgb_to_grayscale(image.fromarray(RGB), 3).mode == "RGB"
    for error, call in (
        (ValueError, lambda: F.rgb_to_grayscale(RGB, 2)),
        (TypeError, lambda: F.rgb_to_grayscale(RGB[..., :2])),
    ):
        with pytest.raises(error, match="rgb_to_grayscale: "):
            call()


@pytest.mark.parametrize(
    "name, enhance", [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")]
)
def test_colours_as_pillow_does(name, enhance):
    image, enhancers = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageEnhance")
    adjust = getattr(F, f"adjust_{name}")
    for factor in (0.0, 0.4, 1.0, 1.7):
        wanted = np.asarray(getattr(enhancers, enhance)(image.fromarray(RGB)).enhance(factor)).astype(int)
        assert abs(adjust(RGB, factor) - wanted).max() <= 1
        x = adjust(tl.tensor(chw(FLOAT)), factor)
        assert x.dtype is tl.float64 and x.min() >= 0 and x.max() <= 1
    np.testing.assert_array_equal(adjust(RGB, 1.0), RGB)
    assert adjust(GREY, 0.5).shape == GREY.shape
    with pytest.raises(ValueError, match="is not non-negative"):
        adjust(RGB, -0.1)


def test_hue():
    for factor in (-0.5, -0.2, 0.0, 0.1, 0.5):
        got = F.adjust_hue(FLOAT.astype(np.float32), factor)
        for i in range(6):
            for j in range(7):
                h, s, v = colorsys.rgb_to_hsv(*FLOAT[i, j])
                np.testing.assert_allclose(got[i, j], colorsys.hsv_to_rgb((h + factor) % 1, s, v), atol=2e-6)
    assert abs(F.adjust_hue(RGB, 0.0) - RGB.astype(int)).max() <= 1
    assert F.adjust_hue(GREY, 0.3) is GREY
    flat = np.full((2, 2, 3), 77, np.uint8)
    np.testing.assert_array_equal(F.adjust_hue(flat, 0.3), flat)
    with pytest.raises(ValueError, match="is not in"):
        F.adjust_hue(RGB, 0.6)


# ---- chance
def test_draws_are_the_generator_s():
    """The numbers are Philox words of one call of the generator each, whichever were made together."""
    for seed, call in ((0, 0), (7, 255), (7, 256), (-3, 2**33 + 5)):
        tl.set_rng_state(tl.tensor(np.array([seed, call]).view(np.uint8)))
        got = [chance.draw() for _ in range(3)]
        for k, row in enumerate(got):
            key = np.array([seed, call + k])
            assert row == philox.uniform(np, key, 4, 32).tolist()
    state = tl.get_rng_state()
    once = chance.draw()
    tl.rand(3)
    tl.set_rng_state(state)
    assert chance.draw() == once


def test_flip_probability():
    image = np.array([[0, 1]], np.uint8)
    for p, low, high in ((0.0, 0, 0), (1.0, 2000, 2000), (0.3, 520, 680)):  # four deviations of 20 each
        for kind in (T.RandomHorizontalFlip(p), T.RandomVerticalFlip(p)):
            img = image if "Horizontal" in repr(kind) else image.T
            assert low <= sum(int(kind(img).ravel()[0]) for _ in range(2000)) <= high


def test_random_crop_reaches_every_place():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    seen = Counter(int(T.RandomCrop((2, 3))(image)[0, 0]) for _ in range(900))
    assert set(seen) == {0, 1, 2, 5, 6, 7, 10, 11, 12} and min(seen.values()) > 55
    assert T.RandomCrop(4, pad_if_needed=True)(image[:2, :2]).shape == (4, 4)
    assert T.RandomCrop.get_params(image, (4, 5)) == (0, 0, 4, 5)
    with pytest.raises(ValueError, match=r"Required crop size \(5, 5\) is larger than input image size \(4, 5\)"):
        T.RandomCrop(5)(image)


def test_random_resized_crop():
    image = tl.zeros(3, 40, 60)
    shares, ratios = [], []
    for _ in range(300):
        top, left, h, w = T.RandomResizedCrop.get_params(image, (0.2, 0.5), (0.5, 2.0))
        assert 0 <= top <= 40 - h and 0 <= left <= 60 - w and h > 0 and w > 0
        shares.append(h * w / 2400)
        ratios.append(w / h)
    assert 0.18 < min(shares) < 0.25 and 0.45 < max(shares) < 0.53
    assert 0.48 < min(ratios) < 0.6 and 1.7 < max(ratios) < 2.1 and 0.85 < statistics.median(ratios) < 1.3
    assert T.RandomResizedCrop((8, 9))(image).shape == (3, 8, 9)
    # none fits: the largest one in the middle
    assert T.RandomResizedCrop.get_params(image, (1.0, 1.0), (0.1, 0.1)) == (0, 28, 40, 4)
    assert T.RandomResizedCrop.get_params(image, (1.0, 1.0), (3, 3)) == (10, 0, 20, 60)
    for wrong in (dict(scale=(0.5, 0.2)), dict(ratio=(2, 1)), dict(scale=(-1, 1))):
        with pytest.raises(ValueError, match="wanted"):
            T.RandomResizedCrop(5, **wrong)


def test_random_erasing():
    x = tl.ones(3, 20, 20)
    for _ in range(50):
        y = T.RandomErasing(1.0, scale=(0.1, 0.2), ratio=(0.5, 2.0), value=(2, 3, 4))(x)
        rows, columns = np.nonzero(y[0].numpy() == 2)
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == h * w and 30 <= h * w <= 90 and 0.4 < h / w < 2.5
        assert y.sum((1, 2)).tolist() == [400 + h * w * k for k in (1, 2, 3)]
    assert T.RandomErasing(0.0)(x) is x and float(x.sum()) == 1200
    for img in kinds(RGB):
        with pytest.raises(TypeError, match="wanted floats: ToTensor first"):
            T.RandomErasing(1.0, value="random")(img)
    noise = T.RandomErasing(1.0, value="random")(x)
    assert len(np.unique(noise.numpy())) > 20
    assert T.RandomErasing(1.0, inplace=True)(x) is x and float(x.sum()) < 1200
    for wrong in (dict(value="zeros"), dict(p=2), dict(scale=(0.5, 0.1))):
        with pytest.raises(ValueError):
            T.RandomErasing(**wrong)
    with pytest.raises(ValueError, match="for 3 channels"):
        T.RandomErasing(1.0, value=(1, 2))(x)


def test_random_turns_stay_in_their_limits():
    angles = [T.RandomRotation.get_params((-10, 30)) for _ in range(300)]
    assert -10 <= min(angles) < -8 and 28 < max(angles) <= 30
    marked = np.zeros((21, 21), np.uint8)
    marked[10, 10] = 1
    places = {tuple(np.argwhere(T.RandomAffine(0, (0.1, 0.2))(marked))[0]) for _ in range(300)}
    assert {i for i, _ in places} == set(range(6, 15)) and {j for _, j in places} == set(range(8, 13))
    for wrong in (
        dict(degrees=-1),
        dict(degrees=(3, 1)),
        dict(degrees=0, translate=(2, 0)),
        dict(degrees=0, scale=(0, 1)),
    ):
        with pytest.raises(ValueError):
            T.RandomAffine(**wrong)


def test_choices():
    plus = [T.Lambda(lambda x, k=k: x + k) for k in (1, 10, 100)]
    assert set(Counter(T.RandomChoice(plus)(0) for _ in range(100))) == {1, 10, 100}
    assert set(Counter(T.RandomChoice(plus, p=[0, 1, 3])(0) for _ in range(100))) == {10, 100}
    assert {T.RandomApply(plus, 0.5)(0) for _ in range(50)} == {0, 111}
    twice = [T.Lambda(lambda x: 2 * x), T.Lambda(lambda x: x + 1)]
    assert {T.RandomOrder(twice)(1) for _ in range(50)} == {3, 4}
    assert T.Compose([])(5) == 5
    with pytest.raises(ValueError, match="wanted a weight for each"):
        T.RandomChoice(plus, p=[1])
    with pytest.raises(TypeError, match="should be callable"):
        T.Lambda(3)


def test_jitter():
    limits = [(T.ColorJitter(0.3).brightness, (0.7, 1.3)), (T.ColorJitter(contrast=2).contrast, (0.0, 3.0))]
    limits += [(T.ColorJitter(hue=0.1).hue, (-0.1, 0.1)), (T.ColorJitter(saturation=(1, 2)).saturation, (1, 2))]
    assert all(np.allclose(got, wanted) for got, wanted in limits)
    assert T.ColorJitter()(RGB) is RGB
    darker = [float(T.ColorJitter((0.5, 0.6))(FLOAT).max() / FLOAT.max()) for _ in range(40)]
    assert 0.5 <= min(darker) < 0.52 and 0.58 < max(darker) <= 0.6
    for wrong in (dict(brightness=-1), dict(hue=0.7), dict(contrast=(2, 1)), dict(hue=(-0.6, 0))):
        with pytest.raises(ValueError, match="ColorJitter: "):
            T.ColorJitter(**wrong)


def test_texts():
    assert repr(T.Compose([T.ToTensor(), T.Normalize((0.5,), (0.5,))])) == (
        "Compose(\n    ToTensor()\n    Normalize(mean=(0.5,), std=(0.5,))\n)"
    )
    for step, text in (
        (T.RandomCrop(32, padding=4), "RandomCrop(size=(32, 32), padding=4)"),
        (T.RandomHorizontalFlip(), "RandomHorizontalFlip(p=0.5)"),
        (T.Resize(8), "Resize(size=8, interpolation=bilinear, max_size=None, antialias=True)"),
        (T.RandomRotation(10), "RandomRotation(degrees=[-10.0, 10.0], interpolation=nearest, expand=False, fill=0)"),
        (T.ColorJitter(0.5), "ColorJitter(brightness=(0.5, 1.5), contrast=None, saturation=None, hue=None)"),
        (T.CenterCrop(3), "CenterCrop(size=(3, 3))"),
        (T.RandomApply([T.ToTensor()]), "RandomApply(\n    p=0.5\n    ToTensor()\n)"),
    ):
        assert repr(step) == text
    net = tl.nn.Sequential(T.CenterCrop(3), T.RandomApply(tl.nn.ModuleList([T.Pad(1)]), 1.0))
    assert net(tl.zeros(1, 9, 9)).shape == (1, 5, 5)
