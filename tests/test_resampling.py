"""vision.transforms that find values between pixels: resize, rotate, affine; against Pillow, loops and PyTorch."""

import cmath
import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.vision import transforms as T
from tensorlite.vision.transforms import functional as F

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 9), np.uint8)
RGB = RNG.integers(0, 256, (8, 6, 3), np.uint8)
FLOAT = RNG.random((6, 7, 3))
CHW = np.ascontiguousarray(FLOAT.transpose(2, 0, 1))


# ---- resize
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(3, 4), (13, 20), (7, 5), (1, 1), (2, 30)])
def test_resize_as_pillow_does(mode, size):
    image = pytest.importorskip("PIL.Image")
    resample = image.Resampling[mode.upper()]

    def pillow(array):
        return np.asarray(image.fromarray(array.astype(np.float32)).resize(size[::-1], resample))

    single = FLOAT[..., 0].astype(np.float32)
    got = F.resize(single, size, mode)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, pillow(single), atol=2e-6)
    got = F.resize(RGB, size, mode)
    wanted = np.stack([pillow(RGB[..., k]) for k in range(3)], axis=-1).clip(0, 255)
    assert got.dtype == np.uint8 and abs(got - wanted).max() <= 0.5 + 1e-3
    pil = image.fromarray(RGB)
    np.testing.assert_array_equal(np.asarray(F.resize(pil, size, mode)), np.asarray(pil.resize(size[::-1], resample)))


def interpolate(row, n):
    """One row resized by straight lines between the middles of its pixels, without antialias."""
    out = []
    for k in range(n):
        at = min(max((k + 0.5) * len(row) / n - 0.5, 0), len(row) - 1)
        low = min(int(at), len(row) - 2) if len(row) > 1 else 0
        high = min(low + 1, len(row) - 1)
        out.append(row[low] + (at - low) * (row[high] - row[low]))
    return out


@pytest.mark.parametrize("size", [(3, 4), (13, 20), (6, 2), (1, 1)])
def test_resize_without_antialias(size):
    image = FLOAT[..., 0]
    rows = np.array([interpolate(row, size[1]) for row in image])
    wanted = np.array([interpolate(column, size[0]) for column in rows.T]).T
    np.testing.assert_allclose(F.resize(image, size, antialias=False), wanted, atol=1e-12)


def cubic(row, n):
    """One row by Keys' curve with slope -0.75: between pixels b and c, with their outer neighbours a and d."""
    out = []
    for k in range(n):
        at = (k + 0.5) * len(row) / n - 0.5
        a, b, c, d = (row[min(max(math.floor(at) + j, 0), len(row) - 1)] for j in (-1, 0, 1, 2))
        t, left, right = at - math.floor(at), 0.75 * (c - a), 0.75 * (d - b)  # Hermite: values b, c, slopes left, right
        out.append(b + t * left + t**2 * (3 * (c - b) - 2 * left - right) + t**3 * (2 * (b - c) + left + right))
    return out


@pytest.mark.parametrize("size", [(3, 4), (13, 20), (6, 2)])
def test_bicubic_without_antialias(size):
    rows = np.array([cubic(row, size[1]) for row in FLOAT[..., 0]])
    wanted = np.array([cubic(column, size[0]) for column in rows.T]).T
    np.testing.assert_allclose(F.resize(FLOAT[..., 0], size, "bicubic", antialias=False), wanted, atol=1e-12)


def test_resize_nearest():
    for size in ((3, 4), (13, 20), (7, 9)):
        rows = [int(i * 7 / size[0]) for i in range(size[0])]
        columns = [int(j * 9 / size[1]) for j in range(size[1])]
        np.testing.assert_array_equal(F.resize(GREY, size, "nearest"), [[GREY[i, j] for j in columns] for i in rows])
    exact = F.resize(np.arange(7)[None], (1, 3), T.InterpolationMode.NEAREST_EXACT)
    assert exact.tolist() == [[1, 3, 5]]
    assert F.resize(np.arange(7)[None], (1, 3), "nearest").tolist() == [[0, 2, 4]]


