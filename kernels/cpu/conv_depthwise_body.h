// The loops of depthwise convolutions. Included for each instruction set.

#include "conv_parts.h"
#include "conv_pool_body.h"

// ---- channels last: vectors lie along channels
// Vectors of a row of channels. Those that are over are a vector of the last ones, some done once more; only fewer
// channels than a vector has are read and written one by one (`whole` is false).
template <bool whole, class T>
TL_INLINE Vec<T> take(const T* p, std::int64_t n) {
    if constexpr (whole) return load(p);
    return load_first(p, n);
}

template <bool whole, class T>
TL_INLINE void give(T* p, std::int64_t n, const Vec<T>& v) {
    whole ? store(p, v) : store_first(p, n, v);
}

// f(vectors, channel, place of the first vector) for tiles of at most `most` vectors.
template <class T, class F>
TL_INLINE void each_tile_of_channels(std::int64_t channels, std::int64_t most, F f) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t full = channels / L, tiles = (full + most - 1) / most;
    for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t a = full * t / tiles, b = full * (t + 1) / tiles;
        f(b - a, a * L, a * L);
    }
    if (channels % L) f(std::int64_t{1}, std::max<std::int64_t>(channels - L, 0), full * L);
}

constexpr int vectors_at_once = registers == 32 ? 4 : 2;

// Windows of neighbouring pixels: taps by rows, where they lie, steps.
template <class T>
struct Windows {
    const tl::Tap *rows, *columns;
    std::int64_t row_count, column_count, kernel_width, taps, joined, channels;
    std::int64_t part, row, step, made_step;  // of the source: a part to be joined, a row, a pixel; of what is made
    bool relu;
};

template <class T, bool whole>
struct LastTile {
    static constexpr int widest = vectors_at_once;
    using Call = void (*)(const Windows<T>&, const T* from, const T* w, const T* bias, T* to);
    template <int M, int V>
    static void call(const Windows<T>& s, const T* from, const T* w, const T* bias, T* to) {
        constexpr std::int64_t L = lanes<T>;
        Vec<T> acc[M][V];
        for (int v = 0; v < V; ++v) {
            const Vec<T> first = bias ? take<whole>(bias + v * L, s.channels) : all(T(0));
            for (int i = 0; i < M; ++i) acc[i][v] = first;
        }
        for (std::int64_t j = 0; j < s.joined; ++j)
            for (std::int64_t r = 0; r < s.row_count; ++r)
                for (std::int64_t c = 0; c < s.column_count; ++c) {
                    const T* x = from + j * s.part + s.rows[r].offset * s.row + s.columns[c].offset * s.channels;
                    const T* weights =
                        w + (j * s.taps + s.rows[r].index * s.kernel_width + s.columns[c].index) * s.channels;
                    for (int v = 0; v < V; ++v) {
                        const Vec<T> weight = take<whole>(weights + v * L, s.channels);
                        for (int i = 0; i < M; ++i)
                            acc[i][v] += take<whole>(x + i * s.step + v * L, s.channels) * weight;
                    }
                }
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) {
                if (s.relu) acc[i][v] = acc[i][v] < 0 ? all(T(0)) : acc[i][v];  // nan stays
                give<whole>(to + i * s.made_step + v * L, s.channels, acc[i][v]);
            }
    }
};

// Few channels: one vector that is not whole. A vector of two is, for there are two channels at least.
template <template <class, bool> class Kind, class T>
static typename Kind<T, true>::Call tile_of_channels(std::int64_t rows, std::int64_t vectors, std::int64_t channels) {
    if constexpr (lanes<T> > 2)
        if (channels < lanes<T>) return tile_of<Kind<T, false>, 1>(rows, std::make_index_sequence<4>());
    return tile_of<Kind<T, true>>(rows, vectors);
}

