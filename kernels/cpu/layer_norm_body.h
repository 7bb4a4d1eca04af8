// The rows [from, to) of layer_norm.cpp, forward and back. See Norm there.
#include "lines_body.h"

// Rows whose scale varies from element to element.
template <class T>
TL_INLINE void scale_elements(const Row<T>& row, const T* x, const Vec<T>& mean, const Vec<T>& r, const T* w,
                              const T* b, T* y) {
    row.each([&](std::int64_t at, auto width, int) TL_ALWAYS {
        put(y + at, width, (take(x + at, width) - mean) * r * take(w + at, width) + take(b + at, width));
    });
}

template <class T>
void normalize(const Norm& f, std::int64_t from, std::int64_t to, const T* x, const T* w, const T* b, T* y, T* means,
               T* vars) {
    const std::int64_t n = f.channels * f.inner;
    const Row<T> row{n}, channel{f.inner};
    for (std::int64_t k = from; k < to; ++k) {
        const T* a = x + k * n;
        T* out = y + k * n;
        const std::int64_t first = k % f.period * f.channels;  // of the scale
        const Vec<T> mean = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                                look_ahead(row, a + at);
                                return take(a + at, width);
                            }) / static_cast<T>(n);
        const Vec<T> var = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                               const Vec<T> off = take(a + at, width, mean[0]) - mean;
                               return off * off;
                           }) / static_cast<T>(n);
        means[k] = mean[0];
        vars[k] = var[0];
        const T r = 1 / std::sqrt(var[0] + static_cast<T>(f.eps));
        if (f.inner == 1) {
            scale_elements(on_lines(n, out), a, mean, all(r), w + first, b + first, out);
            continue;
        }
        for (std::int64_t c = 0; c < f.channels; ++c) {
            const Vec<T> scale = all(r * w[first + c]), shift = all(b[first + c]);
            const std::int64_t start = c * f.inner;
            channel.each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                put(out + start + at, width, (take(a + start + at, width) - mean) * scale + shift);
            });
        }
    }
}

// The gradient of x, and these rows' share of those of scale and shift, added to dw and db.
// With h = (x - mean) r and v = dy w: dx = r (v - sum(v) / n - h sum(v h) / n).
template <class T>
void normalize_dx(const Norm& f, std::int64_t from, std::int64_t to, const T* dy, const T* x, const T* means,
                  const T* vars, const T* w, T* dx, T* dw, T* db) {
    const std::int64_t n = f.channels * f.inner;
    const Row<T> row{n}, channel{f.inner};
    for (std::int64_t k = from; k < to; ++k) {
        const T *a = x + k * n, *g = dy + k * n;
        T* out = dx + k * n;
        const std::int64_t first = k % f.period * f.channels;
        const T r = 1 / std::sqrt(vars[k] + static_cast<T>(f.eps));
        const Vec<T> mean = all(means[k]), rs = all(r), by_n = all(1 / static_cast<T>(n));
        if (f.inner == 1) {
            const T* scale = w + first;
            T *to_w = dw + first, *to_b = db + first;
            Vec<T> sums[places] = {}, inner[places] = {};
            row.each([&](std::int64_t at, auto width, int s) TL_ALWAYS {
                look_ahead(row, a + at);
                look_ahead(row, g + at);
                const Vec<T> h = (take(a + at, width) - mean) * rs, d = take(g + at, width);
                const Vec<T> v = d * take(scale + at, width);
                sums[s] += v;
                inner[s] += v * h;
                put(to_w + at, width, take(to_w + at, width) + d * h);
                put(to_b + at, width, take(to_b + at, width) + d);
            });
            const Vec<T> less = row.join(sums, Plus{}) * by_n * rs, slope = row.join(inner, Plus{}) * by_n * rs;
            on_lines(n, out).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                const Vec<T> h = (take(a + at, width) - mean) * rs;
                put(out + at, width, take(g + at, width) * take(scale + at, width) * rs - (h * slope + less));
            });
            continue;
        }
        T sum = 0, inner = 0;
        for (std::int64_t c = 0; c < f.channels; ++c) {
            const std::int64_t start = c * f.inner;
            Vec<T> sums[places] = {}, products[places] = {};
            channel.each([&](std::int64_t at, auto width, int s) TL_ALWAYS {
                const Vec<T> d = take(g + start + at, width);
                sums[s] += d;
                products[s] += d * ((take(a + start + at, width) - mean) * rs);
            });
            const T d = channel.join(sums, Plus{})[0], p = channel.join(products, Plus{})[0];
            db[first + c] += d;
            dw[first + c] += p;
            sum += d * w[first + c];
            inner += p * w[first + c];
        }
        const Vec<T> less = all(sum) * by_n * rs, slope = all(inner) * by_n * rs;
        for (std::int64_t c = 0; c < f.channels; ++c) {
            const std::int64_t start = c * f.inner;
            const Vec<T> scale = all(w[first + c]) * rs;
            channel.each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                const Vec<T> h = (take(a + start + at, width) - mean) * rs;
                put(out + start + at, width, take(g + start + at, width) * scale - (h * slope + less));
            });
        }
    }
}

// y[j] = the sum of parts[p * n + j] over p, for the columns [from, to), in the order of the parts.
template <class T>
void add_parts(std::int64_t parts, std::int64_t n, std::int64_t from, std::int64_t to, const T* x, T* y) {
    const auto column = [&](std::int64_t j, auto width) TL_ALWAYS {
        Vec<T> sum = take(x + j, width);
        for (std::int64_t p = 1; p < parts; ++p) sum += take(x + p * n + j, width);
        put(y + j, width, sum);
    };
    std::int64_t j = from;
    for (; j + lanes<T> <= to; j += lanes<T>) column(j, Whole<T>{});
    if (j < to) column(j, Part{to - j});
}
