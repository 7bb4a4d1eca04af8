// The loops of pooling, for every instruction set (pooling.cpp includes this by each_isa.h; its struct Pooling holds
// the sizes). Functions work on rows [first, last) of all images, one below the other: a task.
//
// Outputs of a row are computed by whole vectors that may reach into the next row, which is written after; only where
// the task's last row or the end of an array is too near are vectors cut off. So narrow images need no masks.

#include "winners.h"

// The first n elements; `Whole` says at compile time that n is a vector's length.
template <class Whole, class T>
TL_INLINE Vec<T> some(Whole, const T* p, std::int64_t n) {
    return Whole::value ? load(p) : load_first(p, n);
}

template <class Whole, class T>
TL_INLINE void put(Whole, T* p, std::int64_t n, const Vec<T>& v) {
    Whole::value ? store(p, v) : store_first(p, n, v);
}

// Calls f(whole, j, n) for vectors of n elements from j that cover `count`; as long as they end within `room` they are
// whole ones.
template <class T, class F>
TL_INLINE void each_vector(std::int64_t count, std::int64_t room, F f) {
    constexpr std::int64_t L = lanes<T>;
    for (std::int64_t j = 0; j < count; j += L)
        if (j + L <= room)
            f(std::true_type{}, j, L);
        else
            f(std::false_type{}, j, std::min(L, count - j));
}

// ---- (N, C, H, W), windows of 2 x 2 side by side
// The first of the two rows of pixels that belong to a row of windows.
TL_INLINE std::int64_t pixel_row(const Pooling& p, std::int64_t row) {
    return row / p.out_h * p.h + row % p.out_h * 2;
}

// Calls f(whole, j, n, a, b, c, d) with the four pixels of the n windows from j, for each row of windows.
template <class T, class F>
TL_INLINE void each_2x2(const Pooling& p, const T* x, std::int64_t row, std::int64_t room, F f) {
    const std::int64_t out_w = p.out_w;
    const T* top = x + pixel_row(p, row) * p.w;
    const T* low = top + p.w;
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t there = (x + p.planes * p.h * p.w - low) / 2;
    each_vector<T>(out_w, std::min(room, there), [&](auto whole, std::int64_t j, std::int64_t n) {
        const std::int64_t one = std::min(2 * n, L), two = 2 * n - one;
        const Vec<T> t0 = some(whole, top + 2 * j, one), t1 = some(whole, top + 2 * j + L, two);
        const Vec<T> l0 = some(whole, low + 2 * j, one), l1 = some(whole, low + 2 * j + L, two);
        f(whole, j, n, evens<T>(t0, t1), odds<T>(t0, t1), evens<T>(l0, l1), odds<T>(l0, l1));
    });
}

// What relu leaves of pixels, where they pass it (R) before they are pooled.
template <bool R, class T>
TL_INLINE Vec<T> before(const Vec<T>& v) {
    return R ? (v < 0 ? Vec<T>{} : v) : v;  // nan stays
}

// What relu's gradient leaves of the windows' numbers dy from `at` on: y is what was pooled, or null without a relu.
template <class Whole, class T>
TL_INLINE Vec<T> passed(Whole whole, const T* dy, const T* y, std::int64_t at, std::int64_t n) {
    const Vec<T> v = some(whole, dy + at, n);
    return y ? (some(whole, y + at, n) <= 0 ? Vec<T>{} : v) : v;
}

template <class T, class P, bool R>
void max_2x2(const Pooling& p, const T* x, T* y, P* place, std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
        T* to = y + row * p.out_w;
        P* at = place + row * p.out_w;
        each_2x2(p, x, row, (last - row) * p.out_w,
                 [&](auto whole, std::int64_t j, std::int64_t n, const Vec<T>& a, const Vec<T>& b, const Vec<T>& c,
                     const Vec<T>& d) {
                     Best<T> best{before<R, T>(a), Ints<T>{}};
                     meet(best, before<R, T>(b), 1);
                     meet(best, before<R, T>(c), 2);
                     meet(best, before<R, T>(d), 3);
                     put(whole, to + j, n, best.value);
                     store_places<T>(at + j, n, best.place);
                 });
    }
}

