// The loops of conv_relu_pool's gradients. Included for each instruction set.

#include "conv_parts.h"
#include "winners.h"

// Runs and vectors of a run that stay in registers.
constexpr std::int64_t runs_at_once = 3, vectors_at_once = registers == 32 ? 8 : 4;

template <class T>
using Number = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

// A feature's list: numbers and pixels, `step` apart.
template <class T>
struct List {
    const T* numbers;
    const Number<T>* pixels;
    std::int64_t count, step;
};

// sums[run][v] += over the list: number * copy[pixel + run][v], for R runs and V vectors.
template <int R, int V, class T>
static void add_up(const List<T>& list, const T* copy, const std::int64_t* runs, T* sums, std::int64_t wide) {
    constexpr std::int64_t L = lanes<T>;
    constexpr int U = R * V == 1 ? 4 : R * V < 4 ? 2 : 1;  // so that sums do not wait for each other
    Vec<T> acc[U][R][V] = {};
    const T* from[R];
    for (int r = 0; r < R; ++r) {
        from[r] = copy + runs[r];
        for (int v = 0; v < V; ++v) acc[0][r][v] = load(sums + r * wide + v * L);
    }
    const auto one = [&](std::int64_t k, int u) __attribute__((always_inline)) {
        const Vec<T> number = all(list.numbers[k * list.step]);
        const std::int64_t pixel = list.pixels[k * list.step];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) acc[u][r][v] += number * load(from[r] + pixel + v * L);
    };
    std::int64_t k = 0;
    for (; k + U <= list.count; k += U)
        for (int u = 0; u < U; ++u) one(k + u, u);
    for (; k < list.count; ++k) one(k, 0);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            for (int u = 1; u < U; ++u) acc[0][r][v] += acc[u][r][v];
            store(sums + r * wide + v * L, acc[0][r][v]);
        }
}

// copy[pixel + run][v] += number * weights[run][v] over the list.
template <int R, int V, class T>
static void add_to(const List<T>& list, T* copy, const std::int64_t* runs, const T* weights, std::int64_t wide) {
    constexpr std::int64_t L = lanes<T>;
    Vec<T> w[R][V];
    T* to[R];
    for (int r = 0; r < R; ++r) {
        to[r] = copy + runs[r];
        for (int v = 0; v < V; ++v) w[r][v] = load(weights + r * wide + v * L);
    }
    for (std::int64_t k = 0; k < list.count; ++k) {
        const Vec<T> number = all(list.numbers[k * list.step]);
        const std::int64_t pixel = list.pixels[k * list.step];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) {
                T* p = to[r] + pixel + v * L;
                store(p, load(p) + number * w[r][v]);
            }
    }
}

// Calls f(R, V) with these numbers known to the compiled code.
template <int V, class F>
TL_INLINE void with_runs(std::int64_t runs, F f) {
    using Across = std::integral_constant<int, V>;
    if (runs == 1)
        f(std::integral_constant<int, 1>{}, Across{});
    else if (runs == 2)
        f(std::integral_constant<int, 2>{}, Across{});
    else
        f(std::integral_constant<int, 3>{}, Across{});
}

// Vectors come in groups of G.
template <int G, class F, int... K>
TL_INLINE void with_sizes(std::int64_t runs, std::int64_t vectors, F f, std::integer_sequence<int, K...>) {
    ((vectors == (K + 1) * G ? with_runs<(K + 1) * G>(runs, f) : void()), ...);
}

// Calls f(first run, first vector, R, V) for parts of all runs and vectors that fit in registers, cut between groups.
template <int G, class F>
TL_INLINE void in_registers(std::int64_t runs, std::int64_t vectors, F f) {
    constexpr std::int64_t most = vectors_at_once / G;
    const std::int64_t high = (runs + runs_at_once - 1) / runs_at_once, groups = vectors / G;
    const std::int64_t across = (groups + most - 1) / most;
    for (std::int64_t i = 0; i < high; ++i)
        for (std::int64_t j = 0; j < across; ++j) {
            const std::int64_t r = runs * i / high, v = groups * j / across * G;
            with_sizes<G>(runs * (i + 1) / high - r, groups * (j + 1) / across * G - v,
                          [&](auto R, auto V) { f(r, v, R, V); }, std::make_integer_sequence<int, most>());
        }
}

