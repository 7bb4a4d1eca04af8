// The rows [from, to) of layer_norm.cpp, forward and back. See Norm there.
#include "act_body.h"
#include "lines_body.h"

// What (x - mean) r w + b is (behind the end, where x counts as the mean, a finite number), where the scale varies from element to element, and where it is a channel's.
template <class T, class Width>
TL_INLINE Vec<T> of_element(const T* x, const T* w, const T* b, std::int64_t at, Width width, const Vec<T>& mean,
                            const Vec<T>& r) {
    // read first: compilers join a product and a sum (and round once) only where nothing stands between them
    const Vec<T> given = take(x + at, width, mean[0]), scale = take(w + at, width), shift = take(b + at, width);
    return (given - mean) * r * scale + shift;
}
template <class T, class Width>
TL_INLINE Vec<T> of_channel(const T* x, std::int64_t at, Width width, const Vec<T>& mean, const Vec<T>& scale,
                            const Vec<T>& shift) {
    return (take(x + at, width, mean[0]) - mean) * scale + shift;
}

// f(at, width) vector by vector: formulas of activations fill the registers, and gain nothing side by side.
template <class T, class F>
TL_INLINE void one_by_one(std::int64_t n, F f) {
    std::int64_t k = 0;
    for (; k + lanes<T> <= n; k += lanes<T>) f(k, Whole<T>{});
    if (k < n) f(k, Part{n - k});
}

// What goes into an act, as the norm by itself would have stored it.
template <Act A, class V>
TL_INLINE V stored(const V& z) {
    if constexpr (A == Act::none)
        return z;
    else
        return settled(z);
}

template <Act A, bool Added, class T>
static void normalize(const Norm& f, std::int64_t from, std::int64_t to, const Forward<T>& p) {
    const std::int64_t n = f.channels * f.inner;
    const Row<T> row{n}, channel{f.inner};
    for (std::int64_t k = from; k < to; ++k) {
        const T *x = p.x + k * n, *more = Added ? p.residual + k * n : nullptr, *a = Added ? p.sum + k * n : x;
        T *out = p.y + k * n, *sums = Added ? p.sum + k * n : nullptr;
        const std::int64_t first = k % f.period * f.channels;  // of the scale
        const T *w = p.w + first, *b = p.b + first;
        const Vec<T> mean = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                                look_ahead(row, x + at);
                                Vec<T> v = take(x + at, width);
                                if constexpr (Added) {
                                    look_ahead(row, more + at);
                                    v += take(more + at, width);
                                    put(sums + at, width, v);
                                }
                                return v;
                            }) / static_cast<T>(n);
        const Vec<T> var = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                               const Vec<T> off = take(a + at, width, mean[0]) - mean;
                               return off * off;
                           }) / static_cast<T>(n);
        p.mean[k] = mean[0];
        p.var[k] = var[0];
        const T r = 1 / std::sqrt(var[0] + static_cast<T>(f.eps));
        if (f.inner == 1) {
            const Vec<T> rs = all(r);
            const auto write = [&](std::int64_t at, auto width, int = 0) TL_ALWAYS {
                put(out + at, width, act<A, T>(stored<A>(of_element(a, w, b, at, width, mean, rs))));
            };
            A == Act::none ? on_lines(n, out).each(write) : one_by_one<T>(n, write);
            continue;
        }
        for (std::int64_t c = 0; c < f.channels; ++c) {
            const Vec<T> scale = all(r * w[c]), shift = all(b[c]);
            const T* part = a + c * f.inner;
            T* made = out + c * f.inner;
            const auto write = [&](std::int64_t at, auto width, int = 0) TL_ALWAYS {
                put(made + at, width, act<A, T>(stored<A>(of_channel(part, at, width, mean, scale, shift))));
            };
            A == Act::none ? channel.each(write) : one_by_one<T>(f.inner, write);
        }
    }
}

// The gradient that passes an act of z: those of some are made of its output.
template <Act A, class T>
TL_INLINE Vec<T> passed(const Vec<T>& dy, const Vec<T>& z) {
    constexpr bool of_output = A == Act::relu || A == Act::tanh || A == Act::sigmoid;
    return act_dx<A, T>(dy, settled(of_output ? act<A, T>(settled(z)) : z));
}