template <class T>
void mean_2x2(const Pooling& p, const T* x, T* y, std::int64_t first, std::int64_t last) {
    const T count = static_cast<T>(p.row_count[0] * p.column_count[0]);
    for (std::int64_t row = first; row < last; ++row) {
        T* to = y + row * p.out_w;
        each_2x2(p, x, row, (last - row) * p.out_w,
                 [&](auto whole, std::int64_t j, std::int64_t n, const Vec<T>& a, const Vec<T>& b, const Vec<T>& c,
                     const Vec<T>& d) { put(whole, to + j, n, (((a + b) + c) + d) / count); });
    }
}

// One row of dx: pixel(whole, j, n, even, odd) gives what windows j .. j + n put into its columns 2 j, 2 j + 1, ...
template <class T, class F>
TL_INLINE void spread_row(const Pooling& p, T* dx, std::int64_t room_dx, std::int64_t room_dy, F pixel) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t out_w = p.out_w, w = p.w;
    each_vector<T>(out_w, std::min(room_dx / 2, room_dy), [&](auto whole, std::int64_t j, std::int64_t n) {
        Vec<T> even, odd;
        pixel(whole, j, n, even, odd);
        const std::int64_t one = std::min(2 * n, L), two = 2 * n - one;
        put(whole, dx + 2 * j, one, zip_low<T>(even, odd));
        put(whole, dx + 2 * j + L, two, zip_high<T>(even, odd));
    });
    for (std::int64_t c = 2 * out_w; c < w; ++c) dx[c] = 0;
}

template <class T>
TL_INLINE void zero_rows(const Pooling& p, T* dx, std::int64_t row) {
    if (row % p.out_h == p.out_h - 1 && p.h > 2 * p.out_h)
        std::memset(dx + (row / p.out_h * p.h + 2 * p.out_h) * p.w, 0, (p.h - 2 * p.out_h) * p.w * sizeof(T));
}

template <class T, class P>
void put_2x2(const Pooling& p, const T* dy, const T* y, const P* place, T* dx, std::int64_t first,
             std::int64_t last) {
    const std::int64_t end = pixel_row(p, last) * p.w, windows = p.planes * p.out_h * p.out_w;
    for (std::int64_t row = first; row < last; ++row) {
        const std::int64_t from = row * p.out_w;
        for (std::int64_t half = 0; half < 2; ++half) {
            const std::int64_t start = (pixel_row(p, row) + half) * p.w;
            spread_row(p, dx + start, end - start, windows - row * p.out_w,
                       [&](auto whole, std::int64_t j, std::int64_t n, Vec<T>& even, Vec<T>& odd) {
                           const Vec<T> v = passed(whole, dy, y, from + j, n);
                           const Ints<T> k = load_places<T>(place + from + j, n);
                           even = k == everywhere<T>(2 * half) ? v : Vec<T>{};
                           odd = k == everywhere<T>(2 * half + 1) ? v : Vec<T>{};
                       });
        }
        zero_rows(p, dx, row);
    }
}

template <class T>
void mean_dx_2x2(const Pooling& p, const T* dy, T* dx, std::int64_t first, std::int64_t last) {
    const std::int64_t end = pixel_row(p, last) * p.w, windows = p.planes * p.out_h * p.out_w;
    const T count = static_cast<T>(p.row_count[0] * p.column_count[0]);
    for (std::int64_t row = first; row < last; ++row) {
        const T* from = dy + row * p.out_w;
        for (std::int64_t half = 0; half < 2; ++half) {
            const std::int64_t start = (pixel_row(p, row) + half) * p.w;
            spread_row(p, dx + start, end - start, windows - row * p.out_w,
                       [&](auto whole, std::int64_t j, std::int64_t n, Vec<T>& even, Vec<T>& odd) {
                           even = odd = some(whole, from + j, n) / count;
                       });
        }
        zero_rows(p, dx, row);
    }
}