def test_resize_to_one_side():
    x = tl.zeros(3, 20, 30)
    assert T.Resize(10)(x).shape == (3, 10, 15) and T.Resize([10])(x).shape == (3, 10, 15)
    assert T.Resize(10)(x.transpose(1, 2)).shape == (3, 15, 10)
    assert T.Resize(10, max_size=12)(x).shape == (3, 8, 12) and T.Resize(20)(x) is x
    assert T.Resize((4, 6))(x).shape == (3, 4, 6) and T.Resize(5)(tl.zeros(2, 1, 9, 10)).shape == (2, 1, 5, 5)
    for wrong in (
        dict(size=10, max_size=10), dict(size=(2, 2), max_size=9), dict(size=(1, 2, 3)), dict(size=0),
        dict(size=3, interpolation="lanczos"), dict(size=3, interpolation="none"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="resize: "):
            F.resize(x, **wrong)
    with pytest.raises(TypeError, match="Size should be int or sequence"):
        T.Resize(1.5)


# ---- turn
def turned(image, angle, mode, centre=None, fill=None):
    """Rotation counter-clockwise one pixel at a time: places are complex numbers, up is positive."""
    h, w = image.shape
    middle = complex((w - 1) / 2, -(h - 1) / 2) if centre is None else complex(centre[0] - 0.5, -(centre[1] - 0.5))
    out = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            place = (complex(j, -i) - middle) * cmath.exp(-1j * math.radians(angle)) + middle
            x, y = place.real, -place.imag
            if mode == "nearest":
                a, b = round(y), round(x)
                out[i, j] = image[a, b] if 0 <= a < h and 0 <= b < w else fill or 0
                continue
            total = mask = 0.0
            for a in (math.floor(y), math.floor(y) + 1):
                for b in (math.floor(x), math.floor(x) + 1):
                    if 0 <= a < h and 0 <= b < w:
                        share = (1 - abs(y - a)) * (1 - abs(x - b))
                        total, mask = total + share * image[a, b], mask + share
            out[i, j] = total if fill is None else total * mask + (1 - mask) * fill
    return out


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("centre, fill", [(None, None), ((2, 3), 0.25), ((0, 0), 0)])
def test_rotate(mode, centre, fill):
    for angle in (10.0, -33.3, 61.7, 200.1):
        got = F.rotate(FLOAT[..., 1], angle, mode, center=centre, fill=fill)
        np.testing.assert_allclose(got, turned(FLOAT[..., 1], angle, mode, centre, fill), atol=1e-12)


def test_rotate_by_quarters():
    square, mode = RGB[:6], T.InterpolationMode.BILINEAR
    for k in range(-2, 6):
        np.testing.assert_array_equal(F.rotate(square, 90.0 * k), np.rot90(square, k))
        np.testing.assert_array_equal(F.rotate(square, 90.0 * k, mode), np.rot90(square, k))
        np.testing.assert_array_equal(F.rotate(RGB, 90.0 * k, expand=True), np.rot90(RGB, k))
    for angle in (45, 20, -70, 133):  # the corners turned, rounded outwards
        corners = [complex(x, y) * cmath.exp(1j * math.radians(angle)) for x in (-4.5, 4.5) for y in (-3.5, 3.5)]
        high, wide = max(c.imag for c in corners), max(c.real for c in corners)
        size = [math.ceil(n / 2 + most) - math.floor(n / 2 - most) for n, most in ((7, high), (9, wide))]
        assert list(F.rotate(GREY, angle, expand=True).shape) == size
    assert F.rotate(RGB, 45, fill=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]
    assert F.rotate(np.zeros((0, 4), np.uint8), 20).shape == (0, 4)
    with pytest.raises(ValueError, match="rotate: interpolation 'bicubic'"):
        F.rotate(GREY, 3, "bicubic")


def matrix_of(angle, translate, scale, shear, centre):
    """Forwards, as 3x3 matrices multiplied: scale, shear along x, along y, turn clockwise, move."""
    rot, sx, sy = np.radians([angle, *shear])
    turn = np.array([[np.cos(rot), -np.sin(rot), 0], [np.sin(rot), np.cos(rot), 0], [0, 0, 1]])
    along_x = np.array([[1, -np.tan(sx), 0], [0, 1, 0], [0, 0, 1]])
    along_y = np.array([[1, 0, 0], [-np.tan(sy), 1, 0], [0, 0, 1]])
    move = lambda x, y: np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    there = move(*centre) @ turn @ along_y @ along_x @ np.diag([scale, scale, 1]) @ move(-centre[0], -centre[1])
    return move(*translate) @ there


@pytest.mark.parametrize("translate, scale", [((0, 0), 1.0), ((2, -1), 0.7), ((0.5, 0), 1.9)])
@pytest.mark.parametrize("angle, shear", [(0.0, (0.0, 0.0)), (25.0, (12.0, 0.0)), (-70.0, (5.0, -20.0))])
def test_affine(angle, shear, translate, scale):
    image, centre = FLOAT[..., 2], (2.5, 3.0)
    back = np.linalg.inv(matrix_of(angle, translate, scale, shear, centre))
    got = F.affine(image, angle, translate, scale, shear, center=centre)
    for i in range(6):
        for j in range(7):
            x, y, _ = back @ [j + 0.5, i + 0.5, 1]
            inside = 0 < x < 7 and 0 < y < 6
            assert got[i, j] == (image[int(y), int(x)] if inside else 0)


def test_affine_says_no():
    with pytest.raises(ValueError, match="scale should be positive"):
        F.affine(GREY, 0, (0, 0), 0, 0)
    np.testing.assert_array_equal(F.affine(GREY, 0, (2, 1), 1.0, 0), np.pad(GREY, ((1, 0), (2, 0)))[:7, :9])


# ---- PyTorch
@pytest.mark.parity
@pytest.mark.parametrize("size", [(3, 4), (13, 20), (6, 2)])
@pytest.mark.parametrize(
    "mode, antialias", [("bilinear", True), ("bilinear", False), ("bicubic", True), ("bicubic", False)]
)
def test_resize_as_pytorch_does(mode, antialias, size):
    torch = pytest.importorskip("torch")
    x = CHW
    wanted = torch.nn.functional.interpolate(
        torch.tensor(x)[None], size, mode=mode, antialias=antialias, align_corners=False
    )[0]
    np.testing.assert_allclose(F.resize(tl.tensor(x), size, mode, antialias=antialias).numpy(), wanted, atol=1e-10)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(3, 4), (13, 20), (6, 2)])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_as_pytorch_does(mode, size):
    torch = pytest.importorskip("torch")
    wanted = torch.nn.functional.interpolate(torch.tensor(CHW)[None], size, mode=mode)[0]
    np.testing.assert_array_equal(F.resize(tl.tensor(CHW), size, mode).numpy(), wanted)


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_sampling_as_pytorch_does(mode):
    """affine_grid and grid_sample, by which torchvision turns tensors."""
    torch = pytest.importorskip("torch")
    x = torch.tensor(CHW)
    h, w = x.shape[-2:]
    for angle in (12.3, -77.0, 140.0):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        theta = torch.tensor([[[c, -s * h / w, 0.0], [s * w / h, c, 0.0]]], dtype=torch.float64)
        grid = torch.nn.functional.affine_grid(theta, (1, 3, h, w), align_corners=False)
        wanted = torch.nn.functional.grid_sample(x[None], grid, mode=mode, align_corners=False)[0]
        np.testing.assert_allclose(F.rotate(tl.tensor(CHW), angle, mode).numpy(), wanted, atol=1e-10)


def test_area_of_volumes_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"mode 'area'; wanted .* for modes other than 'area', \(N, C, D"):
        tl.nn.functional.interpolate(tl.rand(1, 1, 2, 2, 2), size=1, mode="area")