// Rows [a, b) of a source image as pixels of the destination's channels: what is to be joined one after the other.
template <class T>
static void spread_pixels(const tl::Depthwise& d, const T* image, std::int64_t a, std::int64_t b, T* to) {
    const std::int64_t width = d.g.columns.size, count = (b - a) * width, plane = d.source_plane(), made = d.made();
    if (!d.g.source_last && d.spread == 1) {
        for (std::int64_t j = 0; j < d.joined; ++j)
            planes_to_pixels(image + j * plane + a * width, d.joined * plane, made, count, to + j * count * made, count,
                             made, std::int64_t{0});
        return;
    }
    const std::int64_t channels = d.source();
    const T* from = image + a * width * channels;
    if (!d.g.source_last) {
        T* pixels = tl::room<T>(2, count * channels);
        planes_to_pixels(image + a * width, plane, channels, count, pixels, count, channels, std::int64_t{0});
        from = pixels;
    }
    for (std::int64_t p = 0; p < count; ++p)
        for (std::int64_t c = 0; c < channels / d.joined; ++c)
            if (d.joined > 1)
                for (std::int64_t j = 0; j < d.joined; ++j)
                    to[(j * count + p) * made + c] = from[p * channels + c * d.joined + j];
            else
                for (std::int64_t j = 0; j < d.spread; ++j) to[p * made + c * d.spread + j] = from[p * channels + c];
}

// Source rows that a task reads: from `first` on, as pixels of the destination's channels.
template <class T>
struct Pixels {
    const T* from;
    std::int64_t first, part;
};

template <class T>
static Pixels<T> pixels_of(const tl::Depthwise& d, const T* image, std::int64_t k0, std::int64_t k1) {
    if (d.g.source_last && d.spread == 1 && d.joined == 1) return {image, 0, 0};
    const tl::Axis& R = d.g.rows;
    const std::int64_t a = std::clamp<std::int64_t>(k0 * R.stride + R.low, 0, R.size);
    const std::int64_t b = std::clamp<std::int64_t>((k1 - 1) * R.stride + R.high + 1, a, R.size);
    const std::int64_t part = (b - a) * d.g.columns.size * d.made();
    T* copy = tl::room<T>(1, d.joined * part);
    spread_pixels(d, image, a, b, copy);
    return {copy, a, part};
}

// f(image, first row, last) for the images of a task's range of rows.
template <class F>
static void each_image(const tl::Depthwise& d, std::int64_t task, F f) {
    const std::int64_t rows = d.g.rows.count(), all = d.g.n * rows;
    const std::int64_t end = all * (task + 1) / d.tasks;
    for (std::int64_t k = all * task / d.tasks; k < end;) {
        const std::int64_t image = k / rows, next = std::min(end, (image + 1) * rows);
        f(image, k - image * rows, next - image * rows);
        k = next;
    }
}

// `count` pixels that meet three rows by three neighbouring columns. The weights stay in registers, and a pixel of the
// source is read once: it is added to the pixels whose right, middle and left column it is.
template <class T, int V>
static void roll(const Windows<T>& s, std::int64_t count, const T* from, const T* w, const T* bias, T* to) {
    constexpr std::int64_t L = lanes<T>;
    Vec<T> weight[3][3][V], none[V], right[V], middle[V];
    const T* row[3];
    for (int r = 0; r < 3; ++r) {
        row[r] = from + s.rows[r].offset * s.row + s.columns[0].offset * s.channels;
        for (int c = 0; c < 3; ++c)
            for (int v = 0; v < V; ++v)
                weight[r][c][v] =
                    load(w + (s.rows[r].index * s.kernel_width + s.columns[c].index) * s.channels + v * L);
    }
    for (int v = 0; v < V; ++v) right[v] = middle[v] = none[v] = bias ? load(bias + v * L) : all(T(0));
    for (int r = 0; r < 3; ++r, row[r - 1] += 2 * s.channels)
        for (int v = 0; v < V; ++v) {
            const Vec<T> next = load(row[r] + s.channels + v * L);
            right[v] += load(row[r] + v * L) * weight[r][0][v];
            right[v] += next * weight[r][1][v];
            middle[v] += next * weight[r][0][v];
        }
    for (std::int64_t p = 0; p < count; ++p, to += s.made_step)
        for (int v = 0; v < V; ++v) {
            Vec<T> done = right[v];
            right[v] = middle[v], middle[v] = none[v];
            for (int r = 0; r < 3; ++r) {
                const Vec<T> x = load(row[r] + p * s.channels + v * L);
                done += x * weight[r][2][v];
                right[v] += x * weight[r][1][v];
                middle[v] += x * weight[r][0][v];
            }
            if (s.relu) done = done < 0 ? all(T(0)) : done;  // nan stays
            store(to + v * L, done);
        }
}