// ---- (N, C, H, W), any windows
// A row of pixels with its padding, dealt out to `step_w` phases of p.phase elements: window j finds its tap t (of
// dilation d) at phase t d % step, element j + t d / step. So neighbours of windows are neighbours in memory. With R
// pixels pass relu, padding does not.
template <bool R, class T>
void deal_row(const Pooling& p, const T* x, std::int64_t room, T fill, T* to) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t s = p.step_w, pad = p.pad_w;
    const std::int64_t needed = p.out_w + p.dilation_w * (p.kernel_w - 1) / s;
    const auto one = [x](std::int64_t k) { return R && x[k] < 0 ? T(0) : x[k]; };
    if (s == 1) {
        std::int64_t m = 0;
        for (; m < p.w && m + L <= room; m += L) store(to + pad + m, before<R, T>(load(x + m)));
        for (; m < p.w; ++m) to[pad + m] = one(m);
    } else if (s == 2) {
        T* even = to + (pad & 1) * p.phase + pad / 2;
        T* odd = to + (~pad & 1) * p.phase + (pad + 1) / 2;
        const std::int64_t half = (p.w + 1) / 2;
        std::int64_t m = 0;
        for (; m < half && 2 * (m + L) <= room; m += L) {
            const Vec<T> a = before<R, T>(load(x + 2 * m)), b = before<R, T>(load(x + 2 * m + L));
            store(even + m, evens<T>(a, b));
            store(odd + m, odds<T>(a, b));
        }
        for (; m < half; ++m) {
            even[m] = one(2 * m);
            if (2 * m + 1 < p.w) odd[m] = one(2 * m + 1);
        }
    } else {
        for (std::int64_t u = pad % s, m = pad / s, c = 0; c < p.w; ++c) {
            to[u * p.phase + m] = one(c);
            if (++u == s) u = 0, ++m;
        }
    }
    // the padding: what of phase q lies before and behind the image, as far as windows reach
    for (std::int64_t q = 0; q < s; ++q) {
        const std::int64_t begin = (std::max<std::int64_t>(pad - q, 0) + s - 1) / s;
        const std::int64_t end = (std::max<std::int64_t>(pad + p.w - q, 0) + s - 1) / s;
        for (std::int64_t m = 0; m < begin; ++m) to[q * p.phase + m] = fill;
        for (std::int64_t m = end; m < needed; ++m) to[q * p.phase + m] = fill;
    }
}

// Calls f(row, base) for each row of windows; the dealt row of tap i is base + i * p.dilation_h * p.dealt, for taps
// p.first_row[row] <= i < p.last_row[row]. `scratch` has room for p.block rows of windows.
template <bool R, class T, class F>
TL_INLINE void each_dealt(const Pooling& p, const T* x, std::int64_t first, std::int64_t last, T fill, T* scratch,
                          F f) {
    const T* end = x + p.planes * p.h * p.w;
    for (std::int64_t row = first; row < last;) {
        const std::int64_t plane = row / p.out_h, o = row % p.out_h;
        const std::int64_t stop = std::min({o + p.block, p.out_h, o + last - row});
        const std::int64_t low = o * p.step_h - p.pad_h;
        const std::int64_t high = (stop - 1) * p.step_h - p.pad_h + (p.kernel_h - 1) * p.dilation_h + 1;
        for (std::int64_t r = std::max<std::int64_t>(low, 0); r < std::min(high, p.h); ++r) {
            const T* from = x + (plane * p.h + r) * p.w;
            deal_row<R>(p, from, end - from, fill, scratch + (r - low) * p.dealt);
        }
        for (std::int64_t k = o; k < stop; ++k, ++row) f(row, k, scratch + (k - o) * p.step_h * p.dealt);
    }
}

