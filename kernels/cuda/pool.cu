// Pooling over windows of an image: the largest number of each with its place in the window, means, and both ways back.
//
// A thread makes one output, in the order in which outputs lie in memory. Gradients are gathered: each pixel looks at
// the windows that cover it, tap by tap in order, so nothing is added by atomics and the bits are the same in every run.
// Floor: bytes. Each pixel and each output once: forward 2 x 2 halves read 4 and write 1 + 1/4 of an element (float32)
// for each window; what neighbouring windows read again comes from the L1.
//
// ELEM: the elements, WIDE: what is computed in, PLACE: what places are stored in. HALVES: 1 for windows of 2 x 2 side
// by side, whose sizes the compiler then knows.
#include "conv.cuh"

using Place = PLACE;

// What all kernels are told: how many outputs there are; the sizes of their three inner dimensions as they lie, as
// FastDividers; `last`: whether these are row, column, channel and not channel, row, column.
#define WALK                                                                                                     \
    unsigned total, int last, unsigned n1, unsigned m1, unsigned s1, unsigned n2, unsigned m2, unsigned s2,      \
        unsigned n3, unsigned m3, unsigned s3
#define WINDOWS                                                                                                  \
    int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw, int height, int width, int down, int across
#define LIES(x) long long x##_n, long long x##_c, long long x##_h, long long x##_w
#if HALVES
#define FIXED kh = kw = sh = sw = 2, dh = dw = 1, ph = pw = 0
#else
#define FIXED
#endif

namespace {

struct Output {
    unsigned n, c;
    int row, col;
};

__device__ inline Output output(unsigned i, int last, FastDivider d1, FastDivider d2, FastDivider d3) {
    unsigned a, b, c;
    const unsigned n = d1.divide(d2.divide(d3.divide(i, c), b), a);
    if (last) return {n, c, static_cast<int>(a), static_cast<int>(b)};
    return {n, a, static_cast<int>(b), static_cast<int>(c)};
}

// The taps whose windows cover a row (or column) `at` of the padded image: first, first + every, ... below kernel.
struct Taps {
    int first, every;
    __device__ inline Taps(int at, int kernel, int stride, int dilation) {
        if (dilation == 1) {
            first = at % stride, every = stride;
        } else {
            first = 0, every = 1;
            while (first < kernel && (at - first * dilation) % stride) ++first;
            while (every * dilation % stride) ++every;
        }
    }
};

}  // namespace

#define HERE                                                                            \
    FIXED;                                                                              \
    const unsigned i = blockIdx.x * 256u + threadIdx.x;                                 \
    if (i >= total) return;                                                             \
    const Output o = output(i, last, {m1, s1, n1}, {m2, s2, n2}, {m3, s3, n3})

// y = the largest of each window (of relu(x) where `relu`), the first of equals; the last nan wins over all.
extern "C" __global__ void __launch_bounds__(256, 4)
    largest(const Elem* x, Elem* y, Place* place, int relu, WALK, WINDOWS, LIES(x)) {
    HERE;
    const Elem* image = x + o.n * x_n + o.c * x_c;
    const int top = o.row * sh - ph, left = o.col * sw - pw;
    const int first_row = top < 0 ? (dh - 1 - top) / dh : 0, first_col = left < 0 ? (dw - 1 - left) / dw : 0;
    Wide best = -INF;
    int at = (first_row * kw + first_col) % (kh * kw);
#pragma unroll 2
    for (int r = first_row; r < kh; ++r) {
        const int row = top + r * dh;
        if (row >= height) break;
#pragma unroll 2
        for (int c = first_col; c < kw; ++c) {
            const int col = left + c * dw;
            if (col >= width) break;
            Wide v = widened(image[row * x_h + col * x_w]);
            if (relu) v = rectified(v);
            if (v > best || is_nan(v)) best = v, at = r * kw + c;
        }
    }
    y[i] = narrowed(best);
    place[i] = static_cast<Place>(at);
}

