// The loops of batch normalisation, for every instruction set (batch_norm.cpp includes this by each_isa.h; its struct
// BatchNorm holds the sizes).
//
// Mean and variance: a part (a run of a plane, or some rows of channels) that stays in the cache is read twice, once
// for its mean and once for its squared deviations; parts are joined in double by Chan's formula, in the order of memory.

template <int N>
using Fixed = std::integral_constant<int, N>;

// The first n elements at p, `rest` behind them; n is a Fixed for whole vectors.
template <class T, class N>
TL_INLINE Vec<T> some(const T* p, N n, T rest = 0) {
    if constexpr (std::is_same_v<N, Fixed<lanes<T>>>)
        return load(p);
    else
        return load_first(p, n, rest);
}

template <class T, class N>
TL_INLINE void put(T* p, N n, const Vec<T>& v) {
    if constexpr (std::is_same_v<N, Fixed<lanes<T>>>)
        store(p, v);
    else
        store_first(p, n, v);
}

// Calls f(i, n) for vectors of n elements from i that cover `count`.
template <class T, class F>
TL_INLINE void each_vector(std::int64_t count, F f) {
    constexpr int L = lanes<T>;
    std::int64_t i = 0;
    for (; i + L <= count; i += L) f(i, Fixed<L>{});
    if (i < count) f(i, count - i);
}

// Calls f(V, c, n) for V vectors of channels from c at a time; n are in the last of them.
template <class T, class F>
TL_INLINE void each_channels(std::int64_t count, F f) {
    constexpr int L = lanes<T>;
    std::int64_t c = 0;
    for (; c + 4 * L <= count; c += 4 * L) f(Fixed<4>{}, c, Fixed<L>{});
    for (; c + L <= count; c += L) f(Fixed<1>{}, c, Fixed<L>{});
    if (c < count) f(Fixed<1>{}, c, count - c);
}

// What a vector of numbers becomes after scale and shift: more of another tensor, and nothing below 0 (nan stays).
template <class Relu, class V>
TL_INLINE V finish(Relu, const V& v) {
    return Relu::value ? (v < V{} ? V{} : v) : v;
}

// The gradient that passes a relu which gave y.
template <class Relu, class V>
TL_INLINE V passed(Relu, const V& dy, const V& y) {
    return Relu::value ? (y <= V{} ? V{} : dy) : dy;
}

// ---- (N, C, S) in memory
// The elements of a channel in parts that stay in the cache: some planes, or a run of one. They are `length` elements
// from `at` on, and so for `planes` planes, which lie `b.channels * b.inner` apart.
struct Part {
    std::int64_t at, planes, length;
    double count() const { return static_cast<double>(planes * length); }
};

TL_INLINE Part part_of(const BatchNorm& b, std::int64_t c, std::int64_t k) {
    const std::int64_t n = k / b.runs * b.group, r = k % b.runs * b.run;
    return {(n * b.channels + c) * b.inner + r, std::min(b.group, b.outer - n), std::min(b.run, b.inner - r)};
}

// Calls f(v, i, n) for vectors of n elements at i that cover a part; v counts from 0 to 3.
template <class T, class F>
TL_INLINE void each_of_part(const BatchNorm& b, const Part& p, F f) {
    constexpr int L = lanes<T>;
    for (std::int64_t k = 0; k < p.planes; ++k) {
        const std::int64_t start = p.at + k * b.channels * b.inner;
        std::int64_t i = 0;
        for (; i + 4 * L <= p.length; i += 4 * L)
            for (int v = 0; v < 4; ++v) f(v, start + i + v * L, Fixed<L>{});
        each_vector<T>(p.length - i, [&](std::int64_t j, auto m) { f(0, start + i + j, m); });
    }
}

template <class T>
TL_INLINE double sum_of_4(const Vec<T> (&v)[4]) {
    return static_cast<double>(sum<T>((v[0] + v[1]) + (v[2] + v[3])));
}