// Vectors of an image's gradient become numbers and pixels; f(at, n, numbers) sees each.
template <class T>
TL_INLINE Vec<T> enlist(const tl::Winners& w, const T* g, const T* s, const std::uint8_t* place, std::int64_t n,
                        const Ints<T>& base, T* numbers, Number<T>* pixels) {
    using Int = Number<T>;
    const Vec<T> v = load_first(s, n) <= 0 ? Vec<T>{} : load_first(g, n);  // where s is nan, g comes through
    const Ints<T> k = load_places<T>(place, n);
    const Ints<T> pixel = base + (k & 1) * static_cast<Int>(w.right) + (k >> 1 & 1) * static_cast<Int>(w.down);
    store(numbers, v);  // there is room for whole vectors
    std::memcpy(pixels, &pixel, sizeof pixel);
    return v;
}

// The lists of features [o0, o1) of an image, laid out as g is, each feature's numbers added to db (where it is wanted).
template <class T>
static void lists(const tl::Winners& w, const T* g, const T* s, const std::uint8_t* place, std::int64_t o0,
                  std::int64_t o1, T* numbers, Number<T>* pixels, T* db) {
    constexpr std::int64_t L = lanes<T>;
    using Int = Number<T>;
    const std::int64_t windows = w.windows(), features = w.c.features();
    if (w.c.y_last) {
        for (std::int64_t k = 0; k < windows; ++k)
            for (std::int64_t o = o0; o < o1; o += L) {
                const std::int64_t at = k * features + o, n = std::min(L, o1 - o);
                const Vec<T> v = enlist<T>(w, g + at, s + at, place + at, n, Ints<T>{} + static_cast<Int>(w.base[k]),
                                           numbers + at, pixels + at);
                if (db) store_first(db + o, n, load_first(db + o, n) + v);
            }
        return;
    }
    for (std::int64_t o = o0; o < o1; ++o) {
        Vec<T> total = {};
        for (std::int64_t k = 0; k < windows; k += L) {
            const std::int64_t at = o * windows + k;
            Ints<T> base;
            for (int l = 0; l < L; ++l) base[l] = w.base[k + l];  // which has some more elements
            total += enlist<T>(w, g + at, s + at, place + at, std::min(L, windows - k), base, numbers + at,
                               pixels + at);
        }
        if (db) db[o] += sum<T>(total);
    }
}

template <class T>
static List<T> list_of(const tl::Winners& w, const T* numbers, const Number<T>* pixels, std::int64_t o) {
    if (w.c.y_last) return {numbers + o, pixels + o, w.windows(), w.c.features()};
    return {numbers + o * w.windows(), pixels + o * w.windows(), w.windows(), 1};
}

// Rows [first, last) and columns [left, right) of the copy that are pixels of the image.
struct Inside {
    std::int64_t first, last, left, right;
    explicit Inside(const tl::Winners& w)
        : first(std::min(w.c.top, w.height)), last(std::clamp(w.c.h + w.c.top, first, w.height)),
          left(std::min(w.c.left, w.width)), right(std::clamp(w.c.w + w.c.left, left, w.width)) {}
};

// The copy of a block of an image's channels.
template <class T>
static void copy_block(const tl::Winners& w, const T* image, std::int64_t b, T* copy) {
    const tl::Conv& c = w.c;
    const Inside in(w);
    const std::int64_t step = w.block, row = w.width * step, wide = in.right - in.left;
    std::fill(copy, copy + in.first * row, T(0));
    std::fill(copy + in.last * row, copy + w.height * row, T(0));
    for (std::int64_t r = in.first; r < in.last; ++r) {
        T* to = copy + r * row;
        std::fill(to, to + in.left * step, T(0));
        std::fill(to + in.right * step, to + row, T(0));
        to += in.left * step;
        const std::int64_t pixel = (r - c.top) * c.w + in.left - c.left;
        if (!c.x_last)
            planes_to_pixels(image + b * step * c.h * c.w + pixel, c.h * c.w, step, wide, to, wide, step,
                             std::int64_t{0});
        else
            for (std::int64_t q = 0; q < wide; ++q)
                std::memcpy(to + q * step, image + (pixel + q) * c.cg + b * step, sizeof(T) * step);
    }
}

