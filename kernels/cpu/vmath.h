// exp, log and their kin of vectors of float or double. Included by each_isa.h behind simd.h, in the namespace of each
// instruction set; no include guard. A body calls exp(v) for a vector and std::exp(x) for a number.
//
// nan stays nan, -0 stays -0 where the function is odd, and every argument is allowed: exp gives inf and, gradually,
// denormal numbers and 0; log reads denormal numbers. Largest errors found, in units in the last place, against 80-bit
// functions (4 million arguments each over the whole range, every instruction set):
//     float   exp 1.1  expm1 1.8  log 0.9  log1p 1.5  tanh 2.5 (relative 1.9e-7) sigmoid 2.2 (1.8e-7) erf 2.1 (1.6e-7)
//     double  exp 1.0  expm1 2.0  log 0.8  log1p 1.2  tanh 2.5 (relative 3.8e-16) sigmoid 2.3 (3.3e-16) erf 1.8 (3e-16)
// Coefficients interpolate at Chebyshev's points, which is within a few percent of the best polynomial.

template <class V>
using Element = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<const V&>()[0])>>;
template <class T>
using Ints = Vec<std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>>;

// What the formulas need to know of a format.
template <class T>
struct Format;
template <>
struct Format<float> {
    static constexpr int mantissa = 23, bias = 127;
    static constexpr std::int32_t root_half = 0x3f3504f3;  // the bits of sqrt(1/2)
    static constexpr float magic = 12582912.0f;            // added, it leaves a rounded integer in the last bits
    static constexpr float least = -104, most = 89;        // exp is 0 below and inf above
    static constexpr float ln2 = 0.693359375f, ln2_rest = -2.12194440e-4f;  // ln2 n is exact for an exponent n
    static constexpr float erf_one = 4;                    // erf is 1 from here on
};
template <>
struct Format<double> {
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr std::int64_t root_half = 0x3fe6a09e667f3bcd;
    static constexpr double magic = 6755399441055744.0;
    static constexpr double least = -746, most = 710;
    static constexpr double ln2 = 6.93147180369123816490e-01, ln2_rest = 1.90821492927058770002e-10;
    static constexpr double erf_one = 6;
};

// c[0] x^(N-1) + ... + c[N-1]
template <class V, std::size_t N>
TL_INLINE V polynomial(const V& x, const Element<V> (&c)[N]) {
    V y = V{} + c[0];
    for (std::size_t k = 1; k < N; ++k) y = y * x + c[k];
    return y;
}

template <class V>
TL_INLINE V without_sign(const V& x) {
    using I = Ints<Element<V>>;
    return (V)((I)x & ~((I{} + 1) << (sizeof(Element<V>) * 8 - 1)));
}

template <class V>
TL_INLINE V with_sign_of(const V& x, const V& sign) {
    using I = Ints<Element<V>>;
    return (V)((I)without_sign(x) | ((I)sign & ((I{} + 1) << (sizeof(Element<V>) * 8 - 1))));
}

// a + b of bits, which wrap around where they are those of a nan.
template <class I>
TL_INLINE I add_bits(const I& a, const I& b) {
    using U = Vec<std::make_unsigned_t<Element<I>>>;
    return (I)((U)a + (U)b);
}

// 2^n of a whole number n that still has Format::magic added; n from -126 to 127 (float), -1022 to 1023 (double).
template <class V>
TL_INLINE V power_of_two(const V& shifted) {
    using F = Format<Element<V>>;
    using I = Ints<Element<V>>;
    return (V)(add_bits((I)shifted, I{} + F::bias) << F::mantissa);
}

// v 2^n for the n of any exp: in two steps, rounded once, where the instruction set has no step of its own.
template <class V>
TL_INLINE V times_power(const V& v, const V& shifted) {
    using F = Format<Element<V>>;
    const V n = shifted - F::magic;
#if TL_LEVEL == 2
    if constexpr (sizeof(Element<V>) == 4)
        return (V)_mm512_maskz_scalef_ps(0xffff, (__m512)v, (__m512)n);
    else
        return (V)_mm512_maskz_scalef_pd(0xff, (__m512d)v, (__m512d)n);
#else
    const V half = n * Element<V>(0.5) + F::magic, rest = n - (half - F::magic) + F::magic;
    return v * power_of_two(half) * power_of_two(rest);
#endif
}