constexpr int rolled_vectors = registers == 32 ? 2 : 1;

// The same for all channels.
template <class T>
static void roll_all(const Windows<T>& s, std::int64_t count, const T* from, const T* w, const T* bias, T* to) {
    each_tile_of_channels<T>(s.channels, rolled_vectors, [&](std::int64_t vectors, std::int64_t c, std::int64_t) {
        const auto one = vectors == 1 ? roll<T, 1> : roll<T, rolled_vectors>;
        one(s, count, from + c, w + c, bias ? bias + c : nullptr, to + c);
    });
}

template <class T>
static void depthwise_last_row(const tl::Depthwise& d, const tl::Phase& phase, const tl::Run& rows,
                               const std::vector<tl::Run>& runs, std::int64_t k, const Pixels<T>& pixels, const T* w,
                               const T* bias, T* made) {
    constexpr std::int64_t L = lanes<T>;
    const tl::Axis &R = d.g.rows, &C = d.g.columns;
    const std::int64_t channels = d.made();
    Windows<T> s{phase.rows.taps.data() + rows.first, nullptr, rows.count, 0, d.g.kernel_width, d.g.taps, d.joined,
                 channels, pixels.part, C.size * channels, C.stride * channels, C.step * channels,
                 d.after == tl::After::relu};
    const T* from = pixels.from + (k * R.stride - pixels.first) * s.row;
    T* to = made + ((phase.rows.first + k * R.step) * C.made + phase.columns.first) * channels;
    const auto rolled = [&](const tl::Run& run) {
        const tl::Tap* taps = phase.columns.taps.data() + run.first;
        return rows.count == 3 && run.count == 3 && taps[2].offset - taps[0].offset == 2 && C.stride == 1 &&
               d.joined == 1 && channels >= L;
    };
    for (const tl::Run& run : runs)
        if (rolled(run)) {
            s.columns = phase.columns.taps.data() + run.first;
            roll_all(s, run.end - run.begin, from + run.begin * s.step, w, bias, to + run.begin * s.made_step);
        }
    each_tile_of_channels<T>(channels, vectors_at_once, [&](std::int64_t vectors, std::int64_t c, std::int64_t) {
        for (const tl::Run& run : runs) {
            if (rolled(run)) continue;
            s.columns = phase.columns.taps.data() + run.first, s.column_count = run.count;
            const std::int64_t count = run.end - run.begin;
            const std::int64_t most = channels < L ? 4 : tl::tile_rows(registers, vectors);
            const std::int64_t tiles = (count + most - 1) / most;
            for (std::int64_t t = 0; t < tiles; ++t) {
                const std::int64_t p = run.begin + count * t / tiles, m = run.begin + count * (t + 1) / tiles - p;
                const auto tile = tile_of_channels<LastTile, T>(m, vectors, channels);
                tile(s, from + p * s.step + c, w + c, bias ? bias + c : nullptr, to + p * s.made_step + c);
            }
        }
    });
}