// The same of one channel, as patches: all taps of each output's window one after the other. `room` holds the copy.
template <class T>
static void copy_patches(const tl::Winners& w, const T* image, T* room, T* patches) {
    constexpr std::int64_t L = lanes<T>;
    const tl::Conv& c = w.c;
    copy_block(w, image, 0, room);
    for (std::int64_t r = 0; r < 2 * w.rows; ++r)
        for (std::int64_t q = 0; q < 2 * w.columns; ++q, patches += w.step)
            for (std::int64_t i = 0; i < c.kh; ++i)  // what a vector has too much is written over
                for (std::int64_t j = 0; j < c.kw; j += L)
                    store(patches + i * c.kw + j,
                          load(room + (r * c.sh + i * c.dh) * w.width + q * c.sw + j));
}

// A range of images and a part of the features. sums: [block][feature][run][wide], db: [feature].
template <class T>
static void winners_dw_task(const tl::Winners& w, const T* x, const T* g, const T* s, const std::uint8_t* place,
                            T* sums, T* db, std::int64_t task) {
    constexpr std::int64_t L = lanes<T>;
    using Int = Number<T>;
    const tl::Conv& c = w.c;
    const std::int64_t range = task / w.parts, part = task % w.parts, wide = w.wide(L), each = w.count() * wide;
    const std::int64_t o0 = c.og * part / w.parts, o1 = c.og * (part + 1) / w.parts, list = c.og * w.windows();
    const std::int64_t copy_size = w.height * w.width * w.block + L;
    T* room = tl::room<T>(1, copy_size + (w.patches ? 4 * w.windows() * w.step + c.kw + L : 0));
    T* numbers = tl::room<T>(2, list + L);
    Int* pixels = tl::room<Int>(3, list + L);
    for (std::int64_t b = 0; b < w.blocks; ++b)
        std::fill(sums + (b * c.og + o0) * each, sums + (b * c.og + o1) * each, T(0));
    std::fill(db + o0, db + o1, T(0));
    for (std::int64_t n = c.n * range / w.ranges; n < c.n * (range + 1) / w.ranges; ++n) {
        lists(w, g + n * list, s + n * list, place + n * list, o0, o1, numbers, pixels, db);
        for (std::int64_t b = 0; b < w.blocks; ++b) {
            T* copy = w.patches ? room + copy_size : room;
            if (w.patches)
                copy_patches(w, x + n * c.h * c.w, room, copy);
            else
                copy_block(w, x + n * c.cg * c.h * c.w, b, copy);
            for (std::int64_t o = o0; o < o1; ++o) {
                T* to = sums + (b * c.og + o) * each;
                in_registers<1>(w.count(), wide / L, [&](std::int64_t r, std::int64_t v, auto R, auto V) {
                    add_up<R(), V()>(list_of(w, numbers, pixels, o), copy + v * L, w.runs.data() + r,
                                     to + r * wide + v * L, wide);
                });
            }
        }
    }
}

// Weight (channel, tap) of a block in a feature's sums (or packed weights).
TL_INLINE std::int64_t place_of(const tl::Winners& w, std::int64_t wide, std::int64_t channel, std::int64_t tap) {
    const std::int64_t taps_of_run = w.steps / w.block;
    return tap / taps_of_run * wide + tap % taps_of_run * w.block + channel;
}

template <class T>
static void winners_dw(const tl::Winners& w, const T* x, const T* g, const T* s, const std::uint8_t* place, T* dw,
                       T* db) {
    const tl::Conv& c = w.c;
    const std::int64_t wide = w.wide(lanes<T>), each = w.count() * wide, size = w.blocks * c.og * each + c.og;
    const bool shared = c.products() / 4 > tl::alone;
    T* sums = tl::room<T>(0, w.ranges * size);
    run_tasks(shared, w.ranges * w.parts, [&](int k) {
        T* own = sums + k / w.parts * size;
        winners_dw_task(w, x, g, s, place, own, own + size - c.og, k);
    });
    run_tasks(shared && size * w.ranges > 1 << 16, c.og, [&](int o) {
        for (std::int64_t b = 0; b < w.blocks; ++b) {
            T* first = sums + (b * c.og + o) * each;
            for (std::int64_t k = 1; k < w.ranges; ++k)
                for (std::int64_t e = 0; e < each; ++e) first[e] += first[k * size + e];
            for (std::int64_t channel = 0; channel < w.block; ++channel)
                for (std::int64_t t = 0; t < c.taps(); ++t) {
                    const std::int64_t in = b * w.block + channel;
                    dw[o * c.cg * c.taps() + (c.w_last ? t * c.cg + in : in * c.taps() + t)] =
                        first[place_of(w, wide, channel, t)];
                }
        }
        T total = 0;
        for (std::int64_t k = 0; k < w.ranges; ++k) total += sums[(k + 1) * size - c.og + o];
        db[o] = total;
    });
}