template <class T>
TL_INLINE void part_moments(const BatchNorm& b, const T* x, const Part& p, double& mean, double& squares) {
    Vec<T> total[4] = {}, off[4] = {}, square[4] = {};
    each_of_part<T>(b, p, [&](int v, std::int64_t i, auto m) { total[v] += some(x + i, m); });
    const T middle = static_cast<T>(sum_of_4<T>(total) / p.count());
    each_of_part<T>(b, p, [&](int v, std::int64_t i, auto m) {
        const Vec<T> d = some(x + i, m, middle) - middle;
        off[v] += d;
        square[v] += d * d;
    });
    const double rest = sum_of_4<T>(off) / p.count();
    mean = static_cast<double>(middle) + rest;
    squares = sum_of_4<T>(square) - rest * rest * p.count();
}

template <class T, class Relu>
TL_INLINE void run_forward(Relu relu, const T* x, const T* more, std::int64_t n, T mean, T scale, T shift, T* y) {
    if (more)
        each_vector<T>(n, [&](std::int64_t i, auto m) {
            put(y + i, m, finish(relu, (some(x + i, m) - mean) * scale + shift + some(more + i, m)));
        });
    else
        each_vector<T>(n, [&](std::int64_t i, auto m) {
            put(y + i, m, finish(relu, (some(x + i, m) - mean) * scale + shift));
        });
}

// Channels [first, last) of the forward. `room` is for two numbers of each part.
template <class T>
void forward_planes(const BatchNorm& b, const Forward<T>& a, std::int64_t first, std::int64_t last, double* room) {
    for (std::int64_t c = first; c < last; ++c) {
        double mean = 0, squares = 0;
        for (std::int64_t k = 0; k < b.parts; ++k) {
            const Part p = part_of(b, c, k);
            part_moments(b, a.x, p, room[2 * k], room[2 * k + 1]);
            mean += room[2 * k] * p.count();
        }
        mean /= b.count;
        for (std::int64_t k = 0; k < b.parts; ++k) {
            const double d = room[2 * k] - mean;
            squares += room[2 * k + 1] + d * d * part_of(b, c, k).count();
        }
        const Affine<T> f = settle(b, a, c, mean, squares / b.count);
        for (std::int64_t n = 0; n < b.outer; ++n) {
            const std::int64_t at = (n * b.channels + c) * b.inner;
            const T* more = a.residual ? a.residual + at : nullptr;
            if (b.relu)
                run_forward(std::true_type{}, a.x + at, more, b.inner, f.mean, f.scale, f.shift, a.y + at);
            else
                run_forward(std::false_type{}, a.x + at, more, b.inner, f.mean, f.scale, f.shift, a.y + at);
        }
    }
}

// x * scale + shift for planes [first, last) of all images, with statistics that are given.
template <class T>
void scale_planes(const BatchNorm& b, const T* x, const T* scale, const T* shift, T* y, std::int64_t first,
                  std::int64_t last) {
    for (std::int64_t k = first; k < last; ++k) {
        const std::int64_t c = k % b.channels;
        const T times = scale[c], plus = shift ? shift[c] : T(0);
        const T* from = x + k * b.inner;
        T* to = y + k * b.inner;
        each_vector<T>(b.inner,
                       [&](std::int64_t i, auto m) { put(to + i, m, some(from + i, m) * times + plus); });
    }
}

template <class T, class Relu>
TL_INLINE void channel_backward(Relu relu, const BatchNorm& b, const Backward<T>& a, std::int64_t c) {
    double total = 0, inner = 0;
    const T mean = a.mean[c];
    for (std::int64_t k = 0; k < b.parts; ++k) {
        Vec<T> s[4] = {}, t[4] = {};
        each_of_part<T>(b, part_of(b, c, k), [&](int v, std::int64_t i, auto m) {
            const Vec<T> g = passed(relu, some(a.dy + i, m), Relu::value ? some(a.y + i, m) : Vec<T>{});
            s[v] += g;
            t[v] = mul_add(g, some(a.x + i, m, mean) - mean, t[v]);
        });
        total += sum_of_4<T>(s);
        inner += sum_of_4<T>(t);
    }
    const Slope<T> f = settle(b, a, c, total, inner);
    for (std::int64_t n = 0; n < b.outer; ++n) {
        const std::int64_t at = (n * b.channels + c) * b.inner;
        each_vector<T>(b.inner, [&](std::int64_t i, auto m) {
            const Vec<T> g = passed(relu, some(a.dy + at + i, m), Relu::value ? some(a.y + at + i, m) : Vec<T>{});
            if (a.d_residual) put(a.d_residual + at + i, m, g);
            const Vec<T> of_x = mul_add(some(a.x + at + i, m) - mean, all(f.x), all(f.one));
            put(a.dx + at + i, m, mul_add(g, all(f.dy), of_x));
        });
    }
}

