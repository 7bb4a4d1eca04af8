// Element-wise ops on vectors, and the loops that apply them. Included by each_isa.h.
//
// An op is a struct with an operator() on vectors, made from the call's constants. The tail of a row is the same vector
// operation on as many elements as there are, so that an element's bits do not depend on where it lies.

#include "act_body.h"

#define TL_OP inline __attribute__((always_inline))

// How many of n elements stand before the first that begins a cache line, where there are enough to make it worth it:
// vectors as wide as a line cost twice when they lie across two.
template <class T>
TL_INLINE std::int64_t before_line(const T* y, std::int64_t n) {
    const auto over = reinterpret_cast<std::uintptr_t>(y) % TL_BYTES / sizeof(T);
    return over && n >= 16 * lanes<T> ? lanes<T> - static_cast<std::int64_t>(over) : 0;
}

// y = f(x) for n elements.
template <class T, class Op>
struct Unary {
    static void run(std::int64_t n, const T* x, T* y, const Constants& c) {
        const Op op(c);
        std::int64_t k = before_line(y, n);
        if (k) store_first(y, k, op(load_first(x, k)));
        for (; k + lanes<T> <= n; k += lanes<T>) store(y + k, op(load(x + k)));
        if (k < n) store_first(y + k, n - k, op(load_first(x + k, n - k)));
    }
};

// y = f(x, w) for rows of n elements; an operand moves on by `row` from row to row, and is one number a row where `one`.
template <class T, class Op>
struct Binary {
    template <bool x_one, bool w_one>
    static void rows(const Rows<T>& r, const Op& op) {
        const T *x = r.x, *w = r.w;
        T* y = r.y;
        for (std::int64_t i = 0; i < r.rows; ++i, x += r.x_row, w += r.w_row, y += r.y_row) {
            const Vec<T> a = all(*x), b = all(*w);
            std::int64_t k = before_line(y, r.n);
            if (k) store_first(y, k, op(x_one ? a : load_first(x, k), w_one ? b : load_first(w, k)));
            for (; k + lanes<T> <= r.n; k += lanes<T>)
                store(y + k, op(x_one ? a : load(x + k), w_one ? b : load(w + k)));
            if (const std::int64_t n = r.n - k)
                store_first(y + k, n, op(x_one ? a : load_first(x + k, n), w_one ? b : load_first(w + k, n)));
        }
    }
    static void run(const Rows<T>& r, const Constants& c) {
        const Op op(c);
        r.x_one ? rows<true, false>(r, op) : r.w_one ? rows<false, true>(r, op) : rows<false, false>(r, op);
    }
};

// y = c ? x : w for rows of n elements; x and w move with the output or are one number, c may be one a row too.
template <class T>
struct Select {
    template <bool x_one, bool w_one>
    static void rows(const Choice<T>& r) {
        const T *x = r.x, *w = r.w;
        const unsigned char* c = r.c;
        T* y = r.y;
        for (std::int64_t i = 0; i < r.rows; ++i, c += r.c_row, y += r.y_row) {
            const T a = *x, b = *w;
            if (r.c_one) {
                const bool first = *c;
#pragma GCC ivdep
                for (std::int64_t k = 0; k < r.n; ++k) y[k] = first ? (x_one ? a : x[k]) : (w_one ? b : w[k]);
            } else {
#pragma GCC ivdep
                for (std::int64_t k = 0; k < r.n; ++k) y[k] = c[k] ? (x_one ? a : x[k]) : (w_one ? b : w[k]);
            }
            if (!x_one) x += r.y_row;
            if (!w_one) w += r.y_row;
        }
    }
    static void run(const Choice<T>& r) {
        r.x_one ? (r.w_one ? rows<true, true>(r) : rows<true, false>(r))
                : (r.w_one ? rows<false, true>(r) : rows<false, false>(r));
    }
};

