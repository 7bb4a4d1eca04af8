// Transposes in registers: planes (channels by pixels) to pixels (pixels by channels) and back. Included by the body of
// a kernel for each instruction set, after simd.h; no include guard.

// One step of a transpose: blocks of S elements of two rows change places crosswise.
template <int S, class V, std::size_t... L>
TL_INLINE void cross(V& a, V& b, std::index_sequence<L...>) {
    constexpr int n = sizeof...(L);
    const V low = __builtin_shufflevector(a, b, ((L & S) ? n + static_cast<int>(L) - S : static_cast<int>(L))...);
    b = __builtin_shufflevector(a, b, ((L & S) ? n + static_cast<int>(L) : static_cast<int>(L) + S)...);
    a = low;
}

template <class T, int S>
TL_INLINE void cross_rows(Vec<T> (&r)[lanes<T>]) {
    if constexpr (S > 0) {
        for (int k = 0; k < lanes<T>; ++k)
            if (!(k & S)) cross<S>(r[k], r[k + S], std::make_index_sequence<lanes<T>>());
        cross_rows<T, S / 2>(r);
    }
}

// Rows become columns.
template <class T>
TL_INLINE void turn(Vec<T> (&r)[lanes<T>]) {
    cross_rows<T, lanes<T> / 2>(r);
}

// Walks the pixels of an image's rows: where each lies.
template <class P>
struct Walk {
    P* at;
    std::int64_t column, width, step, jump;  // a row's pixels lie `step` apart; `jump` more from its last to the next
    void next() {
        at += step;
        if (++column == width) {
            column = 0;
            at += jump;
        }
    }
};

// pixels[p][c] = planes[c][p] for `count` pixels and `channels` channels. A plane's pixels are a run; the pixels go to
// rows of `width`, `step` apart, with `jump` more between rows.
template <class T>
static void planes_to_pixels(const T* planes, std::int64_t plane, std::int64_t channels, std::int64_t count, T* pixels,
                             std::int64_t width, std::int64_t step, std::int64_t jump) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t row = width * step + jump;
    if (channels == 1) {
        for (std::int64_t p = 0; p < count; p += width, pixels += row)
            for (std::int64_t k = 0; k < std::min(width, count - p); ++k) pixels[k * step] = planes[p + k];
        return;
    }
    for (std::int64_t p0 = 0; p0 < count; p0 += L) {
        // what is over is done with some pixels once more; only an image of few pixels has a part of a block
        const std::int64_t p = count >= L ? std::min(p0, count - L) : 0, m = std::min(L, count);
        for (std::int64_t c0 = 0; c0 < channels; c0 += L) {
            const std::int64_t c = channels >= L ? std::min(c0, channels - L) : 0, n = std::min(L, channels);
            Vec<T> r[L];
            if (m == L && n == L) {
                for (std::int64_t k = 0; k < L; ++k) r[k] = load(planes + (c + k) * plane + p);
            } else {
                for (std::int64_t k = 0; k < L; ++k)
                    r[k] = k < n ? load_first(planes + (c + k) * plane + p, m) : all(T(0));
            }
            turn<T>(r);
            Walk<T> to{pixels + p / width * row + p % width * step + c, p % width, width, step, jump};
            for (std::int64_t k = 0; k < m; ++k, to.next()) {
                if (n == L)
                    store(to.at, r[k]);
                else
                    store_first(to.at, n, r[k]);
            }
        }
    }
}

// planes[c][p] = pixels[p][c]: the way back, from pixels `step` apart.
template <class T>
static void pixels_to_planes(const T* pixels, std::int64_t step, std::int64_t channels, std::int64_t count, T* planes,
                             std::int64_t plane) {
    constexpr std::int64_t L = lanes<T>;
    for (std::int64_t p0 = 0; p0 < count; p0 += L) {
        const std::int64_t p = count >= L ? std::min(p0, count - L) : 0, m = std::min(L, count);
        for (std::int64_t c0 = 0; c0 < channels; c0 += L) {
            const std::int64_t c = channels >= L ? std::min(c0, channels - L) : 0, n = std::min(L, channels);
            Vec<T> r[L];
            const T* from = pixels + p * step + c;
            if (m == L && n == L) {
                for (std::int64_t k = 0; k < L; ++k) r[k] = load(from + k * step);
            } else {
                for (std::int64_t k = 0; k < L; ++k) r[k] = k < m ? load_first(from + k * step, n) : all(T(0));
            }
            turn<T>(r);
            for (std::int64_t k = 0; k < n; ++k) {
                T* to = planes + (c + k) * plane + p;
                if (m == L)
                    store(to, r[k]);
                else
                    store_first(to, m, r[k]);
            }
        }
    }
}