// exp(x) = 2^n (1 + p): n with Format::magic added, and p, exact to its own last digits where it is small.
template <class V>
TL_INLINE V split_exp(const V& x, V& shifted) {
    using T = Element<V>;
    using F = Format<T>;
    shifted = x * T(1.4426950408889634074) + F::magic;
    const V n = shifted - F::magic;
    const V r = (x - n * F::ln2) - n * F::ln2_rest;
    V q;  // (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2
    if constexpr (sizeof(T) == 4) {
        static constexpr T c[] = {1.3926326e-03f, 8.363293e-03f, 4.1666552e-02f, 1.6666576e-01f, 0.5f};
        q = polynomial(r, c);
    } else {
        static constexpr T c[] = {2.091483135138041e-09,  2.5105419192016337e-08, 2.7557273295539724e-07,
                           2.75572549134867e-06,   2.4801587325822283e-05, 0.00019841269875205077,
                           0.001388888888888367,   0.008333333333326025,   0.04166666666666667,
                           0.1666666666666667,     0.5};
        q = polynomial(r, c);
    }
    return q * (r * r) + r;
}

template <class V>
TL_INLINE V exp(const V& x) {
    using T = Element<V>;
    V shifted;
    const V p = split_exp(smaller(V{} + Format<T>::most, larger(V{} + Format<T>::least, x)), shifted);
    return times_power(p + T(1), shifted);
}

// exp(x) - 1, exact to the last digits near 0.
template <class V>
TL_INLINE V expm1(const V& x) {
    using T = Element<V>;
    V shifted;
    const V p = split_exp(smaller(V{} + Format<T>::most, larger(V{} - T(50), x)), shifted);
    const V half = power_of_two(shifted - T(1));  // halves, so that 2^n cannot be inf before its time
    const V y = (half * p + (half - T(0.5))) * T(2);
    return without_sign(x) < std::numeric_limits<T>::min() ? x : y;
}

// 2^t = 2^n (1 + r q) for a whole number n and |r| <= 1/2, to 9e-8, by half the operations of exp: for float that comes
// out of a product, t = x log2(e), and has lost its last digits already. Of inf there is no r: n is inf and r is 0.
struct Split2 {
    Vec<float> n, r, q;
};
TL_INLINE Split2 split_exp2(const Vec<float>& t) {
    static constexpr float c[] = {1.32647272e-3f, 9.67151299e-3f, 5.55073358e-2f, 2.40222424e-1f, 6.93147004e-1f};
#if TL_LEVEL == 2
    const Vec<float> r = (Vec<float>)_mm512_maskz_reduce_ps(0xffff, (__m512)t, 0), n = t - r;  // t less the nearest n
#else
    const Vec<float> n = (t + Format<float>::magic) - Format<float>::magic, r = t - n;
#endif
    return {n, r, polynomial(r, c)};
}

// 2^n v; n from -126 to 128 where there is no AVX-512, anything where there is.
TL_INLINE Vec<float> times_two_to(const Vec<float>& n, const Vec<float>& v) {
#if TL_LEVEL == 2
    return (Vec<float>)_mm512_maskz_scalef_ps(0xffff, (__m512)v, (__m512)n);
#else
    return v * power_of_two(n + Format<float>::magic);
#endif
}