template <class T, class P, bool R>
void max_any(const Pooling& p, const T* x, T* y, P* place, std::int64_t first, std::int64_t last, T* scratch) {
    const T lowest = -std::numeric_limits<T>::infinity();
    each_dealt<R>(p, x, first, last, lowest, scratch, [&](std::int64_t row, std::int64_t o, const T* base) {
        T* to = y + row * p.out_w;
        P* at = place + row * p.out_w;
        each_vector<T>(p.out_w, (last - row) * p.out_w, [&](auto whole, std::int64_t j, std::int64_t n) {
            Best<T> best{all(lowest), load_places<T>(&p.first_column[j], lanes<T>) + everywhere<T>(p.first_row[o] * p.kernel_w)};
            for (std::int64_t i = p.first_row[o]; i < p.last_row[o]; ++i)
                for (std::int64_t k = 0; k < p.kernel_w; ++k)
                    meet(best, load(base + i * p.dilation_h * p.dealt + p.tap[k] + j), i * p.kernel_w + k);
            put(whole, to + j, n, best.value);
            store_places<T>(at + j, n, best.place);
        });
    });
}

template <class T>
void mean_any(const Pooling& p, const T* x, T* y, std::int64_t first, std::int64_t last, T* scratch) {
    each_dealt<false>(p, x, first, last, T(0), scratch, [&](std::int64_t row, std::int64_t o, const T* base) {
        T* to = y + row * p.out_w;
        const T count = static_cast<T>(p.row_count[o]);
        each_vector<T>(p.out_w, (last - row) * p.out_w, [&](auto whole, std::int64_t j, std::int64_t n) {
            Vec<T> total = {}, counts = {};
            for (std::int64_t i = p.first_row[o]; i < p.last_row[o]; ++i)
                for (std::int64_t k = 0; k < p.kernel_w; ++k)
                    total += load(base + i * p.dilation_h * p.dealt + p.tap[k] + j);
            for (std::int64_t l = 0; l < lanes<T>; ++l) counts[l] = static_cast<T>(p.column_count[j + l]);
            put(whole, to + j, n, total / (counts * count));
        });
    });
}

// Adds each window's number to the pixel of its place. `to` is the first pixel of an image, `depth` the step between
// pixels; window (o, j) has its `many` numbers (of as many channels) at (o * out_w + j) * depth of dy and place.
template <class T, class P>
TL_INLINE void scatter(const Pooling& p, const T* dy, const T* y, const P* place, T* to, std::int64_t depth,
                       std::int64_t many) {
    const std::int64_t h = p.h, w = p.w, out_w = p.out_w, taps = p.kernel_h * p.kernel_w;
    const std::int64_t reach_h = p.dilation_h * (p.kernel_h - 1), reach_w = p.dilation_w * (p.kernel_w - 1);
    const std::int64_t *rows = p.place_row.data(), *columns = p.place_column.data(), *pixel = p.place_pixel.data();
    const std::int64_t step_h = p.step_h, step_w = p.step_w, pad_h = p.pad_h, pad_w = p.pad_w;
    for (std::int64_t o = 0; o < p.out_h; ++o)
        for (std::int64_t j = 0; j < out_w; ++j) {
            const std::int64_t top = o * step_h - pad_h, left = j * step_w - pad_w, at = (o * out_w + j) * depth;
            const bool inside = top >= 0 && left >= 0 && top + reach_h < h && left + reach_w < w;
            for (std::int64_t c = 0; c < many; ++c) {
                const std::int64_t k = place[at + c];
                if (y && y[at + c] <= 0) continue;
                if (static_cast<std::uint64_t>(k) >= static_cast<std::uint64_t>(taps)) continue;
                if (!inside && (top + rows[k] < 0 || top + rows[k] >= h || left + columns[k] < 0 ||
                                left + columns[k] >= w))
                    continue;
                to[(top * w + left + pixel[k]) * depth + c] += dy[at + c];
            }
        }
}

