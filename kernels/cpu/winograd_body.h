// The loops of Winograd's convolution, for every instruction set (winograd.cpp includes this by each_isa.h; its struct
// Winograd holds the sizes). Channels are a multiple of 16, so every vector is whole.
#include "turn.h"
#include "conv_pool_body.h"

// The matrices of F(4, 3) with the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray), one dimension at a time.
// Six pixels:
template <class V>
TL_INLINE void of_pixels(const V& a, const V& b, const V& c, const V& d, const V& e, const V& f, V* to, int step) {
    using T = std::remove_reference_t<decltype(V{}[0])>;
    const V p = e - c * T(4), q = d - b * T(4), r = e - c, s = (d - b) * T(2);
    to[0] = a * T(4) - c * T(5) + e;
    to[step] = p + q;
    to[2 * step] = p - q;
    to[3 * step] = r + s;
    to[4 * step] = r - s;
    to[5 * step] = b * T(4) - d * T(5) + f;
}

// Three weights:
template <class V>
TL_INLINE void of_weights(const V& a, const V& b, const V& c, V* to, int step) {
    using T = std::remove_reference_t<decltype(V{}[0])>;
    const V p = (a + c) * T(-1.0 / 6), q = b * T(1.0 / 6), r = a * T(1.0 / 24) + c * T(1.0 / 6), s = b * T(1.0 / 12);
    to[0] = a * T(0.25);
    to[step] = p - q;
    to[2 * step] = p + q;
    to[3 * step] = r + s;
    to[4 * step] = r - s;
    to[5 * step] = c;
}

// Four outputs from the six products:
template <class V>
TL_INLINE void of_products(const V& a, const V& b, const V& c, const V& d, const V& e, const V& f, V* to, int step) {
    using T = std::remove_reference_t<decltype(V{}[0])>;
    const V p = b + c, q = b - c, r = d + e, s = d - e;
    to[0] = a + p + r;
    to[step] = q + s * T(2);
    to[2 * step] = p + r * T(4);
    to[3 * step] = q + s * T(8) + f;
}

// Tiles that are multiplied at once, and so the least number of a block.
template <class T>
std::int64_t tiles_at_once() {
    return registers == 32 ? 14 : 6;
}

// The weights of channels [first, last) of the source: to[k][channel][feature] for the 36 numbers of a tile.
template <class T>
void weights(const Winograd& s, const T* w, T* to, std::int64_t first, std::int64_t last) {
    constexpr std::int64_t L = lanes<T>;
    for (std::int64_t c = first; c < last; ++c)
        for (std::int64_t o = 0; o < s.to; o += L) {
            Vec<T> g[9], half[18], all_of[36];
            for (int k = 0; k < 9; ++k) {
                const T* from = w + c * s.w_from + o * s.w_to + (s.flip ? 8 - k : k) * s.w_tap;
                g[k] = all(from[0]);
                for (std::int64_t l = 1; l < L; ++l) g[k][l] = from[l * s.w_to];
            }
            for (int j = 0; j < 3; ++j) of_weights(g[j], g[3 + j], g[6 + j], half + j, 3);
            for (int i = 0; i < 6; ++i) of_weights(half[3 * i], half[3 * i + 1], half[3 * i + 2], all_of + 6 * i, 1);
            for (std::int64_t k = 0; k < 36; ++k) store(to + (k * s.from + c) * s.to + o, all_of[k]);
        }
}

// A tile's 6 x 6 pixels of all channels, k-th number of channel c to to[k * step + c].
template <class T>
TL_INLINE void enter(const Winograd& s, const T* x, const T* zeros, std::int64_t tile, T* to, std::int64_t step) {
    const std::int64_t n = tile / s.tiles(), down = tile % s.tiles() / s.tiles_w, right = tile % s.tiles_w;
    const T* pixel[36];
    for (std::int64_t i = 0; i < 6; ++i)
        for (std::int64_t j = 0; j < 6; ++j) {
            const std::int64_t r = 4 * down - s.top + i, q = 4 * right - s.left + j;
            const bool inside = r >= 0 && r < s.h && q >= 0 && q < s.w;
            pixel[6 * i + j] = inside ? x + ((n * s.h + r) * s.w + q) * s.from : zeros;
        }
    for (std::int64_t c = 0; c < s.from; c += lanes<T>) {
        Vec<T> half[36], row[6];
        for (int j = 0; j < 6; ++j)
            of_pixels(load(pixel[j] + c), load(pixel[6 + j] + c), load(pixel[12 + j] + c), load(pixel[18 + j] + c),
                      load(pixel[24 + j] + c), load(pixel[30 + j] + c), half + j, 6);
        for (int i = 0; i < 6; ++i) {
            const Vec<T>* h = half + 6 * i;
            of_pixels(h[0], h[1], h[2], h[3], h[4], h[5], row, 1);
            for (int j = 0; j < 6; ++j) store(to + (6 * i + j) * step + c, row[j]);
        }
    }
}