template <class V>
TL_INLINE V log(const V& x) {
    using T = Element<V>;
    using F = Format<T>;
    using I = Ints<T>;
    constexpr T up = T(std::int64_t(1) << F::mantissa);
    const auto denormal = x < std::numeric_limits<T>::min();
    const V normal = denormal ? x * up : x;
    const I one = (I)(V{} + T(1));
    const I moved = add_bits((I)normal, one - F::root_half);  // x = 2^e m with m from sqrt(1/2) to sqrt(2)
    const V m = (V)((moved & (((I{} + 1) << F::mantissa) - 1)) + F::root_half);
    V e = (V)((moved >> F::mantissa) + (I)(V{} + up)) - (up + F::bias);
    e = denormal ? e - T(F::mantissa) : e;
    // log(1 + f) = f - f^2/2 + s (f^2/2 + R) with s = f / (2 + f) and R = 2 atanh(s) / s - 2
    const V f = m - T(1), s = f / (f + T(2)), z = s * s, half = f * f * T(0.5);
    V r;
    if constexpr (sizeof(T) == 4) {
        static constexpr T c[] = {2.3331614e-01f, 2.855078e-01f, 4.0000123e-01f, 6.666667e-01f};
        r = polynomial(z, c) * z;
    } else {
        static constexpr T c[] = {0.14617807153417325, 0.15331611722055008, 0.1818289243253687, 0.22222211089379496,
                           0.28571428626253836, 0.3999999999989889,  0.666666666666667};
        r = polynomial(z, c) * z;
    }
    const V y = e * F::ln2 - ((half - (s * (half + r) + e * F::ln2_rest)) - f);
    const V infinity = V{} + std::numeric_limits<T>::infinity(), nan = V{} + std::numeric_limits<T>::quiet_NaN();
    return x > V{} ? (x < infinity ? y : x) : (x == V{} ? -infinity : nan);
}

// log(1 + x), exact to the last digits near 0: what rounding 1 + x lost comes back as a correction.
template <class V>
TL_INLINE V log1p(const V& x) {
    using T = Element<V>;
    const V u = x + T(1), lost = (x - (u - T(1))) / u, zero = {};
    const auto usable = (u > zero) & (u < V{} + std::numeric_limits<T>::infinity());
    return x == zero ? x : log(u) + (usable ? lost : zero);
}

template <class V>
TL_INLINE V tanh(const V& x) {
    using T = Element<V>;
    V shifted;
    const V p = split_exp(larger(V{} - T(40), without_sign(x) * T(-2)), shifted);
    const V scale = power_of_two(shifted), less = scale * p + (scale - T(1));  // exp(-2 |x|) - 1
    return with_sign_of(less / (less + T(2)), x);
}

// 1 / (1 + exp(-x)); its denormal numbers are kept.
template <class V>
TL_INLINE V sigmoid(const V& x) {
    using T = Element<V>;
    const V e = exp(-without_sign(x));
    return (x < V{} ? e : V{} + T(1)) / (e + T(1));
}

// -(exp(q) - 1) with -q = -log(1 - erf|x|) = |x| (2 / sqrt(pi) + |x| S(|x|)): one polynomial from 0 to where erf is 1.
template <class V>
TL_INLINE V erf(const V& x) {
    using T = Element<V>;
    constexpr T one = Format<T>::erf_one;
    const V a = smaller(V{} + one, without_sign(x)), t = a * (2 / one) - T(1);
    V s;
    if constexpr (sizeof(T) == 4) {
        static constexpr T c[] = {1.1545717e-05f, -4.809026e-07f,  -8.52971e-05f,  1.9043944e-04f,
                           -2.7334454e-04f, 2.606539e-04f,  3.9027768e-04f, -3.2218578e-03f,
                           1.1918254e-02f,  -3.4893923e-02f, 9.0799354e-02f, 7.770457e-01f};
        s = polynomial(t, c);
    } else {
        static constexpr T c[] = {
            -1.7230323433576207e-08, 8.839926661507805e-09,   1.5786363773226922e-07,  -1.5413567891408674e-07,
            -4.6530265237967543e-07, 5.689786277782035e-07,   6.416367284326533e-07,   -7.647434368210037e-07,
            -1.0225905647706484e-06, 1.217307574886056e-06,   7.418045118079207e-07,   -1.5306227396360324e-06,
            1.401576054506419e-06,   -3.0399884736716888e-06, 5.974060151377348e-06,   -8.010459071517836e-06,
            7.34065735638976e-06,    -3.2435732641174337e-07, -2.020439889293362e-05,  6.418825999497644e-05,
            -0.00014167877652924662, 0.00025519969721055736,  -0.0003811936040238833,  0.0004319986850259169,
            -0.00018498520972888246, -0.0008416129425636883,  0.0035972691691656756,   -0.009842550469932109,
            0.022721519383238187,    -0.047780282239045756,   0.09507472048155732,     0.815025060077175};
        s = polynomial(t, c);
    }
    V shifted;
    const V p = split_exp(-(a * (a * s + T(0.12837916709551257390)) + a), shifted), scale = power_of_two(shifted);
    return with_sign_of(scale * p + (scale - T(1)), x);
}