template <class T>
void backward_planes(const BatchNorm& b, const Backward<T>& a, std::int64_t first, std::int64_t last) {
    for (std::int64_t c = first; c < last; ++c)
        b.relu ? channel_backward(std::true_type{}, b, a, c) : channel_backward(std::false_type{}, b, a, c);
}

// ---- (rows, C) in memory: vectors of channels
// Of each channel over `rows` rows: about its mean, what that lacks, and the squared deviations from both together.
template <class T>
void row_moments(std::int64_t channels, const T* x, std::int64_t rows, T* mean, T* rest, T* squares) {
    constexpr std::int64_t L = lanes<T>;
    each_channels<T>(channels, [&](auto V, std::int64_t c, auto n) {
        constexpr int v_n = V;
        const T* from = x + c;
        Vec<T> total[v_n] = {}, other[v_n] = {}, middle[v_n], off[v_n] = {}, square[v_n] = {};
        std::int64_t r = 0;
        for (; r + 2 <= rows; r += 2)
            for (int v = 0; v < v_n; ++v) {
                total[v] += some(from + r * channels + v * L, n);
                other[v] += some(from + (r + 1) * channels + v * L, n);
            }
        for (int v = 0; v < v_n; ++v) {
            if (r < rows) total[v] += some(from + r * channels + v * L, n);
            middle[v] = (total[v] + other[v]) / static_cast<T>(rows);
        }
        for (r = 0; r < rows; ++r)
            for (int v = 0; v < v_n; ++v) {
                const Vec<T> d = some(from + r * channels + v * L, n) - middle[v];
                off[v] += d;
                square[v] += d * d;
            }
        for (int v = 0; v < v_n; ++v) {
            const Vec<T> lack = off[v] / static_cast<T>(rows);
            put(mean + c + v * L, n, middle[v]);
            put(rest + c + v * L, n, lack);
            put(squares + c + v * L, n, square[v] - off[v] * lack);
        }
    });
}

template <class T, class Relu>
TL_INLINE void rows_forward(Relu relu, std::int64_t channels, const T* x, const T* more, std::int64_t rows,
                            const T* mean, const T* scale, const T* shift, T* y) {
    constexpr std::int64_t L = lanes<T>;
    each_channels<T>(channels, [&](auto V, std::int64_t c, auto n) {
        constexpr int v_n = V;
        Vec<T> m[v_n], s[v_n], t[v_n];
        for (int v = 0; v < v_n; ++v) {
            m[v] = some(mean + c + v * L, n), s[v] = some(scale + c + v * L, n), t[v] = some(shift + c + v * L, n);
        }
        for (std::int64_t r = 0; r < rows; ++r)
            for (int v = 0; v < v_n; ++v) {
                const std::int64_t at = r * channels + c + v * L;
                Vec<T> out = (some(x + at, n) - m[v]) * s[v] + t[v];
                if (more) out += some(more + at, n);
                put(y + at, n, finish(relu, out));
            }
    });
}

// Rows [first, last) of the forward's second pass.
template <class T>
void forward_rows(const BatchNorm& b, const Forward<T>& a, const T* mean, const T* scale, const T* shift,
                  std::int64_t first, std::int64_t last) {
    const std::int64_t at = first * b.channels, rows = last - first;
    const T* more = a.residual ? a.residual + at : nullptr;
    if (b.relu)
        rows_forward(std::true_type{}, b.channels, a.x + at, more, rows, mean, scale, shift, a.y + at);
    else
        rows_forward(std::false_type{}, b.channels, a.x + at, more, rows, mean, scale, shift, a.y + at);
}