// Whole planes [first, last): windows that overlap write the same pixels.
template <class T, class P>
void put_any(const Pooling& p, const T* dy, const T* y, const P* place, T* dx, std::int64_t first,
             std::int64_t last) {
    for (std::int64_t plane = first; plane < last; ++plane) {
        const std::int64_t at = plane * p.out_h * p.out_w;
        T* to = dx + plane * p.h * p.w;
        std::memset(to, 0, p.h * p.w * sizeof(T));
        scatter(p, dy + at, y ? y + at : y, place + at, to, 1, 1);
    }
}

// Rows of dx: the gradients of the windows above and below are added first, then dealt out along the row. `scratch`
// has room for two rows of windows.
template <class T>
void mean_dx_any(const Pooling& p, const T* dy, T* dx, std::int64_t first, std::int64_t last, T* scratch) {
    const std::int64_t w = p.w, out_w = p.out_w, s = p.step_w;
    T* share = scratch + out_w;
    for (std::int64_t j = 0; j < out_w; ++j) share[j] = static_cast<T>(1 / p.column_count[j]);
    for (std::int64_t row = first; row < last; ++row) {
        const std::int64_t plane = row / p.h, r = row % p.h;
        T* to = dx + row * w;
        std::memset(to, 0, w * sizeof(T));
        std::memset(scratch, 0, out_w * sizeof(T));
        for (auto m = p.row_begin[r]; m < p.row_begin[r + 1]; ++m) {
            const std::int64_t o = p.row_meets[m].window;
            const T* from = dy + (plane * p.out_h + o) * out_w;
            const T part = static_cast<T>(1 / p.row_count[o]);
            for (std::int64_t j = 0; j < out_w; ++j) scratch[j] += from[j] * part * share[j];
        }
        for (std::int64_t k = 0; k < p.kernel_w; ++k) {
            const std::int64_t at = k - p.pad_w;
            const std::int64_t j0 = at < 0 ? (-at + s - 1) / s : 0;
            const std::int64_t j1 = at < w ? std::min(out_w, (w - 1 - at) / s + 1) : 0;
            if (s == 1)
                for (std::int64_t j = j0; j < j1; ++j) to[j + at] += scratch[j];
            else
                for (std::int64_t j = j0; j < j1; ++j) to[j * s + at] += scratch[j];
        }
    }
}

// ---- (N, H, W, C) in memory: vectors of channels
template <int N>
using Fixed = std::integral_constant<std::int64_t, N>;

// Calls f(kh, kw, ...) with sizes known to the compiled code for the usual windows.
template <class F>
TL_INLINE void with_window(std::int64_t kh, std::int64_t kw, F f) {
    if (kh == 2 && kw == 2)
        f(Fixed<2>{}, Fixed<2>{});
    else if (kh == 3 && kw == 3)
        f(Fixed<3>{}, Fixed<3>{});
    else
        f(kh, kw);
}

// Calls f(o, window, from, i0, k0, rows, columns, room) for each window: its taps are those from (i0, k0) on in `rows`
// rows and columns, the first at `from`; `room` channels from the window's first may be read and written.
template <class T, class F>
TL_INLINE void each_window(const Pooling& p, const T* x, std::int64_t first, std::int64_t last, F f) {
    const std::int64_t C = p.channels, out_h = p.out_h, out_w = p.out_w, w = p.w, image = p.h * p.w * C;
    const std::int64_t step_w = p.step_w, pad_w = p.pad_w, dilation_h = p.dilation_h, dilation_w = p.dilation_w;
    const std::int32_t* first_column = p.first_column.data();
    const std::int64_t* last_column = p.last_column.data();
    for (std::int64_t row = first; row < last; ++row) {
        const std::int64_t n = row / out_h, o = row % out_h, i0 = p.first_row[o], rows = p.last_row[o] - i0;
        const std::int64_t top = o * p.step_h - p.pad_h + i0 * dilation_h, in_x = (p.images - n) * image;
        for (std::int64_t j = 0; j < out_w; ++j) {
            const std::int64_t k0 = first_column[j], columns = last_column[j] - k0;
            const std::int64_t left = j * step_w - pad_w + k0 * dilation_w;
            const std::int64_t far = ((top + (rows - 1) * dilation_h) * w + left + (columns - 1) * dilation_w) * C;
            const std::int64_t window = (row * out_w + j) * C;
            f(o, j, window, x + n * image + (top * w + left) * C, i0, k0, rows, columns,
              std::min(last * out_w * C - window, in_x - far));
        }
    }
}