// The same of a row, whose norm is made anew.
template <Act A, class T>
TL_INLINE void pass_row(const Norm& f, const T* dy, const T* x, const Vec<T>& mean, T r, const T* w, const T* b, T* to) {
    if (f.inner == 1) {
        const Vec<T> rs = all(r);
        return one_by_one<T>(f.channels, [&](std::int64_t at, auto width) TL_ALWAYS {
            put(to + at, width, passed<A, T>(take(dy + at, width), of_element(x, w, b, at, width, mean, rs)));
        });
    }
    for (std::int64_t c = 0; c < f.channels; ++c, dy += f.inner, x += f.inner, to += f.inner) {
        const Vec<T> scale = all(r * w[c]), shift = all(b[c]);
        one_by_one<T>(f.inner, [&](std::int64_t at, auto width) TL_ALWAYS {
            put(to + at, width, passed<A, T>(take(dy + at, width), of_channel(x, at, width, mean, scale, shift)));
        });
    }
}

// The gradient of x, and these rows' share of those of scale and shift, added to dw and db.
// With h = (x - mean) r and v = dy w: dx = r (v - sum(v) / n - h sum(v h) / n); of x + residual, what came in for it is
// added. What passed an act is kept in dx until then.
template <Act A, bool Added, class T>
static void normalize_dx(const Norm& f, std::int64_t from, std::int64_t to, const Backward<T>& p, T* dw, T* db) {
    const std::int64_t n = f.channels * f.inner;
    const Row<T> row{n}, channel{f.inner};
    for (std::int64_t k = from; k < to; ++k) {
        const T *a = p.x + k * n, *g = p.dy + k * n, *more = Added ? p.d_sum + k * n : nullptr;
        T* out = p.dx + k * n;
        const std::int64_t first = k % f.period * f.channels;
        const T* w = p.w + first;
        T *to_w = dw + first, *to_b = db + first;
        const T r = 1 / std::sqrt(p.var[k] + static_cast<T>(f.eps));
        const Vec<T> mean = all(p.mean[k]), rs = all(r), by_n = all(1 / static_cast<T>(n));
        if constexpr (A != Act::none) {
            pass_row<A, T>(f, g, a, mean, r, w, p.b + first, out);
            g = out;
        }
        const auto finish = [&](std::int64_t at, auto width, const Vec<T>& scaled, const Vec<T>& less,
                                const Vec<T>& slope) TL_ALWAYS {
            const Vec<T> h = (take(a + at, width) - mean) * rs;
            Vec<T> dx = scaled - (h * slope + less);
            if constexpr (Added) dx += take(more + at, width);
            put(out + at, width, dx);
        };
        if (f.inner == 1) {
            Vec<T> sums[places] = {}, inner[places] = {};
            row.each([&](std::int64_t at, auto width, int s) TL_ALWAYS {
                look_ahead(row, a + at);
                look_ahead(row, g + at);
                if constexpr (Added) look_ahead(row, more + at);
                const Vec<T> h = (take(a + at, width) - mean) * rs, d = take(g + at, width);
                const Vec<T> v = d * take(w + at, width);
                sums[s] += v;
                inner[s] += v * h;
                put(to_w + at, width, take(to_w + at, width) + d * h);
                put(to_b + at, width, take(to_b + at, width) + d);
            });
            const Vec<T> less = row.join(sums, Plus{}) * by_n * rs, slope = row.join(inner, Plus{}) * by_n * rs;
            on_lines(n, out).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                finish(at, width, take(g + at, width) * take(w + at, width) * rs, less, slope);
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
            const T d = channel.join(sums, Plus{})[0], q = channel.join(products, Plus{})[0];
            to_b[c] += d;
            to_w[c] += q;
            sum += d * w[c];
            inner += q * w[c];
        }
        const Vec<T> less = all(sum) * by_n * rs, slope = all(inner) * by_n * rs;
        for (std::int64_t c = 0; c < f.channels; ++c) {
            const std::int64_t start = c * f.inner;
            const Vec<T> scale = all(w[c]) * rs;
            channel.each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                finish(start + at, width, take(g + start + at, width) * scale, less, slope);
            });
        }
    }
}

template <class T>
static Kernel<T> kernel(Act of) {
    switch (of) {
        case Act::relu: return {normalize<Act::relu, false, T>, normalize_dx<Act::relu, false, T>};
        case Act::gelu: return {normalize<Act::gelu, false, T>, normalize_dx<Act::gelu, false, T>};
        case Act::gelu_tanh: return {normalize<Act::gelu_tanh, false, T>, normalize_dx<Act::gelu_tanh, false, T>};
        case Act::tanh: return {normalize<Act::tanh, false, T>, normalize_dx<Act::tanh, false, T>};
        case Act::sigmoid: return {normalize<Act::sigmoid, false, T>, normalize_dx<Act::sigmoid, false, T>};
        default: return {normalize<Act::none, false, T>, normalize_dx<Act::none, false, T>};
    }
}

template <class T>
static Kernel<T> kernel_of_sum() {
    return {normalize<Act::none, true, T>, normalize_dx<Act::none, true, T>};
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
