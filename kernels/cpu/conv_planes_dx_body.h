// The loops of the gradient for an input of few channels. Included for each instruction set.

#include "conv_parts.h"

// Vectors of pixels whose sums for M channels stay in registers.
constexpr int around_vectors(int M) {
    return registers == 32 ? (M <= 2 ? 8 : 6) : M == 1 ? 8 : M == 2 ? 6 : M == 3 ? 4 : 3;
}

// sums[channel][pixel] += over `features` planes and all taps, for `pixels` pixels. w: [feature][tap][M], taps in the
// order in which they meet the padded planes.
template <int M, class T>
static void around_sums(const tl::Conv& c, const tl::Around& a, std::int64_t features, std::int64_t plane,
                        std::int64_t pixels, const T* planes, const T* w, bool first, T* sums) {
    constexpr std::int64_t L = lanes<T>;
    constexpr int V = around_vectors(M);
    for (std::int64_t p = 0; p < pixels; p += V * L) {
        Vec<T> acc[M][V];
        for (int k = 0; k < M; ++k)
            for (int v = 0; v < V; ++v) acc[k][v] = first ? all(T(0)) : load(sums + k * plane + p + v * L);
        const T* one = w;
        for (std::int64_t o = 0; o < features; ++o)
            for (std::int64_t i = 0; i < c.kh; ++i) {
                const T* from = planes + o * plane + i * c.dh * a.row + p;
                for (std::int64_t j = 0; j < c.kw; ++j, one += M, from += c.dw)
                    for (int v = 0; v < V; ++v) {
                        const Vec<T> d = load(from + v * L);
                        for (int k = 0; k < M; ++k) acc[k][v] += all(one[k]) * d;
                    }
            }
        for (int k = 0; k < M; ++k)
            for (int v = 0; v < V; ++v) store(sums + k * plane + p + v * L, acc[k][v]);
    }
}

// An image: padded copies of some planes at a time, whose sums are added up.
template <int M, class T>
static void around_task(const tl::Conv& c, const T* dy, const T* w, T* dx) {
    constexpr std::int64_t L = lanes<T>, step = around_vectors(M) * L;
    const tl::Around a(c);
    const std::int64_t pixels = c.h * a.row, most = (pixels + step - 1) / step * step;
    // a vector of the last tap reads so far
    const std::int64_t plane = most + (c.kh - 1) * c.dh * a.row + (c.kw - 1) * c.dw;
    std::int64_t at_once = std::max<std::int64_t>((32 << 10) / (plane * static_cast<std::int64_t>(sizeof(T))), 1);
    if (c.y_last) at_once = (at_once + L - 1) / L * L;  // features that are turned together
    at_once = std::min(at_once, c.og);
    T *planes = tl::room<T>(1, at_once * plane), *sums = tl::room<T>(2, M * plane);
    std::fill(planes, planes + at_once * plane, T(0));
    for (std::int64_t o = 0; o < c.og; o += at_once) {
        const std::int64_t now = std::min(at_once, c.og - o);
        for (std::int64_t r = 0; c.y_last && r < c.oh; ++r)
            pixels_to_planes(dy + r * c.ow * c.og + o, c.og, now, c.ow, planes + (a.top + r) * a.row + a.left, plane);
        for (std::int64_t k = 0; !c.y_last && k < now; ++k)
            for (std::int64_t r = 0; r < c.oh; ++r)
                copy_row(dy + ((o + k) * c.oh + r) * c.ow, c.ow, planes + k * plane + (a.top + r) * a.row + a.left);
        around_sums<M>(c, a, now, plane, pixels, planes, w + o * c.taps() * M, o == 0, sums);
    }
    for (std::int64_t k = 0; k < M; ++k)
        for (std::int64_t r = 0; r < c.h; ++r) {
            const T* from = sums + k * plane + r * a.row;
            if (!c.x_last || M == 1)
                copy_row(from, c.w, dx + (k * c.h + r) * c.w);
            else
                for (std::int64_t q = 0; q < c.w; ++q) dx[(r * c.w + q) * M + k] = from[q];
        }
}

template <class T>
static void around_all(const tl::Conv& c, const T* dy, const T* w, T* dx) {
    const std::int64_t taps = c.taps(), m = c.cg;
    T* turned = tl::room<T>(0, c.og * taps * m);
    for (std::int64_t o = 0; o < c.og; ++o)
        for (std::int64_t t = 0; t < taps; ++t)
            for (std::int64_t k = 0; k < m; ++k)
                turned[(o * taps + taps - 1 - t) * m + k] = w[o * taps * m + (c.w_last ? t * m + k : k * taps + t)];
    const auto task = m == 1   ? around_task<1, T>
                      : m == 2 ? around_task<2, T>
                      : m == 3 ? around_task<3, T>
                               : around_task<4, T>;
    run_tasks(c.products() > tl::alone, c.n, [&](int n) {
        task(c, dy + n * c.og * c.oh * c.ow, turned, dx + n * m * c.h * c.w);
    });
}