template <class T>
void scale_rows(const BatchNorm& b, const T* x, const T* scale, const T* shift, T* y, std::int64_t first,
                std::int64_t last) {
    constexpr std::int64_t L = lanes<T>;
    each_channels<T>(b.channels, [&](auto V, std::int64_t c, auto n) {
        constexpr int v_n = V;
        Vec<T> s[v_n], t[v_n] = {};
        for (int v = 0; v < v_n; ++v) {
            s[v] = some(scale + c + v * L, n);
            if (shift) t[v] = some(shift + c + v * L, n);
        }
        for (std::int64_t r = first; r < last; ++r)
            for (int v = 0; v < v_n; ++v) {
                const std::int64_t at = r * b.channels + c + v * L;
                put(y + at, n, some(x + at, n) * s[v] + t[v]);
            }
    });
}

template <class T, class Relu>
TL_INLINE void rows_sums(Relu relu, const BatchNorm& b, const Backward<T>& a, std::int64_t first, std::int64_t last,
                         T* total, T* inner) {
    constexpr std::int64_t L = lanes<T>;
    each_channels<T>(b.channels, [&](auto V, std::int64_t c, auto n) {
        constexpr int v_n = V;
        Vec<T> m[v_n], s[v_n] = {}, t[v_n] = {};
        for (int v = 0; v < v_n; ++v) m[v] = some(a.mean + c + v * L, n);
        for (std::int64_t r = first; r < last; ++r)
            for (int v = 0; v < v_n; ++v) {
                const std::int64_t at = r * b.channels + c + v * L;
                const Vec<T> g = passed(relu, some(a.dy + at, n), Relu::value ? some(a.y + at, n) : Vec<T>{});
                s[v] += g;
                t[v] = mul_add(g, some(a.x + at, n) - m[v], t[v]);
            }
        for (int v = 0; v < v_n; ++v) {
            put(total + c + v * L, n, s[v]);
            put(inner + c + v * L, n, t[v]);
        }
    });
}

// The sums of dy and of dy (x - mean) for each channel over rows [first, last).
template <class T>
void backward_sums(const BatchNorm& b, const Backward<T>& a, std::int64_t first, std::int64_t last, T* total,
                   T* inner) {
    b.relu ? rows_sums(std::true_type{}, b, a, first, last, total, inner)
           : rows_sums(std::false_type{}, b, a, first, last, total, inner);
}

template <class T, class Relu>
TL_INLINE void rows_backward(Relu relu, const BatchNorm& b, const Backward<T>& a, const T* of_dy, const T* of_x,
                             const T* of_one, std::int64_t first, std::int64_t last) {
    constexpr std::int64_t L = lanes<T>;
    each_channels<T>(b.channels, [&](auto V, std::int64_t c, auto n) {
        constexpr int v_n = V;
        Vec<T> m[v_n], p[v_n], q[v_n], s[v_n];
        for (int v = 0; v < v_n; ++v) {
            m[v] = some(a.mean + c + v * L, n), p[v] = some(of_dy + c + v * L, n);
            q[v] = some(of_x + c + v * L, n), s[v] = some(of_one + c + v * L, n);
        }
        for (std::int64_t r = first; r < last; ++r)
            for (int v = 0; v < v_n; ++v) {
                const std::int64_t at = r * b.channels + c + v * L;
                const Vec<T> g = passed(relu, some(a.dy + at, n), Relu::value ? some(a.y + at, n) : Vec<T>{});
                if (a.d_residual) put(a.d_residual + at, n, g);
                put(a.dx + at, n, mul_add(g, p[v], mul_add(some(a.x + at, n) - m[v], q[v], s[v])));
            }
    });
}

template <class T>
void backward_rows(const BatchNorm& b, const Backward<T>& a, const T* of_dy, const T* of_x, const T* of_one,
                   std::int64_t first, std::int64_t last) {
    b.relu ? rows_backward(std::true_type{}, b, a, of_dy, of_x, of_one, first, last)
           : rows_backward(std::false_type{}, b, a, of_dy, of_x, of_one, first, last);
}
