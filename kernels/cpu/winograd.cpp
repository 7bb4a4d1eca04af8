// Winograd's convolution F(4x4, 3x3): windows of 3 x 3 in steps of 1, by tiles of 4 x 4 outputs. A tile's 6 x 6 pixels
// become 36 numbers, these are multiplied with 36 numbers made of the weights, and the sums over channels become the
// outputs: 36 products where a gather needs 144.
//
// It is less exact: on data and weights of variance 1 the largest error was 1e-5 of the largest output with 64 channels
// and 1.9e-5 with 256, where a gather has 1e-6 and 2e-6. An infinity or nan would reach all of its tile, so where an
// output is not finite a gather does all anew. TL_WINOGRAD=0 leaves it out. It is taken where it was the faster one
// when measured (see `pays` and `window`).
#include <algorithm>
#include <type_traits>
#include <vector>

#include "conv.h"
#include "pool.h"
#include "scratch.h"

namespace {

// From a source (n, h, w, from) to outputs (n, oh, ow, to). Weights lie w_from, w_to and w_tap apart, for dx in the
// reverse order of taps.
struct Winograd {
    std::int64_t n, from, to, h, w, oh, ow, top, left, tiles_h, tiles_w, w_from, w_to, w_tap;
    bool flip, relu, x_last, y_last;

    std::int64_t tiles() const { return tiles_h * tiles_w; }
};

}  // namespace

#define TL_BODY "winograd_body.h"
#include "each_isa.h"