template <class T, class P, bool R>
void max_last(const Pooling& p, const T* x, T* y, P* place, std::int64_t first, std::int64_t last) {
    const std::int64_t C = p.channels, kernel_w = p.kernel_w;
    const std::int64_t down = p.dilation_h * p.w * C, right = p.dilation_w * C;
    each_window(p, x, first, last, [&](std::int64_t, std::int64_t, std::int64_t window, const T* from, std::int64_t i0,
                                       std::int64_t k0, std::int64_t rows, std::int64_t columns, std::int64_t room) {
        with_window(rows, columns, [&](auto kh, auto kw) {
            each_vector<T>(C, room, [&](auto whole, std::int64_t c, std::int64_t n) {
                Best<T> best{all(-std::numeric_limits<T>::infinity()), everywhere<T>(i0 * kernel_w + k0)};
                for (std::int64_t i = 0; i < kh; ++i)
                    for (std::int64_t k = 0; k < kw; ++k)
                        meet(best, before<R, T>(some(whole, from + i * down + k * right + c, n)),
                             (i0 + i) * kernel_w + k0 + k);
                put(whole, y + window + c, n, best.value);
                store_places<T>(place + window + c, n, best.place);
            });
        });
    });
}

template <class T>
void mean_last(const Pooling& p, const T* x, T* y, std::int64_t first, std::int64_t last) {
    const std::int64_t C = p.channels, down = p.w * C;
    const double *row_count = p.row_count.data(), *column_count = p.column_count.data();
    each_window(p, x, first, last, [&](std::int64_t o, std::int64_t j, std::int64_t window, const T* from, std::int64_t,
                                       std::int64_t, std::int64_t rows, std::int64_t columns, std::int64_t room) {
        const T count = static_cast<T>(row_count[o] * column_count[j]);
        with_window(rows, columns, [&](auto kh, auto kw) {
            each_vector<T>(C, room, [&](auto whole, std::int64_t c, std::int64_t n) {
                Vec<T> total = {};
                for (std::int64_t i = 0; i < kh; ++i)
                    for (std::int64_t k = 0; k < kw; ++k) total += some(whole, from + i * down + k * C + c, n);
                put(whole, y + window + c, n, total / count);
            });
        });
    });
}

// dx where windows lie side by side, each pixel in one of them or in none: value(whole, at, place, n) is what the window
// whose numbers lie at `at` gives.
template <class T, class F>
TL_INLINE void spread_last(const Pooling& p, T* dx, std::int64_t first, std::int64_t last, F value) {
    const std::int64_t C = p.channels, out_h = p.out_h, out_w = p.out_w, kh = p.kernel_h, kw = p.kernel_w, w = p.w;
    const std::int64_t windows = p.images * out_h * out_w;
    const auto pixel_row = [&](std::int64_t row) { return row / out_h * p.h + row % out_h * kh; };
    const T* end = dx + pixel_row(last) * w * C;
    for (std::int64_t row = first; row < last; ++row) {
        T* to = dx + pixel_row(row) * w * C;
        for (std::int64_t i = 0; i < kh; ++i, to += (w - out_w * kw) * C) {
            for (std::int64_t j = 0; j < out_w; ++j) {
                const std::int64_t at = (row * out_w + j) * C, in_dy = windows * C - at;
                for (std::int64_t k = 0; k < kw; ++k, to += C)
                    each_vector<T>(C, std::min(end - to, in_dy), [&](auto whole, std::int64_t c, std::int64_t n) {
                        put(whole, to + c, n, value(whole, at + c, i * kw + k, n));
                    });
            }
            std::memset(to, 0, (w - out_w * kw) * C * sizeof(T));
        }
        if (row % out_h == out_h - 1) std::memset(to, 0, (p.h - out_h * kh) * w * C * sizeof(T));
    }
}