// An op without constants: the text makes the value from x, or from x and w.
#define TL_UNARY(NAME, ...)                                              \
    template <class T>                                                   \
    struct NAME : Unary<T, NAME<T>> {                                    \
        explicit NAME(const Constants&) {}                               \
        TL_OP Vec<T> operator()(const Vec<T>& x) const { __VA_ARGS__ }   \
    };
#define TL_BINARY(NAME, ...)                                                              \
    template <class T>                                                                    \
    struct NAME : Binary<T, NAME<T>> {                                                    \
        explicit NAME(const Constants&) {}                                                \
        TL_OP Vec<T> operator()(const Vec<T>& x, const Vec<T>& w) const { __VA_ARGS__ }   \
    };

TL_BINARY(Add, return x + w;)
TL_BINARY(Sub, return x - w;)
TL_BINARY(Mul, return x * w;)
TL_BINARY(Div, return x / w;)
// the other where the first is nan itself: a nan on either side comes through
TL_BINARY(Maximum, return (x > w) | (x != x) ? x : w;)
TL_BINARY(Minimum, return (x < w) | (x != x) ? x : w;)

TL_UNARY(Same, return x;)
TL_UNARY(Neg, return -x;)
TL_UNARY(Abs, return x < 0 ? -x : x == 0 ? Vec<T>{} : x;)
TL_UNARY(Sqrt, return square_root(x);)
TL_UNARY(Reciprocal, return T(1) / x;)
TL_UNARY(Relu, return relu<T>(x);)
TL_UNARY(Sign, return x > 0 ? all(T(1)) : x < 0 ? all(T(-1)) : x;)

// ---- gradients from the incoming one (x) and what was saved (w)
TL_BINARY(ReluDx, return relu_dx<T>(x, w);)
TL_BINARY(SqrtDx, return x / (w + w);)
TL_BINARY(TanhDx, return tanh_dx<T>(x, w);)
TL_BINARY(SigmoidDx, return sigmoid_dx<T>(x, w);)

// ---- a pair of a slope below 0 and one above
template <class T>
struct Leaky : Unary<T, Leaky<T>> {
    T slope;
    explicit Leaky(const Constants& c) : slope(static_cast<T>(c.a)) {}
    TL_OP Vec<T> operator()(const Vec<T>& x) const { return x > 0 ? x : x * slope; }
};

template <class T>
struct LeakyDx : Binary<T, LeakyDx<T>> {
    T slope;
    explicit LeakyDx(const Constants& c) : slope(static_cast<T>(c.a)) {}
    TL_OP Vec<T> operator()(const Vec<T>& dy, const Vec<T>& x) const { return x > 0 ? dy : dy * slope; }
};

// ---- within bounds; nan stays, and a bound that is nan makes all of them nan
template <class T>
struct Clamp : Unary<T, Clamp<T>> {
    T low, high;
    explicit Clamp(const Constants& c) : low(static_cast<T>(c.a)), high(static_cast<T>(c.b)) {}
    TL_OP Vec<T> operator()(const Vec<T>& x) const {
        const Vec<T> least = all(low), most = all(high);
        const Vec<T> y = (x > least) | (x != x) ? x : least;
        return (y < most) | (y != y) ? y : most;
    }
};

// ---- powers of one exponent, of those that are products or quotients (the op's Python side lets no other in)
template <class T>
TL_INLINE Vec<T> power(const Vec<T>& x, T w) {
    if (w == T(2)) return x * x;
    if (w == T(1)) return x;
    if (w == T(0)) return all(T(1));
    if (w == T(3)) return x * x * x;
    if (w == T(4)) return (x * x) * (x * x);
    if (w == T(-1)) return T(1) / x;
    if (w == T(-2)) return T(1) / (x * x);
    return T(1) / (x * x * x);
}

template <class T>
struct Power : Unary<T, Power<T>> {
    T w;
    explicit Power(const Constants& c) : w(static_cast<T>(c.a)) {}
    TL_OP Vec<T> operator()(const Vec<T>& x) const { return power<T>(x, w); }
};