namespace tl {
namespace {

struct Weights;
struct Source;
struct Made;
struct Places;
struct Room;

// Tiles that are transformed and multiplied before the next: as many as stay in the cache beside the weights.
template <class T>
std::int64_t block_of(const Winograd& s) {
    const std::int64_t least = TL_PICK(tiles_at_once<T>)(), each = 36 * (s.from + s.to) * sizeof(T);
    return least * std::max<std::int64_t>(1, std::min<std::int64_t>(4, (1 << 18) / (each * least)));
}

// Whether all outputs are finite; else they are wrong. With `at` they are pooled.
template <class T>
bool convolve(const Winograd& s, const T* x, const T* w, const T* bias, T* y, std::uint8_t* at) {
    auto& pool = Pool::get();
    T* numbers = scratch<Weights, T>(36 * s.from * s.to + s.from);
    T* zeros = numbers + 36 * s.from * s.to;
    std::fill(zeros, zeros + s.from, T(0));
    pool.run(static_cast<int>(s.from / 8),
             [&](int k) { TL_PICK(weights<T>)(s, w, numbers, k * 8, (k + 1) * 8); });
    if (!s.x_last) {
        T* pixels = scratch<Source, T>(s.n * s.h * s.w * s.from);
        pool.run(static_cast<int>(s.n),
                 [&](int k) { TL_PICK(to_pixels<T>)(x, s.from, s.h * s.w, pixels, k); });
        x = pixels;
    }
    const std::int64_t pixels = at ? (s.oh / 2) * (s.ow / 2) : s.oh * s.ow;
    T* made = s.y_last ? y : scratch<Made, T>(s.n * pixels * s.to);
    std::uint8_t* places = s.y_last || !at ? at : scratch<Places, std::uint8_t>(s.n * pixels * s.to);
    const std::int64_t block = block_of<T>(s), count = s.n * s.tiles();
    std::atomic<bool> finite{true};
    pool.run(static_cast<int>((count + block - 1) / block), [&](int k) {
        T* room = scratch<Room, T>(36 * block * (s.from + s.to));
        const std::int64_t first = k * block, last = std::min(count, first + block);
        if (!TL_PICK(tiles<T>)(s, x, numbers, bias, zeros, made, places, first, last, room)) finite = false;
    });
    if (!finite) return false;
    if (!s.y_last)
        pool.run(static_cast<int>(s.n), [&](int k) {
            TL_PICK(to_planes<T>)(made, s.to, pixels, y, k);
            if (at) TL_PICK(places_to_planes<T>)(places, s.to, pixels, at, k);
        });
    return true;
}

// The kernel, and what does the same where the switch is off when it is called.
template <class T>
ConvKernel<T> switched(const Winograd& s, ConvKernel<T> gather) {
    return [s, gather](const T* x, const T* w, const T* bias, T* y) {
        if (!winograd_on() || !convolve<T>(s, x, w, bias, y, nullptr)) gather(x, w, bias, y);
    };
}

Winograd sizes(const Conv& c) {
    Winograd s{c.n, c.cg, c.og, c.h, c.w, c.oh, c.ow, c.top, c.left, (c.oh + 3) / 4, (c.ow + 3) / 4};
    s.w_from = c.w_last ? 1 : 9, s.w_to = 9 * c.cg, s.w_tap = c.w_last ? c.cg : 1;
    s.x_last = c.x_last, s.y_last = c.y_last;
    return s;
}

// Whether outputs of this size fill their tiles well enough, and are enough for the weights that are made for them.
bool pays(std::int64_t n, std::int64_t oh, std::int64_t ow) {
    const std::int64_t tiles = n * ((oh + 3) / 4) * ((ow + 3) / 4);
    return tiles >= 64 && 16 * tiles * 5 <= n * oh * ow * 8;
}

bool window(const Conv& c) {
    return c.groups == 1 && c.kh == 3 && c.kw == 3 && c.sh == 1 && c.sw == 1 && c.dh == 1 && c.dw == 1 &&
           c.cg % 16 == 0 && c.og % 16 == 0 && c.cg * c.og >= 256 && c.cg * c.og <= 65536;
}

}  // namespace

std::atomic<bool>& winograd_on() {
    static std::atomic<bool> on{true};
    return on;
}

template <class T>
ConvKernel<T> winograd_forward(const Conv& c, After after, ConvKernel<T> gather) {
    if (!std::is_same<T, float>::value || !window(c) || !pays(c.n, c.oh, c.ow)) return gather;
    Winograd s = sizes(c);
    s.relu = after == After::relu;
    return switched<T>(s, gather);
}

template <class T>
PoolKernel<T> winograd_pool(const Conv& c, PoolKernel<T> gather) {
    if (!std::is_same<T, float>::value || !window(c) || !pays(c.n, c.oh, c.ow)) return gather;
    Winograd s = sizes(c);
    s.relu = true;
    return [s, gather](const T* x, const T* w, const T* bias, T* y, std::uint8_t* at) {
        if (!winograd_on() || !convolve<T>(s, x, w, bias, y, at)) gather(x, w, bias, y, at);
    };
}

template <class T>
ConvKernel<T> winograd_dx(const Conv& c, ConvKernel<T> gather) {
    if (!std::is_same<T, float>::value || !window(c) || !pays(c.n, c.h, c.w)) return gather;
    Winograd s = sizes(c);  // dy takes the place of x
    std::swap(s.from, s.to), std::swap(s.w_from, s.w_to), std::swap(s.x_last, s.y_last);
    std::swap(s.h, s.oh), std::swap(s.w, s.ow);
    s.top = 2 - c.top, s.left = 2 - c.left, s.flip = true;
    s.tiles_h = (s.oh + 3) / 4, s.tiles_w = (s.ow + 3) / 4;
    return switched<T>(s, gather);
}

template ConvKernel<float> winograd_forward(const Conv&, After, ConvKernel<float>);
template ConvKernel<double> winograd_forward(const Conv&, After, ConvKernel<double>);
template PoolKernel<float> winograd_pool(const Conv&, PoolKernel<float>);
template PoolKernel<double> winograd_pool(const Conv&, PoolKernel<double>);
template ConvKernel<float> winograd_dx(const Conv&, ConvKernel<float>);
template ConvKernel<double> winograd_dx(const Conv&, ConvKernel<double>);

}  // namespace tl