template <class T>
static void depthwise_last(const tl::Depthwise& d, const T* source, const T* w, const T* bias, T* made) {
    const tl::Gather& g = d.g;
    const std::int64_t channels = d.made(), source_size = d.source_plane() * d.source();
    T* weights = tl::room<T>(0, d.joined * g.taps * channels);  // [joined][tap][channel]
    for (std::int64_t j = 0; j < d.joined; ++j)
        planes_to_pixels(w + j * g.taps, d.joined * g.taps, channels, g.taps, weights + j * g.taps * channels, g.taps,
                         channels, std::int64_t{0});
    run_tasks(d.shared, d.tasks, [&](int task) {
        each_image(d, task, [&](std::int64_t n, std::int64_t k0, std::int64_t k1) {
            const Pixels<T> pixels = pixels_of(d, source + n * source_size, k0, k1);
            T* to = made + n * d.made_plane() * channels;
            for (std::size_t r = 0; r < d.row_runs.size(); ++r)
                for (const tl::Run& rows : d.row_runs[r])
                    for (std::int64_t k = std::max(k0, rows.begin); k < std::min(k1, rows.end); ++k)
                        for (std::size_t c = 0; c < d.column_runs.size(); ++c)
                            depthwise_last_row(d, g.phases[r * d.column_runs.size() + c], rows, d.column_runs[c], k,
                                               pixels, weights, bias, to);
        });
    });
}

// Sums of M taps of a row over `count` pixels.
template <class T, bool whole>
struct LastSums {
    static constexpr int widest = vectors_at_once;
    using Call = void (*)(const Windows<T>&, std::int64_t count, const T* x, const T* dy, std::int64_t sums_step,
                          T* sums);
    template <int M, int V>
    static void call(const Windows<T>& s, std::int64_t count, const T* x, const T* dy, std::int64_t sums_step,
                     T* sums) {
        constexpr std::int64_t L = lanes<T>;
        Vec<T> acc[M][V];
        const T* from[M];
        for (int i = 0; i < M; ++i) {
            from[i] = x + s.columns[i].offset * s.channels;
            for (int v = 0; v < V; ++v) acc[i][v] = load(sums + i * sums_step + v * L);
        }
        for (std::int64_t p = 0; p < count; ++p) {
            Vec<T> c[V];
            for (int v = 0; v < V; ++v) c[v] = take<whole>(dy + p * s.made_step + v * L, s.channels);
            for (int i = 0; i < M; ++i)
                for (int v = 0; v < V; ++v)
                    acc[i][v] += take<whole>(from[i] + p * s.step + v * L, s.channels) * c[v];
        }
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) store(sums + i * sums_step + v * L, acc[i][v]);
    }
};

// A row of dy: the sums of the row's taps. sums: [tap][vectors].
template <class T>
static void depthwise_dw_row(const tl::Depthwise& d, const tl::Run& rows, std::int64_t k, const Pixels<T>& pixels,
                             const T* dy, std::int64_t wide, T* sums) {
    constexpr std::int64_t L = lanes<T>;
    const tl::Phase& phase = d.g.phases[0];
    const tl::Axis &R = d.g.rows, &C = d.g.columns;
    const std::int64_t channels = d.made(), width = C.count(), kernel = d.g.kernel_width;
    Windows<T> s{};
    s.channels = channels, s.row = C.size * channels, s.step = C.stride * channels, s.made_step = channels;
    dy += k * width * channels;
    // the pixels of which a tap meets the image
    const auto begin = [&](const tl::Tap& tap) {
        return tap.offset < 0 ? std::min((-tap.offset + C.stride - 1) / C.stride, width) : std::int64_t{0};
    };
    const auto end = [&](const tl::Tap& tap) {
        return tap.offset >= C.size ? std::int64_t{0} : std::min((C.size - 1 - tap.offset) / C.stride + 1, width);
    };
    each_tile_of_channels<T>(channels, vectors_at_once, [&](std::int64_t vectors, std::int64_t c, std::int64_t place) {
        const std::int64_t most = channels < L ? 4 : tl::tile_rows(registers, vectors);
        const std::int64_t tiles = (kernel + most - 1) / most;
        for (std::int64_t r = rows.first; r < rows.first + rows.count; ++r) {
            const T* row = pixels.from + (k * R.stride + phase.rows.taps[r].offset - pixels.first) * s.row + c;
            const auto sum = [&](std::int64_t j, std::int64_t m, std::int64_t a, std::int64_t b) {
                if (a >= b) return;
                s.columns = &phase.columns.taps[j];
                const auto tile = tile_of_channels<LastSums, T>(m, vectors, channels);
                tile(s, b - a, row + a * s.step, dy + a * channels + c, wide, sums + (r * kernel + j) * wide + place);
            };
            for (std::int64_t t = 0; t < tiles; ++t) {
                const std::int64_t j0 = kernel * t / tiles, j1 = kernel * (t + 1) / tiles;
                // pixels that all of these taps meet together, the others tap by tap
                const std::int64_t a = begin(phase.columns.taps[j0]);
                const std::int64_t b = std::max(a, end(phase.columns.taps[j1 - 1]));
                sum(j0, j1 - j0, a, b);
                for (std::int64_t j = j0; j < j1; ++j) {
                    const std::int64_t first = begin(phase.columns.taps[j]), last = end(phase.columns.taps[j]);
                    sum(j, 1, first, std::min(a, last));
                    sum(j, 1, std::max(b, first), last);
                }
            }
        }
    });
}