// A block of an image's channels.
template <class T>
static void winners_dx_task(const tl::Winners& w, const T* g, const T* s, const std::uint8_t* place, const T* packed,
                            T* dx, std::int64_t b) {
    constexpr std::int64_t L = lanes<T>;
    using Int = Number<T>;
    const tl::Conv& c = w.c;
    const std::int64_t list = c.og * w.windows(), each = w.count() * w.steps, size = w.height * w.width * w.block;
    T* copy = tl::room<T>(1, size);
    T* numbers = tl::room<T>(2, list + L);
    Int* pixels = tl::room<Int>(3, list + L);
    lists(w, g, s, place, 0, c.og, numbers, pixels, static_cast<T*>(nullptr));
    std::fill(copy, copy + size, T(0));
    constexpr int group = std::min<std::int64_t>(16 / L, vectors_at_once);  // channels come by sixteens
    for (std::int64_t o = 0; o < c.og; ++o)
        in_registers<group>(w.count(), w.steps / L, [&](std::int64_t r, std::int64_t v, auto R, auto V) {
            add_to<R(), V()>(list_of(w, numbers, pixels, o), copy + v * L, w.runs.data() + r,
                             packed + o * each + r * w.steps + v * L, w.steps);
        });
    const Inside in(w);
    const std::int64_t step = w.block, plane = c.h * c.w;
    for (std::int64_t r = 0; r < c.h; ++r) {
        // columns [a, z) of dx are in the copy; no window reaches the others
        const bool meets = r + c.top >= in.first && r + c.top < in.last && in.left < in.right;
        const std::int64_t a = meets ? in.left - c.left : c.w, z = meets ? in.right - c.left : c.w;
        const T* from = copy + ((r + c.top) * w.width + in.left) * step;
        if (c.x_last) {
            T* to = dx + r * c.w * c.cg + b * step;
            for (std::int64_t q = 0; q < c.w; ++q) {
                if (q >= a && q < z)
                    std::memcpy(to + q * c.cg, from + (q - a) * step, sizeof(T) * step);
                else
                    std::fill(to + q * c.cg, to + q * c.cg + step, T(0));
            }
        } else {
            T* to = dx + b * step * plane + r * c.w;
            if (a < z) pixels_to_planes(from, step, step, z - a, to + a, plane);
            for (std::int64_t k = 0; k < step; ++k) {
                std::fill(to + k * plane, to + k * plane + a, T(0));
                std::fill(to + k * plane + z, to + k * plane + c.w, T(0));
            }
        }
    }
}

template <class T>
static void winners_dx(const tl::Winners& w, const T* g, const T* s, const std::uint8_t* place, const T* weights,
                       T* dx) {
    const tl::Conv& c = w.c;
    const std::int64_t each = w.count() * w.steps, list = c.og * w.windows();
    T* packed = tl::room<T>(0, w.blocks * c.og * each);
    run_tasks(c.og * c.cg * c.taps() > 1 << 15, c.og, [&](int o) {
        for (std::int64_t in = 0; in < c.cg; ++in)
            for (std::int64_t t = 0; t < c.taps(); ++t)
                packed[(in / w.block * c.og + o) * each + place_of(w, w.steps, in % w.block, t)] =
                    weights[o * c.cg * c.taps() + (c.w_last ? t * c.cg + in : in * c.taps() + t)];
    });
    run_tasks(c.products() / 4 > tl::alone, c.n * w.blocks, [&](int k) {
        const std::int64_t n = k / w.blocks, b = k % w.blocks;
        winners_dx_task(w, g + n * list, s + n * list, place + n * list, packed + b * c.og * each,
                        dx + n * c.cg * c.h * c.w, b);
    });
}
