// The loops of convolutions in planes. Included for each instruction set.

#include "conv_parts.h"

// What is the same for all tiles of an image.
template <class T>
struct Planes {
    const tl::Conv* c;
    tl::After after;
    std::int64_t plane, row;  // of the padded copy
    const T *x, *bias;
};

// M features of V vectors of a row's pixels.
template <class T>
struct PlanesTile {
    static constexpr int widest = lanes<T> > 2 ? 3 : 2;  // rows are of 8 pixels at least: more than three vectors of two
    using Call = void (*)(const Planes<T>&, const T* w, std::int64_t o, const T* from, T* to, std::int64_t pixels);
    template <int M, int V>
    static void call(const Planes<T>& p, const T* w, std::int64_t o, const T* from, T* to, std::int64_t pixels) {
        constexpr std::int64_t L = lanes<T>;
        const tl::Conv& c = *p.c;
        const std::int64_t each = c.cg * c.taps(), plane = c.oh * c.ow;
        Vec<T> acc[M][V];
        for (int i = 0; i < M; ++i) {
            const Vec<T> first = all(p.bias ? p.bias[o + i] : T(0));
            for (int v = 0; v < V; ++v) acc[i][v] = first;
        }
        w += o * each;
        for (std::int64_t k = 0; k < c.cg; ++k)
            for (std::int64_t i = 0; i < c.kh; ++i, w += c.kw)
                tile<M, V>(c.kw, w, each, 1, from + k * p.plane + i * c.dh * p.row, c.dw, acc);
        if (p.after == tl::After::relu)
            for (int i = 0; i < M; ++i)
                for (int v = 0; v < V; ++v) acc[i][v] = acc[i][v] < 0 ? all(T(0)) : acc[i][v];  // nan stays
        to += o * plane;
        for (int i = 0; i < M; ++i, to += plane)
            for (int v = 0; v < V; ++v) {
                if (pixels >= (v + 1) * L)
                    store(to + v * L, acc[i][v]);
                else
                    store_first(to + v * L, std::max<std::int64_t>(pixels - v * L, 0), acc[i][v]);
            }
    }
};

// An image: a padded copy of its planes, then rows of pixels by tiles of features.
template <class T>
static void planes_task(const tl::Conv& c, tl::After after, const T* x, const T* w, const T* bias, T* y) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t height = (c.oh - 1) * c.sh + (c.kh - 1) * c.dh + 1;
    const std::int64_t vectors = (c.ow + L - 1) / L, row = std::max(vectors * L + (c.kw - 1) * c.dw, c.left + c.w);
    T* copy = tl::room<T>(1, c.cg * height * row);
    for (std::int64_t k = 0; k < c.cg; ++k)
        for (std::int64_t r = 0; r < height; ++r) {
            T* to = copy + (k * height + r) * row;
            const std::int64_t from = r - c.top;
            if (from < 0 || from >= c.h) {
                std::fill(to, to + row, T(0));
                continue;
            }
            std::fill(to, to + c.left, T(0));
            std::memcpy(to + c.left, x + (k * c.h + from) * c.w, sizeof(T) * c.w);
            std::fill(to + c.left + c.w, to + row, T(0));
        }
    const Planes<T> planes{&c, after, height * row, row, copy, bias};
    // a panel of vectors at a time; features in tiles of about one size
    const std::int64_t at_once = vectors == 3 ? 3 : std::min<std::int64_t>(vectors, 2);
    for (std::int64_t q = 0; q < c.oh; ++q)
        for (std::int64_t v = 0; v < vectors; v += at_once) {
            const std::int64_t now = std::min(at_once, vectors - v), most = tl::tile_rows(registers, now);
            const std::int64_t tiles = (c.og + most - 1) / most;
            for (std::int64_t t = 0; t < tiles; ++t) {
                const std::int64_t o0 = c.og * t / tiles, o1 = c.og * (t + 1) / tiles;
                tile_of<PlanesTile<T>>(o1 - o0, now)(planes, w, o0, copy + q * c.sh * row + v * L,
                                                     y + q * c.ow + v * L, c.ow - v * L);
            }
        }
}

template <class T>
static void planes_all(const tl::Conv& c, tl::After after, const T* x, const T* w, const T* bias, T* y) {
    run_tasks(c.products() > tl::alone, c.n, [&](int n) {
        planes_task(c, after, x + n * c.cg * c.h * c.w, w, bias, y + n * c.og * c.oh * c.ow);
    });
}