template <class T>
static void depthwise_dw_last(const tl::Depthwise& d, const T* x, const T* dy, T* dw) {
    constexpr std::int64_t L = lanes<T>;
    const tl::Gather& g = d.g;
    const std::int64_t channels = d.made(), wide = (channels + L - 1) / L * L, size = g.taps * wide;
    T* sums = tl::room<T>(0, d.tasks * size);
    run_tasks(d.shared, d.tasks, [&](int task) {
        T* mine = sums + task * size;
        std::fill(mine, mine + size, T(0));
        each_image(d, task, [&](std::int64_t n, std::int64_t k0, std::int64_t k1) {
            const Pixels<T> pixels = pixels_of(d, x + n * d.source_plane() * d.source(), k0, k1);
            for (const tl::Run& rows : d.row_runs[0])
                for (std::int64_t k = std::max(k0, rows.begin); k < std::min(k1, rows.end); ++k)
                    depthwise_dw_row(d, rows, k, pixels, dy + n * d.made_plane() * channels, wide, mine);
        });
    });
    for (std::int64_t k = 0; k < size; k += L) {
        Vec<T> total = load(sums + k);
        for (std::int64_t task = 1; task < d.tasks; ++task) total += load(sums + task * size + k);
        store(sums + k, total);
    }
    each_tile_of_channels<T>(channels, 1, [&](std::int64_t, std::int64_t c, std::int64_t place) {
        pixels_to_planes(sums + place, wide, std::min(L, channels), g.taps, dw + c * g.taps, g.taps);
    });
}

// ---- planes: vectors lie along a row of pixels
// The inside of a plane's copy; the zeros around it are there.
template <class T>
static void copy_plane(const tl::Depthwise& d, const T* plane, T* copy) {
    constexpr std::int64_t L = lanes<T>;
    const tl::Axis& C = d.g.columns;
    const std::int64_t stride = C.stride, width = C.size, before = -d.left;
    for (std::int64_t r = 0; r < d.g.rows.size; ++r, plane += width) {
        T* row = copy + (r - d.top) * d.pitch;
        std::int64_t k = 0;
        if (stride == 1) {
            for (; k + L <= width; k += L) store(row + before + k, load(plane + k));
#if TL_LEVEL == 2
            if (k < width) store_first(row + before + k, width - k, load_first(plane + k, width - k));
            k = width;
#endif
        } else if (stride == 2) {
            T *even = row + before % 2 * d.part + before / 2, *odd = row + (before + 1) % 2 * d.part + (before + 1) / 2;
            for (; k + 2 * L <= width; k += 2 * L) {
                const Vec<T> a = load(plane + k), b = load(plane + k + L);
                store(even + k / 2, evens<T>(a, b));
                store(odd + k / 2, odds<T>(a, b));
            }
#if TL_LEVEL == 2
            if (k < width) {  // zeros reach into the zeros behind the row
                const Vec<T> a = load_first(plane + k, std::min(L, width - k));
                const Vec<T> b = load_first(plane + k + L, std::max<std::int64_t>(width - k - L, 0));
                store(even + k / 2, evens<T>(a, b));
                store(odd + k / 2, odds<T>(a, b));
            }
            k = width;
#endif
        }
        if (k == width) continue;
        std::int64_t side = (before + k) % stride;
        for (T* to = row + side * d.part + (before + k) / stride; k < width; ++k) {
            *to = plane[k];
            to += d.part;
            if (++side == stride) side = 0, to += 1 - d.pitch;
        }
    }
}