template <class T>
struct PowerDx : Binary<T, PowerDx<T>> {
    T w;
    explicit PowerDx(const Constants& c) : w(static_cast<T>(c.a)) {}
    TL_OP Vec<T> operator()(const Vec<T>& dy, const Vec<T>& x) const {
        return w == 0 ? dy * T(0) : dy * (w * power<T>(x, w - 1));
    }
    static void run(const Rows<T>& r, const Constants& c) {  // of a whole dy and x
        Binary<T, PowerDx<T>>::template rows<false, false>(r, PowerDx(c));
    }
};

// ---- exponentials and their kin
TL_UNARY(Exp, return exp(x);)
TL_UNARY(Expm1, return expm1(x);)
TL_UNARY(Log, return log(x);)
TL_UNARY(Log1p, return log1p(x);)
TL_UNARY(Tanh, return tanh(x);)
TL_UNARY(Sigmoid, return sigmoid(x);)
TL_UNARY(Erf, return erf(x);)

// ---- smooth rectifiers; gradients from the incoming one (dy) and the input
TL_UNARY(Gelu, return gelu<T>(x);)
TL_UNARY(TanhGelu, return gelu_tanh<T>(x);)
TL_UNARY(Silu, return x * sigmoid(x);)
TL_UNARY(LogSigmoid, return smaller(x, Vec<T>{}) - log1p(exp(-without_sign(x)));)
// of exp(x) and exp(-x) the one below 1, so that nothing overflows
TL_UNARY(Mish, {
    const Vec<T> e = exp(-without_sign(x)), one = all(T(1));
    const Vec<T> over = x > 0 ? one + T(2) * e : e * (e + T(2));
    return x * (over / (x > 0 ? over + T(2) * e * e : over + T(2)));
})

TL_BINARY(GeluDx, return gelu_dx<T>(x, w);)
TL_BINARY(TanhGeluDx, return gelu_tanh_dx<T>(x, w);)
TL_BINARY(SiluDx, {
    const Vec<T> s = sigmoid(w);
    return x * (s * (w * (T(1) - s) + T(1)));
})
TL_BINARY(LogSigmoidDx, return x * sigmoid(-w);)
TL_BINARY(MishDx, {
    const Vec<T> e = exp(-without_sign(w)), one = all(T(1));
    const Vec<T> over = w > 0 ? one + T(2) * e : e * (e + T(2)), t = over / (w > 0 ? over + T(2) * e * e : over + T(2));
    return x * (t + w * (T(1) - t * t) * ((w > 0 ? one : e) / (e + T(1))));
})

template <class T>
struct Elu : Unary<T, Elu<T>> {
    T alpha;
    explicit Elu(const Constants& c) : alpha(static_cast<T>(c.a)) {}
    TL_OP Vec<T> operator()(const Vec<T>& x) const { return x > 0 ? x : expm1(x) * alpha; }
};

template <class T>
struct EluDx : Binary<T, EluDx<T>> {
    T alpha;
    explicit EluDx(const Constants& c) : alpha(static_cast<T>(c.a)) {}
    TL_OP Vec<T> operator()(const Vec<T>& dy, const Vec<T>& x) const { return x > 0 ? dy : dy * (exp(x) * alpha); }
};

template <class T>
struct Softplus : Unary<T, Softplus<T>> {
    T beta, threshold;
    explicit Softplus(const Constants& c) : beta(static_cast<T>(c.a)), threshold(static_cast<T>(c.b)) {}
    TL_OP Vec<T> operator()(const Vec<T>& x) const {
        const Vec<T> z = x * beta;
        return z > threshold ? x : (larger(z, Vec<T>{}) + log1p(exp(-without_sign(z)))) / beta;
    }
};

template <class T>
struct SoftplusDx : Binary<T, SoftplusDx<T>> {
    T beta, threshold;
    explicit SoftplusDx(const Constants& c) : beta(static_cast<T>(c.a)), threshold(static_cast<T>(c.b)) {}
    TL_OP Vec<T> operator()(const Vec<T>& dy, const Vec<T>& x) const {
        const Vec<T> z = x * beta;
        return z > threshold ? dy : dy * sigmoid(z);
    }
};