// Back: a tile's products become its 4 x 4 outputs, as far as they are in the image; with `at` its 2 x 2 windows.
// Whether all are finite.
template <class T>
TL_INLINE bool leave(const Winograd& s, const T* from, std::int64_t step, const T* bias, std::int64_t tile, T* y,
                     std::uint8_t* at) {
    const std::int64_t n = tile / s.tiles(), r = tile % s.tiles() / s.tiles_w * 4, q = tile % s.tiles_w * 4;
    const std::int64_t rows = std::min<std::int64_t>(4, s.oh - r), columns = std::min<std::int64_t>(4, s.ow - q);
    const std::int64_t high = s.oh / 2, wide = s.ow / 2;
    const std::int64_t to = at ? ((n * high + r / 2) * wide + q / 2) * s.to : ((n * s.oh + r) * s.ow + q) * s.to;
    Vec<T> zero = {};  // but for nan where an output is none of the finite numbers
    for (std::int64_t o = 0; o < s.to; o += lanes<T>) {
        Vec<T> half[24], made[16];
        const auto part = [&](int k) __attribute__((always_inline)) { return load(from + k * step + o); };
        for (int j = 0; j < 6; ++j)
            of_products(part(j), part(6 + j), part(12 + j), part(18 + j), part(24 + j), part(30 + j), half + j, 6);
        const Vec<T> plus = bias ? load(bias + o) : Vec<T>{};
        for (std::int64_t i = 0; i < rows; ++i) {
            const Vec<T>* h = half + 6 * i;
            Vec<T>* row = made + 4 * i;
            of_products(h[0], h[1], h[2], h[3], h[4], h[5], row, 1);
            for (std::int64_t j = 0; j < columns; ++j) {
                const Vec<T> v = row[j] + plus;
                zero += v - v;
                row[j] = s.relu ? (v < T(0) ? Vec<T>{} : v) : v;
                if (!at) store(y + to + (i * s.ow + j) * s.to + o, row[j]);
            }
        }
        if (!at) continue;
        for (std::int64_t i = 0; i < rows / 2; ++i)
            for (std::int64_t j = 0; j < columns / 2; ++j) {
                const Vec<T>* four = made + 8 * i + 2 * j;
                const Best<T> best = best_of_4<T>(four[0], four[1], four[4], four[5]);
                const std::int64_t window = to + (i * wide + j) * s.to + o;
                store(y + window, best.value);
                store_places<T>(at + window, lanes<T>, best.place);
            }
    }
    return sum<T>(zero) == 0;
}

template <int M, int V, class T>
TL_INLINE void multiply(const Winograd& s, const T* a, const T* b, T* c) {
    Vec<T> acc[M][V] = {};
    tile<M, V>(s.from, a, s.from, 1, b, s.to, acc);
    for (int i = 0; i < M; ++i)
        for (int v = 0; v < V; ++v) store(c + i * s.to + v * lanes<T>, acc[i][v]);
}

// Tiles [first, last) of a block; `room` is for 36 numbers of each channel and feature of one. Whether all is finite.
template <class T>
bool tiles(const Winograd& s, const T* x, const T* w, const T* bias, const T* zeros, T* y, std::uint8_t* at,
           std::int64_t first, std::int64_t last, T* room) {
    constexpr int M = registers == 32 ? 14 : 6;
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t count = last - first, rows = (count + M - 1) / M * M;
    T *pixels = room, *products = room + 36 * rows * s.from;
    for (std::int64_t t = 0; t < count; ++t) enter(s, x, zeros, first + t, pixels + t * s.from, rows * s.from);
    for (std::int64_t k = 0; k < 36 && count < rows; ++k)  // what fills up the last of the tiles that go together
        std::memset(pixels + (k * rows + count) * s.from, 0, (rows - count) * s.from * sizeof(T));
    for (std::int64_t k = 0; k < 36; ++k)
        for (std::int64_t t = 0; t < rows; t += M) {
            const T *a = pixels + (k * rows + t) * s.from, *b = w + k * s.from * s.to;
            T* c = products + (k * rows + t) * s.to;
            std::int64_t o = 0;
            for (; o + 2 * L <= s.to; o += 2 * L) multiply<M, 2>(s, a, b + o, c + o);
            if (o < s.to) multiply<M, 1>(s, a, b + o, c + o);
        }
    bool finite = true;
    for (std::int64_t t = 0; t < count; ++t)
        finite &= leave(s, products + t * s.to, rows * s.to, bias, first + t, y, at);
    return finite;
}

// Image n from planes to pixels, and back.
template <class T>
void to_pixels(const T* planes, std::int64_t channels, std::int64_t count, T* pixels, std::int64_t n) {
    const std::int64_t at = n * channels * count;
    planes_to_pixels(planes + at, count, channels, count, pixels + at, count, channels, 0);
}

template <class T>
void to_planes(const T* pixels, std::int64_t channels, std::int64_t count, T* planes, std::int64_t n) {
    const std::int64_t at = n * channels * count;
    pixels_to_planes(pixels + at, channels, channels, count, planes + at, count);
}

// The same of places.
template <class T>
void places_to_planes(const std::uint8_t* pixels, std::int64_t channels, std::int64_t count, std::uint8_t* planes,
                      std::int64_t n) {
    constexpr std::int64_t L = lanes<T>;
    pixels += n * channels * count, planes += n * channels * count;
    for (std::int64_t p0 = 0; p0 < count; p0 += L) {
        const std::int64_t p = count >= L ? std::min(p0, count - L) : 0, m = std::min(L, count);
        for (std::int64_t c = 0; c < channels; c += L) {  // channels are a multiple of 16
            Vec<T> r[L] = {};
            for (std::int64_t k = 0; k < m; ++k) r[k] = (Vec<T>)load_places<T>(pixels + (p + k) * channels + c, L);
            turn<T>(r);
            for (std::int64_t k = 0; k < L; ++k) store_places<T>(planes + (c + k) * count + p, m, (Ints<T>)r[k]);
        }
    }
}
