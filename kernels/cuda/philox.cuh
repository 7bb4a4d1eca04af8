// Random numbers with the CPU's bits: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011), as in
// tensorlite/ops/philox.py and kernels/cpu/random_body.h. Word w of a call depends on its key and w alone: it is one of
// the four of block w / 4. So threads make theirs anywhere, and dropout makes its mask anew on the way back. Normal
// numbers come from float64 operations in a fixed order, each rounded by itself.
#pragma once

#include "device.cuh"

struct PhiloxKey {
    unsigned long long seed, call;
};

// The key of a random call, as the ops hand it on: two int64.
TL_DEVICE PhiloxKey philox_key(const long long* key) {
    return {static_cast<unsigned long long>(key[0]), static_cast<unsigned long long>(key[1])};
}

// Words 4 block to 4 block + 3.
TL_DEVICE uint4 philox_block(const PhiloxKey& key, unsigned long long block) {
    unsigned c0 = static_cast<unsigned>(block), c1 = static_cast<unsigned>(block >> 32);
    unsigned c2 = static_cast<unsigned>(key.call), c3 = static_cast<unsigned>(key.call >> 32);
    unsigned k0 = static_cast<unsigned>(key.seed), k1 = static_cast<unsigned>(key.seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
        const unsigned high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// One word: a block is made for it, so take whole blocks where many are wanted.
TL_DEVICE unsigned philox_word(const PhiloxKey& key, unsigned long long word) {
    const uint4 b = philox_block(key, word >> 2);
    const unsigned k = static_cast<unsigned>(word & 3);
    return k == 0 ? b.x : k == 1 ? b.y : k == 2 ? b.z : b.w;
}

// ---- from words to numbers
// Numbers of type T that a block gives.
template <class T>
constexpr int philox_numbers = sizeof(T) == 8 ? 2 : 4;

// In [0, 1): multiples of 2^-24 (float), 2^-53 (double), 2^-11 (half), 2^-8 (bfloat16).
TL_DEVICE void philox_uniforms(const uint4& w, float (&y)[4]) {
    const unsigned words[] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) y[k] = static_cast<float>(words[k] >> 8) * 0x1p-24f;
}
TL_DEVICE double philox_fraction(unsigned high, unsigned low) {
    const double upper = __dmul_rn(static_cast<double>(high >> 5), 0x1p26);
    return __dmul_rn(__dadd_rn(upper, static_cast<double>(low >> 6)), 0x1p-53);
}
TL_DEVICE void philox_uniforms(const uint4& w, double (&y)[2]) {
    y[0] = philox_fraction(w.x, w.y), y[1] = philox_fraction(w.z, w.w);
}
TL_DEVICE void philox_uniforms(const uint4& w, half_t (&y)[4]) {
    const unsigned words[] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) y[k] = half_of(static_cast<float>(words[k] >> 21) * 0x1p-11f);
}
TL_DEVICE void philox_uniforms(const uint4& w, bf16_t (&y)[4]) {
    const unsigned words[] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) y[k] = bf16_of(static_cast<float>(words[k] >> 24) * 0x1p-8f);
}

// True with probability p in [0, 1].
TL_DEVICE bool philox_bernoulli(unsigned word, double p) { return static_cast<double>(word) * 0x1p-32 < p; }

// Number k of a call is an integer of 64 bits from words 2 k and 2 k + 1: the first and second of a block, or the
// third and fourth.
TL_DEVICE unsigned long long philox_integer(unsigned high, unsigned low) {
    return static_cast<unsigned long long>(high) << 32 | low;
}
TL_DEVICE unsigned long long philox_integer(const PhiloxKey& key, unsigned long long k) {
    const uint4 b = philox_block(key, k >> 1);
    return k & 1 ? philox_integer(b.z, b.w) : philox_integer(b.x, b.y);
}
// The same in [0, n), n > 0.
TL_DEVICE unsigned long long philox_below(const PhiloxKey& key, unsigned long long k, unsigned long long n) {
    return philox_integer(key, k) % n;
}

// ---- normal numbers
template <int N>
TL_DEVICE double philox_polynomial(const double (&c)[N], double t) {
    double y = c[0];
#pragma unroll
    for (int k = 1; k < N; ++k) y = __dadd_rn(__dmul_rn(y, t), c[k]);
    return y;
}

// cos and sin of 2 pi u1 times sqrt(-2 log(1 - u0)): two normal numbers from two uniform ones.
TL_DEVICE void philox_box_muller(double u0, double u1, double& even, double& odd) {
    const double log_[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                           1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    const double sin_[] = {1.0 / 355687428096000, -1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800, 1.0 / 362880,
                           -1.0 / 5040,           1.0 / 120,            -1.0 / 6,         1.0};
    const double cos_[] = {1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800, 1.0 / 40320,
                           -1.0 / 720,           1.0 / 24,           -1.0 / 2,        1.0};
    const double x = __dsub_rn(1.0, u0);  // a normal number: 2^-53 at least
    const long long bits = __double_as_longlong(x);
    double m = __longlong_as_double((bits & 0x000fffffffffffffll) | 0x3fe0000000000000ll);  // in [1/2, 1)
    const bool small = m < 0.7071067811865476;
    m = small ? m * 2.0 : m;
    const double e = static_cast<double>(static_cast<int>(bits >> 52) - 1022 - (small ? 1 : 0));
    const double f = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0));
    const double series = __dmul_rn(f, philox_polynomial(log_, __dmul_rn(f, f)));
    const double log = __dadd_rn(__dmul_rn(e, 0.6931471805599453), __dmul_rn(2.0, series));
    const double radius = __dsqrt_rn(__dmul_rn(log, -2.0));
    const double t = u1 * 4.0, half = __dadd_rn(t, 0.5);
    const int quarter = (half >= 1.0) + (half >= 2.0) + (half >= 3.0) + (half >= 4.0);
    const double r = __dmul_rn(__dsub_rn(t, static_cast<double>(quarter)), 1.5707963267948966), rr = __dmul_rn(r, r);
    const double s = __dmul_rn(r, philox_polynomial(sin_, rr)), c = philox_polynomial(cos_, rr);
    const double cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
    even = __dmul_rn(radius, (quarter + 1) & 2 ? -cosine : cosine);  // negative in quarters 1 and 2
    odd = __dmul_rn(radius, quarter & 2 ? -sine : sine);             // negative in 2 and 3
}

// As the CPU casts a float64: to half in one rounding, to bfloat16 by way of float.
template <class T>
TL_DEVICE T philox_cast(double x) {
    return from_float<T>(static_cast<float>(x));
}
template <>
__device__ __forceinline__ double philox_cast<double>(double x) {
    return x;
}
template <>
__device__ __forceinline__ half_t philox_cast<half_t>(double x) {
    return half_of(x);
}

// The standard normal numbers that a block gives: four, or two of double.
template <class T>
TL_DEVICE void philox_normals(const uint4& w, T (&y)[4]) {
    double a, b, c, d;
    philox_box_muller(static_cast<double>(w.x) * 0x1p-32, static_cast<double>(w.y) * 0x1p-32, a, b);
    philox_box_muller(static_cast<double>(w.z) * 0x1p-32, static_cast<double>(w.w) * 0x1p-32, c, d);
    y[0] = philox_cast<T>(a), y[1] = philox_cast<T>(b), y[2] = philox_cast<T>(c), y[3] = philox_cast<T>(d);
}
TL_DEVICE void philox_normals(const uint4& w, double (&y)[2]) {
    philox_box_muller(philox_fraction(w.x, w.y), philox_fraction(w.z, w.w), y[0], y[1]);
}
