// Philox4x32-10 for as many blocks at once as a register holds, and what is made of its words: uniform and normal
// numbers, dropout. Included by each_isa.h. The definitions are those of tensorlite/ops/philox.py, operation by
// operation: every number has the same bits.

typedef std::uint64_t Words __attribute__((vector_size(TL_BYTES), aligned(8), may_alias));
typedef std::int64_t Signed __attribute__((vector_size(TL_BYTES), aligned(8), may_alias));
typedef float Narrow __attribute__((vector_size(TL_BYTES / 2), aligned(4), may_alias));
typedef std::uint32_t NarrowBits __attribute__((vector_size(TL_BYTES / 2), aligned(4), may_alias));
constexpr int wide = lanes<double>;

// The low halves of the lanes times m, in all 64 bits.
TL_INLINE Words product(const Words& a, std::uint32_t m) {
    const Words b = Words{} + m;
#if TL_LEVEL == 2
    return (Words)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif TL_LEVEL == 1
    return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
    return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffffu) * b;
#endif
}

// `wide` blocks of four words from block `first` on, in order.
TL_INLINE void block_words(std::uint64_t first, const tl::Key& key, std::uint32_t* to) {
    // Lane 2 j holds block j, lane 2 j + 1 block wide / 2 + j: then words pair up without crossing parts of a register.
    Words c[4] = {};
    for (int l = 0; l < wide; ++l) {
        const std::uint64_t block = first + static_cast<std::uint64_t>(l % 2 ? wide / 2 + l / 2 : l / 2);
        c[0][l] = block, c[1][l] = block >> 32;
    }
    c[2] = Words{} + (key.call & 0xffffffffu), c[3] = Words{} + (key.call >> 32);
    auto k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {  // upper halves are left as they come: products do not see them
        const Words p0 = product(c[0], 0xD2511F53u), p1 = product(c[2], 0xCD9E8D57u);
        c[0] = (p1 >> 32) ^ c[1] ^ (Words{} + k0), c[1] = p1;
        c[2] = (p0 >> 32) ^ c[3] ^ (Words{} + k1), c[3] = p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const Words a = (c[0] & 0xffffffffu) | c[1] << 32, b = (c[2] & 0xffffffffu) | c[3] << 32;
    Words low, high;
#if TL_LEVEL == 2
    low = (Words)_mm512_maskz_unpacklo_epi64(0xff, (__m512i)a, (__m512i)b);
    high = (Words)_mm512_maskz_unpackhi_epi64(0xff, (__m512i)a, (__m512i)b);
#elif TL_LEVEL == 1
    low = (Words)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
    high = (Words)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
#else
    low = Words{a[0], b[0]}, high = Words{a[1], b[1]};
#endif
    *reinterpret_cast<Words*>(to) = low;
    *reinterpret_cast<Words*>(to + 2 * wide) = high;
}

constexpr int batch = 512;  // words that are made at a time; they stay in the first-level cache

// f(words, done, n) for n words at a time of those from `first` (a multiple of 4) on.
template <class F>
TL_INLINE void in_batches(const tl::Key& key, std::int64_t first, std::int64_t count, F f) {
    alignas(64) std::uint32_t words[batch];
    for (std::int64_t done = 0; done < count; done += batch) {
        const std::int64_t n = std::min<std::int64_t>(batch, count - done);
        for (std::int64_t k = 0; k < n; k += 4 * wide)
            block_words(static_cast<std::uint64_t>(first + done + k) / 4, key, words + k);
        f(words, done, n);
    }
}

// y = x times (scale where the word of its row reaches least, else 0); rows of `inner` elements.
template <class T>
static void dropout(const tl::Key& key, std::int64_t first, std::int64_t rows, std::int64_t inner, std::uint32_t least,
                    T scale, const T* x, T* y) {
    in_batches(key, first, rows, [&](const std::uint32_t* words, std::int64_t done, std::int64_t n) {
        for (std::int64_t k = 0; inner == 1 && k < n; ++k)
            y[done + k] = x[done + k] * (words[k] >= least ? scale : T(0));
        for (std::int64_t k = 0; inner != 1 && k < n; ++k) {
            const T factor = words[k] >= least ? scale : T(0);
            const std::int64_t row = (done + k) * inner;
            for (std::int64_t i = row; i < row + inner; ++i) y[i] = x[i] * factor;
        }
    });
}

// y = 1 where the word / 2^32 is less than x, else 0; whether all x are probabilities.
template <class T>
static bool bernoulli(const tl::Key& key, std::int64_t first, std::int64_t n, const T* x, T* y) {
    int good = 1;
    in_batches(key, first, n, [&](const std::uint32_t* words, std::int64_t done, std::int64_t n) {
        const T* p = x + done;
        int all = 1;
        for (std::int64_t k = 0; k < n; ++k) all &= static_cast<int>(p[k] >= 0) & static_cast<int>(p[k] <= 1);
        good &= all;
        for (std::int64_t k = 0; k < n; ++k) y[done + k] = words[k] * 0x1p-32 < static_cast<double>(p[k]) ? T(1) : T(0);
    });
    return good;
}

// A number in [0, 1) from one word, a multiple of 2^-24, or from two, of 2^-53.
TL_INLINE void fraction(const std::uint32_t* words, float& y) {
    y = static_cast<float>(static_cast<int>(words[0] >> 8)) * 0x1p-24f;
}

TL_INLINE void fraction(const std::uint32_t* words, double& y) {
    const double high = static_cast<int>(words[0] >> 5), low = static_cast<int>(words[1] >> 6);
    y = (high * 0x1p26 + low) * 0x1p-53;
}

template <class T>
static void uniform(const tl::Key& key, std::int64_t first, std::int64_t n, T* y) {
    constexpr int each = sizeof(T) / 4;  // words for a number
    in_batches(key, each * first, each * n, [&](const std::uint32_t* words, std::int64_t done, std::int64_t made) {
        for (std::int64_t k = 0; k < made / each; ++k) fraction(words + each * k, y[done / each + k]);
    });
}

template <int N>
TL_INLINE Vec<double> horner(const double (&c)[N], const Vec<double>& t) {
    Vec<double> y = all(c[0]);
    for (int k = 1; k < N; ++k) y = y * t + c[k];
    return y;
}

// cos and sin of 2 pi u1 times sqrt(-2 log(1 - u0)): two normal numbers from two uniform ones.
TL_INLINE void box_muller(const Vec<double>& u0, const Vec<double>& u1, Vec<double>& even, Vec<double>& odd) {
    static const double log_[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                  1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    static const double sin_[] = {1.0 / 355687428096000, -1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800,
                                  1.0 / 362880,          -1.0 / 5040,          1.0 / 120,        -1.0 / 6,
                                  1.0};
    static const double cos_[] = {1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800,
                                  1.0 / 40320,          -1.0 / 720,         1.0 / 24,        -1.0 / 2,
                                  1.0};
    const Vec<double> x = 1.0 - u0;  // a normal number: 2^-53 at least
    const Signed bits = (Signed)x;
    Vec<double> m = (Vec<double>)((bits & 0x000fffffffffffff) | 0x3fe0000000000000);  // in [1/2, 1)
    const Signed small = m < 0.7071067811865476;                                       // -1 where true
    m = small ? m * 2.0 : m;
    const Vec<double> e = __builtin_convertvector((bits >> 52) - 1022 + small, Vec<double>);
    const Vec<double> f = (m - 1.0) / (m + 1.0);
    const Vec<double> log = e * 0.6931471805599453 + 2.0 * (f * horner(log_, f * f));
    const Vec<double> radius = square_root(log * -2.0);
    const Vec<double> t = u1 * 4.0, half = t + 0.5;
    const Signed quarter = -((half >= 1.0) + (half >= 2.0) + (half >= 3.0) + (half >= 4.0));
    const Vec<double> r = (t - __builtin_convertvector(quarter, Vec<double>)) * 1.5707963267948966;
    const Vec<double> s = r * horner(sin_, r * r), c = horner(cos_, r * r);
    const Signed swap = (quarter & 1) != 0;
    const Vec<double> cos = swap ? s : c, sin = swap ? c : s;
    even = radius * (Vec<double>)((Signed)cos ^ (((quarter + 1) & 2) << 62));  // negative in quarters 1 and 2
    odd = radius * (Vec<double>)((Signed)sin ^ ((quarter & 2) << 62));         // negative in 2 and 3
}

// Words as float64: bits of 2^52 + w, less 2^52.
TL_INLINE Vec<double> as_double(const Words& w) {
    return (Vec<double>)(w | 0x4330000000000000u) - 0x1p52;
}

// 2 wide normal numbers from 2 wide words.
TL_INLINE void normals(const std::uint32_t* words, float* y) {
    const Words w = *reinterpret_cast<const Words*>(words);
    Vec<double> even, odd;
    box_muller(as_double(w & 0xffffffffu) * 0x1p-32, as_double(w >> 32) * 0x1p-32, even, odd);
    const auto low = (NarrowBits)__builtin_convertvector(even, Narrow);
    const auto high = (NarrowBits)__builtin_convertvector(odd, Narrow);
    *reinterpret_cast<Words*>(y) = __builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 32;
}

// The same from 4 wide words.
TL_INLINE void normals(const std::uint32_t* words, double* y) {
    Vec<double> u0, u1, even, odd;
    double u[2 * wide];
    for (int l = 0; l < 2 * wide; ++l) fraction(words + 2 * l, u[l]);
    for (int l = 0; l < wide; ++l) u0[l] = u[2 * l], u1[l] = u[2 * l + 1];
    box_muller(u0, u1, even, odd);
    for (int l = 0; l < wide; ++l) y[2 * l] = even[l], y[2 * l + 1] = odd[l];
}

template <class T>
static void normal(const tl::Key& key, std::int64_t first, std::int64_t n, T* y) {
    constexpr int each = sizeof(T) / 4;  // words for a number
    const std::int64_t count = (n + 1) / 2 * 2 * each;
    in_batches(key, each * first, count, [&](const std::uint32_t* words, std::int64_t done, std::int64_t made) {
        T* to = y + done / each;
        const std::int64_t left = std::min(made / each, n - done / each);
        std::int64_t k = 0;
        for (; k + 2 * wide <= left; k += 2 * wide) normals(words + each * k, to + k);
        if (k < left) {
            T rest[2 * wide];
            normals(words + each * k, rest);
            std::copy_n(rest, left - k, to + k);
        }
    });
}