// What is the same for all tiles of a phase.
template <class T>
struct Plane {
    const tl::Place* places;
    std::int64_t count, joined, taps, copy, row, made_row, pixels;
    bool relu;
};

template <class T>
struct PlaneTile {
    static constexpr int widest = 2;
    using Call = void (*)(const Plane<T>&, const T* from, const T* w, T bias, T* to, std::int64_t pixels);
    template <int M, int V>
    static void call(const Plane<T>& s, const T* from, const T* w, T bias, T* to, std::int64_t pixels) {
        constexpr std::int64_t L = lanes<T>;
        Vec<T> acc[M][V];
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) acc[i][v] = all(bias);
        for (std::int64_t j = 0; j < s.joined; ++j)
            for (std::int64_t k = 0; k < s.count; ++k) {
                const T* x = from + j * s.copy + s.places[k].offset;
                const Vec<T> weight = all(w[j * s.taps + s.places[k].index]);
                for (int i = 0; i < M; ++i)
                    for (int v = 0; v < V; ++v) acc[i][v] += load(x + i * s.row + v * L) * weight;
            }
        for (int i = 0; i < M; ++i, to += s.made_row)
            for (int v = 0; v < V; ++v) {
                if (s.relu) acc[i][v] = acc[i][v] < 0 ? all(T(0)) : acc[i][v];  // nan stays
                if (pixels >= (v + 1) * L)
                    store(to + v * L, acc[i][v]);
                else
                    store_first(to + v * L, std::max<std::int64_t>(pixels - v * L, 0), acc[i][v]);
            }
    }
};

// The outputs of a phase, `made_row` apart.
template <class T>
static void plane_phase(const Plane<T>& s, std::int64_t rows, std::int64_t width, const T* from, const T* w, T bias,
                        T* to) {
    constexpr std::int64_t L = lanes<T>;
    // masks cost only without AVX-512: there the last vectors do some pixels once more
    const bool again = TL_LEVEL < 2 && width >= L;
    const std::int64_t vectors = (width + L - 1) / L, at_once = std::min<std::int64_t>(again ? width / L : vectors, PlaneTile<T>::widest);
    for (std::int64_t v = 0; v < vectors; v += at_once) {
        const std::int64_t now = again ? at_once : std::min(at_once, vectors - v);
        const std::int64_t p = again ? std::min(v * L, width - now * L) : v * L;
        const std::int64_t most = tl::tile_rows(registers, now), tiles = (rows + most - 1) / most;
        for (std::int64_t t = 0; t < tiles; ++t) {
            const std::int64_t q = rows * t / tiles, m = rows * (t + 1) / tiles - q;
            tile_of<PlaneTile<T>>(m, now)(s, from + q * s.row + p, w, bias, to + q * s.made_row + p, width - p);
        }
    }
}

// to[k * step + side] = from[side][k] for a row of `width` elements.
template <class T>
static void zip_row(const T* from, std::int64_t part, std::int64_t step, std::int64_t width, T* to) {
    constexpr std::int64_t L = lanes<T>;
    std::int64_t k = 0;
    if (step == 2)
        for (; k + 2 * L <= width; k += 2 * L) {
            const Vec<T> a = load(from + k / 2), b = load(from + part + k / 2);
            store(to + k, zip_low<T>(a, b));
            store(to + k + L, zip_high<T>(a, b));
        }
#if TL_LEVEL == 2
    if (step == 2 && k < width) {  // there is room to read whole vectors
        const Vec<T> a = load(from + k / 2), b = load(from + part + k / 2);
        store_first(to + k, std::min(L, width - k), zip_low<T>(a, b));
        store_first(to + k + L, std::max<std::int64_t>(width - k - L, 0), zip_high<T>(a, b));
        return;
    }
#endif
    std::int64_t side = k % step;
    for (from += side * part + k / step; k < width; ++k) {
        to[k] = *from;
        from += part;
        if (++side == step) side = 0, from += 1 - step * part;
    }
}

