// One function for each element-wise op, and how elements are read and written. The kernels are generated around them
// (tensorlite/backends/launch/elementwise.py): one op, or a chain of ops that a compiled program put together.
//
// C is what an element is computed in: float for float and the halves, double, or the integer type itself. Values follow
// the plain forwards of tensorlite/ops (NumPy's rules): nan wins in maximum and minimum, integers wrap, floor division
// and remainder take the sign of the divisor.
#pragma once
#include "device.cuh"

#define TL_SPECIAL __device__ __forceinline__  // specialisations of templates take no `static`

namespace tl {

template <class T> struct Kind { static constexpr bool is_float = false; };
template <> struct Kind<float> { static constexpr bool is_float = true; };
template <> struct Kind<double> { static constexpr bool is_float = true; };
template <class C> constexpr bool floats = Kind<C>::is_float;

struct Missing {};  // an input that was left out

// ---- elements
template <class C, class T> TL_DEVICE C read(T x) { return static_cast<C>(x); }
template <> TL_SPECIAL float read<float, half_t>(half_t x) { return to_float(x); }
template <> TL_SPECIAL float read<float, bf16_t>(bf16_t x) { return to_float(x); }
template <> TL_SPECIAL double read<double, half_t>(half_t x) { return to_float(x); }
template <> TL_SPECIAL double read<double, bf16_t>(bf16_t x) { return to_float(x); }

template <class T> struct Put {
    template <class C> TL_DEVICE T of(C x) { return static_cast<T>(x); }
};
template <> struct Put<half_t> {
    template <class C> TL_DEVICE half_t of(C x) { return from_float<half_t>(static_cast<float>(x)); }
};
template <> struct Put<bf16_t> {
    template <class C> TL_DEVICE bf16_t of(C x) { return from_float<bf16_t>(static_cast<float>(x)); }
};

template <class T, int V> struct alignas(sizeof(T) * V) Pack { T v[V]; };  // read and written in one instruction

// ---- arithmetic
template <class C> TL_DEVICE C op_add(C x, C w) { return x + w; }
template <> TL_SPECIAL bool op_add(bool x, bool w) { return x || w; }
template <class C> TL_DEVICE C op_sub(C x, C w) { return x - w; }
template <class C> TL_DEVICE C op_mul(C x, C w) { return x * w; }
template <> TL_SPECIAL bool op_mul(bool x, bool w) { return x && w; }
template <class C> TL_DEVICE C op_div(C x, C w) { return x / w; }
template <class C> TL_DEVICE C op_neg(C x) { return -x; }
template <class C> TL_DEVICE C op_clone(C x) { return x; }
template <class C> TL_DEVICE C op_abs(C x) {
    if constexpr (floats<C>) return fabs(x);
    else return x < C(0) ? C(-x) : x;
}
template <> TL_SPECIAL bool op_abs(bool x) { return x; }
template <> TL_SPECIAL unsigned char op_abs(unsigned char x) { return x; }
template <class C> TL_DEVICE C op_sign(C x) {
    if constexpr (floats<C>) {
        if (x != x) return x;
    }
    return C(C(0) < x) - C(x < C(0));
}
template <> TL_SPECIAL bool op_sign(bool x) { return x; }
template <class C> TL_DEVICE C op_reciprocal(C x) { return C(1) / x; }
template <class C> TL_DEVICE C op_maximum(C x, C w) { return x > w || x != x ? x : w; }
template <class C> TL_DEVICE C op_minimum(C x, C w) { return x < w || x != x ? x : w; }
template <class C> TL_DEVICE C op_clamp(C x, C low, C high) { return op_minimum(op_maximum(x, low), high); }
template <class C> TL_DEVICE C op_clamp(C x, Missing, C high) { return op_minimum(x, high); }
template <class C> TL_DEVICE C op_clamp(C x, C low, Missing) { return op_maximum(x, low); }
template <class C> TL_DEVICE C op_floor_divide(C x, C w) {
    if constexpr (floats<C>) {
        if (w == C(0)) return x / w;
        // as Python: floor of the exact quotient, from the remainder
        const C mod = fmod(x, w);
        C quotient = (x - mod) / w;
        if (mod != C(0) && ((w < C(0)) != (mod < C(0)))) quotient -= C(1);
        if (quotient == C(0)) return copysign(C(0), x / w);
        const C low = floor(quotient);
        return quotient - low > C(0.5) ? low + C(1) : low;
    } else {
        if (w == C(0)) return C(0);
        const C q = x / w;
        return (x % w != C(0) && ((x < C(0)) != (w < C(0)))) ? C(q - C(1)) : q;
    }
}
template <class C> TL_DEVICE C op_remainder(C x, C w) {
    if constexpr (floats<C>) {
        const C mod = fmod(x, w);
        if (mod == C(0)) return copysign(C(0), w);
        return (w < C(0)) != (mod < C(0)) ? mod + w : mod;
    } else {
        if (w == C(0)) return C(0);
        const C mod = x % w;
        return mod != C(0) && ((mod < C(0)) != (w < C(0))) ? C(mod + w) : mod;
    }
}
template <class C> TL_DEVICE C op_trunc_divide(C x, C w) {
    if constexpr (floats<C>) return trunc(x / w);
    else return w == C(0) ? C(0) : C(x / w);
}
template <class C> TL_DEVICE C op_pow(C x, C w) {
    if constexpr (floats<C>) {
        return pow(x, w);
    } else {
        C y = C(1);
        for (; w > C(0); w = C(w / C(2))) {
            if (w % C(2) != C(0)) y = C(y * x);
            x = C(x * x);
        }
        return y;
    }
}
template <class C> TL_DEVICE C op_pow_dx(C dy, C x, C w) { return w == C(0) ? dy * C(0) : dy * (w * pow(x, w - C(1))); }
template <class C> TL_DEVICE C op_atan2(C x, C w) { return atan2(x, w); }
template <class C> TL_DEVICE C op_logaddexp(C x, C w) {
    if (x == w) return x + C(0.6931471805599453);
    const C d = x - w;
    return d > C(0) ? x + log1p(exp(-d)) : d <= C(0) ? w + log1p(exp(d)) : d;
}

// ---- functions
template <class C> TL_DEVICE C op_exp(C x) { return exp(x); }
template <class C> TL_DEVICE C op_log(C x) { return log(x); }
template <class C> TL_DEVICE C op_log1p(C x) { return log1p(x); }
template <class C> TL_DEVICE C op_expm1(C x) { return expm1(x); }
template <class C> TL_DEVICE C op_log2(C x) { return log2(x); }
template <class C> TL_DEVICE C op_log10(C x) { return log10(x); }
template <class C> TL_DEVICE C op_sqrt(C x) { return sqrt(x); }
template <class C> TL_DEVICE C op_sqrt_dx(C dy, C s) { return dy / (s + s); }
template <class C> TL_DEVICE C op_sin(C x) { return sin(x); }
template <class C> TL_DEVICE C op_cos(C x) { return cos(x); }
template <class C> TL_DEVICE C op_tanh(C x) { return tanh(x); }
template <class C> TL_DEVICE C op_tanh_dx(C dy, C s) { return dy * (C(1) - s * s); }
template <class C> TL_DEVICE C op_erf(C x) { return erf(x); }
template <class C> TL_DEVICE C op_floor(C x) { if constexpr (floats<C>) return floor(x); else return x; }
template <class C> TL_DEVICE C op_ceil(C x) { if constexpr (floats<C>) return ceil(x); else return x; }
template <class C> TL_DEVICE C op_trunc(C x) { if constexpr (floats<C>) return trunc(x); else return x; }
template <class C> TL_DEVICE C op_round(C x) { if constexpr (floats<C>) return rint(x); else return x; }

// ---- comparisons, which give bool
template <class C> TL_DEVICE bool op_eq(C x, C w) { return x == w; }
template <class C> TL_DEVICE bool op_ne(C x, C w) { return x != w; }
template <class C> TL_DEVICE bool op_lt(C x, C w) { return x < w; }
template <class C> TL_DEVICE bool op_le(C x, C w) { return x <= w; }
template <class C> TL_DEVICE bool op_gt(C x, C w) { return x > w; }
template <class C> TL_DEVICE bool op_ge(C x, C w) { return x >= w; }
template <class C> TL_DEVICE bool op_logical_and(C x, C w) { return x != C(0) && w != C(0); }
template <class C> TL_DEVICE bool op_logical_or(C x, C w) { return x != C(0) || w != C(0); }
template <class C> TL_DEVICE bool op_logical_xor(C x, C w) { return (x != C(0)) != (w != C(0)); }
template <class C> TL_DEVICE bool op_logical_not(C x) { return x == C(0); }
template <class C> TL_DEVICE bool op_isnan(C x) { return x != x; }
template <class C> TL_DEVICE bool op_isinf(C x) { return x - x != C(0) && x == x; }
template <class C> TL_DEVICE bool op_isfinite(C x) { return x - x == C(0); }
template <class C> TL_DEVICE bool op_isclose(C x, C w, C rtol, C atol, bool equal_nan) {
    if (x == w || (equal_nan && x != x && w != w)) return true;
    const C far = op_abs(C(x - w));
    return op_isfinite(far) && far <= atol + op_abs(C(rtol * w));
}
template <class C> TL_DEVICE C op_bitwise_and(C x, C w) { return x & w; }
template <class C> TL_DEVICE C op_bitwise_or(C x, C w) { return x | w; }
template <class C> TL_DEVICE C op_bitwise_xor(C x, C w) { return x ^ w; }
template <class C> TL_DEVICE C op_bitwise_not(C x) { return ~x; }
template <> TL_SPECIAL bool op_bitwise_not(bool x) { return !x; }
template <class C> TL_DEVICE C op_where(bool c, C x, C w) { return c ? x : w; }
template <class C> TL_DEVICE C op_masked_fill(C x, bool mask, C w) { return mask ? w : x; }

// ---- activations and their slopes
template <class C> TL_DEVICE C op_relu(C x) { return op_maximum(x, C(0)); }
template <class C> TL_DEVICE C op_relu_dx(C dy, C s) { return s <= C(0) ? C(0) : dy; }
template <class C> TL_DEVICE C op_sigmoid(C x) {
    const C e = exp(-fabs(x));
    return (x >= C(0) ? C(1) : e) / (C(1) + e);
}
template <class C> TL_DEVICE C op_sigmoid_dx(C dy, C s) { return dy * (s * (C(1) - s)); }
template <class C> TL_DEVICE C op_silu(C x) { return x / (exp(-x) + C(1)); }
template <class C> TL_DEVICE C op_silu_dx(C dy, C x) {
    const C s = op_sigmoid(x);
    return dy * (s * (x * (C(1) - s) + C(1)));
}
template <class C> TL_DEVICE C op_elu(C x, C alpha) { return x > C(0) ? x : expm1(op_minimum(x, C(0))) * alpha; }
template <class C> TL_DEVICE C op_elu_dx(C dy, C x, C alpha) {
    return x > C(0) ? dy : dy * (exp(op_minimum(x, C(0))) * alpha);
}
template <class C> TL_DEVICE C op_celu(C x, C alpha) {
    return x > C(0) ? x : expm1(op_minimum(x, C(0)) / alpha) * alpha;
}
template <class C> TL_DEVICE C op_selu(C x) {
    const C y = x > C(0) ? x : expm1(op_minimum(x, C(0))) * C(1.6732632423543772);
    return y * C(1.0507009873554805);
}
constexpr double kGauss = 0.7978845608028654, kCubic = 0.044715;  // sqrt(2 / pi), and the cubic of the tanh form
template <class C> TL_DEVICE C op_gelu(C x, bool approximate) {
    const C t = approximate ? tanh((x * x * x * C(kCubic) + x) * C(kGauss)) : erf(x * C(0.7071067811865476));
    return x * C(0.5) * (t + C(1));
}
template <class C> TL_DEVICE C op_gelu_dx(C dy, C x, bool approximate) {
    if (approximate) {
        const C t = tanh((x * x * x * C(kCubic) + x) * C(kGauss));
        return dy * ((t + C(1)) * C(0.5) + x * (C(1) - t * t) * (x * x * C(3 * kCubic) + C(1)) * C(0.5 * kGauss));
    }
    const C t = erf(x * C(0.7071067811865476));
    return dy * ((t + C(1)) * C(0.5) + x * exp(x * x * C(-0.5)) * C(0.5 * kGauss));
}
template <class C> TL_DEVICE C op_leaky_relu(C x, C slope) { return x > C(0) || x != x ? x : x * slope; }
template <class C> TL_DEVICE C op_leaky_relu_dx(C dy, C x, C slope) { return x > C(0) ? dy : dy * slope; }
template <class C> TL_DEVICE C op_prelu(C x, C w) { return x > C(0) ? x : x * w; }
template <class C> TL_DEVICE C op_logsigmoid(C x) { return op_minimum(x, C(0)) - log1p(exp(-fabs(x))); }
template <class C> TL_DEVICE C op_logsigmoid_dx(C dy, C x) { return dy * op_sigmoid(-x); }
template <class C> TL_DEVICE C op_softplus(C x, C beta, C threshold) {
    const C z = x * beta;
    return z > threshold ? x : (op_maximum(z, C(0)) + log1p(exp(-fabs(z)))) / beta;
}
template <class C> TL_DEVICE C op_softplus_dx(C dy, C x, C beta, C threshold) {
    const C z = x * beta;
    return z > threshold ? dy : dy * op_sigmoid(z);
}
template <class C> TL_DEVICE C tanh_of_softplus(C x, C e) {  // e = exp(-|x|): no overflow
    return x > C(0) ? (C(1) + C(2) * e) / (C(1) + C(2) * e + C(2) * e * e) : (e * e + C(2) * e) / (e * e + C(2) * e + C(2));
}
template <class C> TL_DEVICE C op_mish(C x) { return x * tanh_of_softplus(x, C(exp(-fabs(x)))); }
template <class C> TL_DEVICE C op_mish_dx(C dy, C x) {
    const C e = exp(-fabs(x)), t = tanh_of_softplus(x, e);
    return dy * (t + x * (C(1) - t * t) * ((x > C(0) ? C(1) : e) / (e + C(1))));
}
template <class C> TL_DEVICE C op_hardtanh(C x, C low, C high) { return op_clamp(x, low, high); }
template <class C> TL_DEVICE C op_hardsigmoid(C x) { return op_clamp(C(x + C(3)), C(0), C(6)) / C(6); }
template <class C> TL_DEVICE C op_hardswish(C x) { return x * (op_clamp(C(x + C(3)), C(0), C(6)) / C(6)); }
template <class C> TL_DEVICE C op_hardshrink(C x, C lambd) { return x >= -lambd && x <= lambd ? C(0) : x; }
template <class C> TL_DEVICE C op_softshrink(C x, C lambd) { return x - op_clamp(x, C(-lambd), lambd); }
template <class C> TL_DEVICE C op_threshold(C x, C threshold, C value) { return x <= threshold ? value : x; }
template <class C> TL_DEVICE C op_bce(C x, C t) {
    return (t - C(1)) * op_maximum(C(log1p(-x)), C(-100)) - t * op_maximum(C(log(x)), C(-100));
}

}  // namespace tl
