// Vectors of T, and sigmoid and tanh of them. Included once for each instruction set and element type, in a namespace
// of its own; wants the macros T (float or double) and LANES (elements a vector holds).
//
// Both stand on exp(a) for a <= 0 as 2^n (1 + p), with p = exp(r) - 1 for |r| <= ln(2) / 2 by its Taylor series: exact
// to the last digits where p is small, so that tanh keeps its relative error near 0. Nothing overflows; nan stays.

typedef T Vec __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef tl::Bits<T>::type Int;
typedef Int Ints __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

// The first n elements at p, zeros behind them; a whole vector where n is known to be LANES.
TL_INLINE Vec load(const T* p, int n) {
    if (n == LANES) return *reinterpret_cast<const Vec*>(p);
    Vec v = {};
    for (int l = 0; l < n; ++l) v[l] = p[l];
    return v;
}

TL_INLINE void store(T* p, int n, const Vec& v) {
    if (n == LANES) {
        *reinterpret_cast<Vec*>(p) = v;
        return;
    }
    for (int l = 0; l < n; ++l) p[l] = v[l];
}

TL_INLINE Vec without_sign(const Vec& x) { return (Vec)((Ints)x & ~((Ints{} + 1) << (sizeof(T) * 8 - 1))); }

// exp(a) = scale * (1 + p), for a in [-700, 0] (double), [-87, 0] (float).
TL_INLINE void split_exp(const Vec& a, Vec& scale, Vec& p) {
    constexpr bool wide = sizeof(T) == 8;
    constexpr int mantissa = wide ? 52 : 23;
    constexpr T magic = wide ? T(6755399441055744.0) : T(12582912.0);  // added, it leaves a rounded integer at the end
    const Vec shifted = a * T(1.4426950408889634074) + magic;
    const Vec n = shifted - magic;
    Vec r = a - n * (wide ? T(6.93147180369123816490e-01) : T(0.693359375));
    r = r - n * (wide ? T(1.90821492927058770002e-10) : T(-2.12194440e-4));
    Vec q;
    if (wide) {
        q = r * T(1.0 / 6227020800) + T(1.0 / 479001600);
        q = q * r + T(1.0 / 39916800);
        q = q * r + T(1.0 / 3628800);
        q = q * r + T(1.0 / 362880);
        q = q * r + T(1.0 / 40320);
        q = q * r + T(1.0 / 5040);
    } else {
        q = Vec{} + T(1.0 / 5040);
    }
    q = q * r + T(1.0 / 720);
    q = q * r + T(1.0 / 120);
    q = q * r + T(1.0 / 24);
    q = q * r + T(1.0 / 6);
    q = q * r + T(0.5);
    p = q * (r * r) + r;
    const Vec zero = Vec{} + magic;
    const Int bias = wide ? 1023 : 127;
    scale = (Vec)(((Ints)shifted - (Ints)zero + bias) << mantissa);
}

TL_INLINE Vec tanh(const Vec& x) {
    const Vec most = Vec{} - T(40);  // tanh of half of it is -1 in every format
    const Vec twice = without_sign(x) * T(-2), a = twice < most ? most : twice;
    Vec scale, p;
    split_exp(a, scale, p);
    const Vec less = scale * p + (scale - T(1));  // exp(-2 |x|) - 1
    const Vec y = less / (Vec{} - T(2) - less);
    return (Vec)((Ints)without_sign(y) | ((Ints)x & ((Ints{} + 1) << (sizeof(T) * 8 - 1))));
}

TL_INLINE Vec sigmoid(const Vec& x) {
    const Vec most = Vec{} - (sizeof(T) == 8 ? T(700) : T(87)), zero = {}, one = Vec{} + T(1);
    const Vec full = Vec{} - without_sign(x), a = full < most ? most : full;
    Vec scale, p;
    split_exp(a, scale, p);
    const Vec e = scale * p + scale, small = full < most ? zero : e;  // exp(-|x|)
    return (x < zero ? small : one) / (small + T(1));
}