// A plane of the destination from copies of the planes that it is made of.
template <class T>
static void plane_made(const tl::Depthwise& d, const T* copy, const T* w, T bias, T* made) {
    const tl::Axis &R = d.g.rows, &C = d.g.columns;
    const std::size_t sides = C.sides.size();
    Plane<T> s{nullptr, 0, d.joined, d.g.taps, d.copy(), R.stride * d.pitch, C.made * R.step, C.made,
               d.after == tl::After::relu};
    const std::int64_t part = C.count(), row = part * C.step;
    T* rows = C.step == 1 ? nullptr : tl::room<T>(3, R.count() * row);
    if (rows) s.made_row = row;
    for (std::size_t r = 0; r < R.sides.size(); ++r) {
        T* to = made + R.sides[r].first * C.made;
        for (std::size_t c = 0; c < sides; ++c) {
            const auto& places = d.places[r * sides + c];
            s.places = places.data(), s.count = static_cast<std::int64_t>(places.size());
            plane_phase(s, R.sides[r].count, C.sides[c].count, copy, w, bias,
                        rows ? rows + static_cast<std::int64_t>(c) * part : to);
        }
        for (std::int64_t k = 0; rows && k < R.sides[r].count; ++k)
            zip_row(rows + k * row, part, C.step, C.made, to + k * R.step * C.made);
    }
}

constexpr std::int64_t channels_of_task = 16;

// `count` source planes of an image from a channel on, as planes.
template <class T>
static const T* planes_of(const tl::Depthwise& d, const T* image, std::int64_t channel, std::int64_t count) {
    const std::int64_t plane = d.source_plane();
    if (!d.g.source_last) return image + channel * plane;
    T* turned = tl::room<T>(2, count * plane);
    pixels_to_planes(image + channel, d.source(), count, plane, turned, plane);
    return turned;
}

template <class T>
static void depthwise_planes(const tl::Depthwise& d, const T* source, const T* w, const T* bias, T* made) {
    const std::int64_t groups = d.g.groups, blocks = (groups + channels_of_task - 1) / channels_of_task;
    run_tasks(d.shared, d.g.n * blocks, [&](int task) {
        const std::int64_t n = task / blocks, a = groups * (task % blocks) / blocks;
        const std::int64_t b = groups * (task % blocks + 1) / blocks, plane = d.source_plane();
        const T* planes =
            planes_of(d, source + n * d.source() * plane, a * d.joined, (b - a) * d.joined);
        T* copy = tl::room<T>(0, d.joined * d.copy() + 16);
        std::fill(copy, copy + d.joined * d.copy() + 16, T(0));
        for (std::int64_t k = a; k < b; ++k) {
            for (std::int64_t j = 0; j < d.joined; ++j, planes += plane) copy_plane(d, planes, copy + j * d.copy());
            for (std::int64_t o = k * d.spread; o < (k + 1) * d.spread; ++o)
                plane_made(d, copy, w + o * d.joined * d.g.taps, bias ? bias[o] : T(0),
                           made + (n * d.made() + o) * d.made_plane());
        }
    });
}

// Sums of M taps over the vectors of a plane's rows.
template <class T>
struct PlaneSums {
    using Call = void (*)(const tl::Place*, std::int64_t rows, std::int64_t vectors, const T* x, std::int64_t x_row,
                          const T* dy, std::int64_t dy_row, T* sums);
    template <int M, int V>
    static void call(const tl::Place* places, std::int64_t rows, std::int64_t vectors, const T* x, std::int64_t x_row,
                     const T* dy, std::int64_t dy_row, T* sums) {
        constexpr std::int64_t L = lanes<T>;
        Vec<T> acc[M];
        std::int64_t offset[M];
        for (int i = 0; i < M; ++i) acc[i] = load(sums + i * L), offset[i] = places[i].offset;
        for (std::int64_t q = 0; q < rows; ++q)
            for (std::int64_t v = 0; v < vectors; ++v) {
                const Vec<T> one = load(dy + q * dy_row + v * L);
                for (int i = 0; i < M; ++i) acc[i] += load(x + q * x_row + v * L + offset[i]) * one;
            }
        for (int i = 0; i < M; ++i) store(sums + i * L, acc[i]);
    }
};

