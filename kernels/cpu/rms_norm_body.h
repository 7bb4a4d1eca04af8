// The rows [from, to) of rms_norm.cpp, forward and back.
#include "lines_body.h"

template <class T>
static void rms_norm(std::int64_t n, double eps, std::int64_t from, std::int64_t to, const T* x, const T* w, T* y,
                     T* squares) {
    const Row<T> row{n};
    for (std::int64_t k = from; k < to; ++k) {
        const T* a = x + k * n;
        T* out = y + k * n;
        squares[k] = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                         look_ahead(row, a + at);
                         const Vec<T> v = take(a + at, width);
                         return v * v;
                     })[0] / static_cast<T>(n);
        const Vec<T> r = all(1 / std::sqrt(squares[k] + static_cast<T>(eps)));
        on_lines(n, out).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
            put(out + at, width, take(a + at, width) * r * take(w + at, width));
        });
    }
}

// With h = x r and v = dy w: dx = r (v - h sum(v h) / n); dw gets these rows' share of the gradient of w.
template <class T>
static void rms_norm_dx(std::int64_t n, double eps, std::int64_t from, std::int64_t to, const T* dy, const T* x,
                        const T* squares, const T* w, T* dx, T* dw) {
    const Row<T> row{n};
    for (std::int64_t k = from; k < to; ++k) {
        const T *a = x + k * n, *g = dy + k * n;
        T* out = dx + k * n;
        const Vec<T> r = all(1 / std::sqrt(squares[k] + static_cast<T>(eps)));
        const Vec<T> slope = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                                 look_ahead(row, a + at);
                                 look_ahead(row, g + at);
                                 const Vec<T> dh = take(g + at, width) * (take(a + at, width) * r);
                                 put(dw + at, width, take(dw + at, width) + dh);
                                 return dh * take(w + at, width);
                             }) * r / static_cast<T>(n);
        on_lines(n, out).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
            put(out + at, width, take(g + at, width) * take(w + at, width) * r - take(a + at, width) * r * slope);
        });
    }
}

// y[j] = the sum of parts[p * n + j] over p, for the columns [from, to), in the order of the parts.
template <class T>
static void add_parts(std::int64_t parts, std::int64_t n, std::int64_t from, std::int64_t to, const T* x, T* y) {
    std::copy(x + from, x + to, y + from);
    for (std::int64_t p = 1; p < parts; ++p)
        for (std::int64_t j = from; j < to; ++j) y[j] += x[p * n + j];
}