template <class T, class P>
void put_apart_last(const Pooling& p, const T* dy, const T* y, const P* place, T* dx, std::int64_t first,
                    std::int64_t last) {
    spread_last(p, dx, first, last, [=](auto whole, std::int64_t at, std::int64_t k, std::int64_t n) {
        return load_places<T>(place + at, n) == everywhere<T>(k) ? passed(whole, dy, y, at, n) : Vec<T>{};
    });
}

template <class T>
void mean_dx_apart_last(const Pooling& p, const T* dy, T* dx, std::int64_t first, std::int64_t last) {
    const T count = static_cast<T>(p.row_count[0] * p.column_count[0]);
    spread_last(p, dx, first, last, [=](auto whole, std::int64_t at, std::int64_t, std::int64_t n) {
        return some(whole, dy + at, n) / count;
    });
}

// Blocks [first, last) of channels: block b is those from b % p.blocks * wide of image b / p.blocks.
template <class T, class P>
void put_any_last(const Pooling& p, const T* dy, const T* y, const P* place, T* dx, std::int64_t first,
                  std::int64_t last) {
    const std::int64_t C = p.channels, wide = (C + p.blocks - 1) / p.blocks, pixels = p.h * p.w;
    for (std::int64_t b = first; b < last; ++b) {
        const std::int64_t n = b / p.blocks, c = b % p.blocks * wide, many = std::min(wide, C - c);
        if (many <= 0) continue;
        T* to = dx + n * pixels * C + c;
        if (many == C)
            std::memset(to, 0, pixels * C * sizeof(T));
        else
            for (std::int64_t k = 0; k < pixels; ++k) std::memset(to + k * C, 0, many * sizeof(T));
        const std::int64_t at = n * p.out_h * p.out_w * C + c;
        scatter(p, dy + at, y ? y + at : y, place + at, to, C, many);
    }
}

// Rows of dx, as mean_dx_any. `scratch` has room for a row of windows and a vector.
template <class T>
void mean_dx_last(const Pooling& p, const T* dy, T* dx, std::int64_t first, std::int64_t last, T* scratch) {
    const std::int64_t C = p.channels, w = p.w, line = p.out_w * C;
    for (std::int64_t row = first; row < last; ++row) {
        const std::int64_t n = row / p.h, r = row % p.h;
        std::memset(scratch, 0, line * sizeof(T));
        for (auto m = p.row_begin[r]; m < p.row_begin[r + 1]; ++m) {
            const std::int64_t o = p.row_meets[m].window;
            const T* from = dy + (n * p.out_h + o) * line;
            const T part = static_cast<T>(1 / p.row_count[o]);
            for (std::int64_t j = 0; j < line; ++j) scratch[j] += from[j] * part;
        }
        const Meeting* meets = p.column_meets.data();
        for (std::int64_t j = 0; j < w; ++j) {
            const std::int64_t q0 = p.column_begin[j], q1 = p.column_begin[j + 1];
            T* to = dx + (row * w + j) * C;
            each_vector<T>(C, (last - row) * w * C - j * C, [&](auto whole, std::int64_t c, std::int64_t n) {
                Vec<T> total = {};
                for (std::int64_t q = q0; q < q1; ++q) {
                    const std::int64_t window = meets[q].window;
                    total += load(scratch + window * C + c) * static_cast<T>(1 / p.column_count[window]);
                }
                put(whole, to + c, n, total);
            });
        }
    }
}