// The last pixels of a row are no whole vector. They have sums of their own, whose other elements count for nothing.
template <class T>
static void depthwise_dw_planes(const tl::Depthwise& d, const T* x, const T* dy, T* dw) {
    constexpr std::int64_t L = lanes<T>;
    const tl::Axis &R = d.g.rows, &C = d.g.columns;
    const std::int64_t groups = d.g.groups, each = d.g.source_last ? channels_of_task : 1;
    const std::int64_t taps = d.g.taps, made = d.made_plane(), width = C.count(), over = width % L;
    const std::int64_t most = tl::tile_rows(registers, 1), tiles = (taps + most - 1) / most;
    run_tasks(d.shared, (groups + each - 1) / each, [&](int task) {
        const std::int64_t a = task * each, b = std::min(a + each, groups);
        const std::int64_t size = 2 * taps * L, all_sums = (b - a) * d.spread * size;
        T* copy = tl::room<T>(0, d.copy() + 16);
        T* sums = tl::room<T>(1, all_sums + made + L);
        T* grads = sums + all_sums;  // vectors reach over the end
        std::fill(copy, copy + d.copy() + 16, T(0));
        std::fill(sums, grads + made + L, T(0));
        for (std::int64_t n = 0; n < d.g.n; ++n) {
            const T* planes = planes_of(d, x + n * d.source() * d.source_plane(), a, b - a);
            for (std::int64_t c = a; c < b; ++c) {
                copy_plane(d, planes + (c - a) * d.source_plane(), copy);
                for (std::int64_t o = c * d.spread; o < (c + 1) * d.spread; ++o) {
                    std::memcpy(grads, dy + (n * d.made() + o) * made, sizeof(T) * made);
                    T* mine = sums + (o - a * d.spread) * size;
                    for (std::int64_t t = 0; t < tiles; ++t) {
                        const std::int64_t k = taps * t / tiles, m = taps * (t + 1) / tiles - k;
                        const auto tile = tile_of<PlaneSums<T>, 1>(m, std::make_index_sequence<tl::tile_rows(registers, 1)>());
                        const std::int64_t row = R.stride * d.pitch, p = width - over;
                        if (p) tile(&d.places[0][k], R.count(), width / L, copy, row, grads, width, mine + k * L);
                        if (over)
                            tile(&d.places[0][k], R.count(), 1, copy + p, row, grads + p, width,
                                 mine + (taps + k) * L);
                    }
                }
            }
        }
        for (std::int64_t o = a * d.spread; o < b * d.spread; ++o)
            for (std::int64_t k = 0; k < taps; ++k) {
                const T* mine = sums + (o - a * d.spread) * size + k * L;
                T total = sum<T>(load(mine));
                for (std::int64_t l = 0; l < over; ++l) total += mine[taps * L + l];
                dw[o * taps + k] = total;
            }
    });
}

// ---- pooling
// Images of one layer's outputs, of which vectors may read some more elements.
template <class T>
static void pool_images(const tl::Conv& c, std::int64_t images, const T* made, T* y, std::uint8_t* at) {
    const std::int64_t channels = c.features(), rows = c.oh / 2, columns = c.ow / 2, windows = rows * columns;
    for (std::int64_t n = 0; n < images; ++n) {
        if (c.y_last) {
            const Block<T> block{made + n * c.oh * c.ow * channels, c.ow * channels, channels, channels};
            pool_to_pixels(block, rows, columns, y + n * windows * channels, at + n * windows * channels, channels);
            continue;
        }
        for (std::int64_t o = n * channels; o < (n + 1) * channels; ++o)
            for (std::int64_t r = 0; r < rows; ++r) {
                const T* top = made + (o * c.oh + 2 * r) * c.ow;
                const std::int64_t window = (o * rows + r) * columns;
                pool_row(top, top + c.ow, columns, (rows - r) * columns, y + window, at + window);
            }
    }
}