// y = the pixel of each window at its place; 0 where that is padding.
extern "C" __global__ void __launch_bounds__(256, 4)
    take(const Elem* x, const Place* place, Elem* y, WALK, WINDOWS, LIES(x), LIES(p)) {
    HERE;
    const int k = static_cast<int>(place[o.n * p_n + o.c * p_c + o.row * p_h + o.col * p_w]);
    const int row = o.row * sh - ph + k / kw * dh, col = o.col * sw - pw + k % kw * dw;
    const bool in = k >= 0 && k < kh * kw && row >= 0 && row < height && col >= 0 && col < width;
    y[i] = in ? x[o.n * x_n + o.c * x_c + row * x_h + col * x_w] : narrowed(Wide(0));
}

// dx = the sum of what the windows whose place a pixel is have in dy; s: null, or what was pooled behind a relu.
extern "C" __global__ void __launch_bounds__(256, 4)
    put(const Elem* dy, const Elem* s, const Place* place, Elem* dx, WALK, WINDOWS, LIES(y)) {
    HERE;
    const Taps rows(o.row + ph, kh, sh, dh), cols(o.col + pw, kw, sw, dw);
    Wide sum = 0;
    for (int r = rows.first; r < kh; r += rows.every) {
        const int above = o.row + ph - r * dh, p = above / sh;
        if (above < 0 || p >= down) continue;
        for (int c = cols.first; c < kw; c += cols.every) {
            const int before = o.col + pw - c * dw, q = before / sw;
            if (before < 0 || q >= across) continue;
            const long long at = o.n * y_n + o.c * y_c + p * y_h + q * y_w;
            if (static_cast<int>(place[at]) != r * kw + c) continue;
            if (!s || !(widened(s[at]) <= 0)) sum += widened(dy[at]);
        }
    }
    dx[i] = narrowed(sum);
}

namespace {

// What the sum of a window is divided by. Padding counts where ``include``, what lies beyond the padding never.
__device__ inline Wide number(int start, int kernel, int size, int pad, int include) {
    const int end = start + kernel, last = end < size + pad ? end : size + pad;
    if (include) return static_cast<Wide>(last - start);
    return static_cast<Wide>((last < size ? last : size) - (start > 0 ? start : 0));
}

}  // namespace

// y = the mean of each window; divisor: 0, or what its sum is divided by.
extern "C" __global__ void __launch_bounds__(256, 4)
    mean(const Elem* x, Elem* y, int include, double divisor, WALK, WINDOWS, LIES(x)) {
    HERE;
    const Elem* image = x + o.n * x_n + o.c * x_c;
    const int top = o.row * sh - ph, left = o.col * sw - pw;
    Wide sum = 0;
#pragma unroll 2
    for (int r = top < 0 ? -top : 0; r < kh; ++r) {
        if (top + r >= height) break;
#pragma unroll 2
        for (int c = left < 0 ? -left : 0; c < kw; ++c) {
            if (left + c >= width) break;
            sum += widened(image[(top + r) * x_h + (left + c) * x_w]);
        }
    }
    const Wide of = divisor != 0 ? static_cast<Wide>(divisor)
                                 : number(top, kh, height, ph, include) * number(left, kw, width, pw, include);
    y[i] = narrowed(sum / of);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    mean_dx(const Elem* dy, Elem* dx, int include, double divisor, WALK, WINDOWS, LIES(y)) {
    HERE;
    const Taps rows(o.row + ph, kh, sh, 1), cols(o.col + pw, kw, sw, 1);
    Wide sum = 0;
    for (int r = rows.first; r < kh; r += rows.every) {
        const int above = o.row + ph - r, p = above / sh;
        if (above < 0 || p >= down) continue;
        const Wide tall = number(p * sh - ph, kh, height, ph, include);
        for (int c = cols.first; c < kw; c += cols.every) {
            const int before = o.col + pw - c, q = before / sw;
            if (before < 0 || q >= across) continue;
            const Wide of = divisor != 0 ? static_cast<Wide>(divisor)
                                         : tall * number(q * sw - pw, kw, width, pw, include);
            sum += widened(dy[o.n * y_n + o.c * y_c + p * y_h + q * y_w]) / of;
        }
    }
    dx[i] = narrowed(sum);
}
