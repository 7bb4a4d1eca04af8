// Random numbers on a GPU: uniform, normal, integers, Bernoulli, dropout, and keys taken from a generator's state.
//
// Macros: ELEM, the type of the numbers; FLOATS, 1 where it is a floating-point type. The key, two int64, is read on
// the device. Word k depends on the key and k alone (philox.cuh), so a thread takes whole blocks of four words, and
// dropout makes its mask anew on the way back. Floor: 4 bytes a float32 written at bandwidth; the ten rounds of a block
// are 60 integer instructions for 16 bytes, about as long as writing them. Normal numbers are bound by float64.
#include "elementwise.cuh"
#include "philox.cuh"

using namespace tl;
typedef ELEM Elem;

constexpr int numbers = philox_numbers<Elem>;  // of a block

// y[i .. i + N - 1] = v as far as y reaches, in one instruction where it may be.
template <int N> TL_DEVICE void put(Elem* y, long long i, long long n, const Elem (&v)[N]) {
    if (i + N <= n && sizeof(Elem) * N <= 16 && is_aligned(y + i, sizeof(Elem) * N)) {
        Vec<Elem, N> all;
#pragma unroll
        for (int k = 0; k < N; ++k) all[k] = v[k];
        store_vec<N>(y + i, all);
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
            if (i + k < n) y[i + k] = v[k];
    }
}
template <int N> TL_DEVICE void get(const Elem* x, long long i, long long n, Elem (&v)[N]) {
    if (i + N <= n && sizeof(Elem) * N <= 16 && is_aligned(x + i, sizeof(Elem) * N)) {
        const Vec<Elem, N> all = load_vec<N>(x + i);
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = all[k];
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
            if (i + k < n) v[k] = x[i + k];
    }
}

// out = state, whose call moves on by one; steps between their two numbers. One thread.
extern "C" __global__ void take_key(long long* state, long long* out, long long state_step, long long out_step) {
    if (threadIdx.x) return;
    const long long call = state[state_step];
    out[0] = state[0], out[out_step] = call, state[state_step] = call + 1;
}

// The integers of 64 bits by which randperm sorts.
extern "C" __global__ void integers(const long long* key, unsigned long long* y, long long n) {
    const PhiloxKey k = philox_key(key);
    grid_stride((n + 1) / 2, [&](long long block) {
        const uint4 w = philox_block(k, block);
        y[2 * block] = philox_integer(w.x, w.y);
        if (2 * block + 1 < n) y[2 * block + 1] = philox_integer(w.z, w.w);
    });
}

// low + integers below `range`.
extern "C" __global__ void randint(const long long* key, Elem* y, long long n, long long low, unsigned long long range) {
    const PhiloxKey k = philox_key(key);
    grid_stride((n + 1) / 2, [&](long long block) {
        const uint4 w = philox_block(k, block);
        const unsigned long long a = philox_integer(w.x, w.y) % range, b = philox_integer(w.z, w.w) % range;
        y[2 * block] = Put<Elem>::of(static_cast<long long>(a + static_cast<unsigned long long>(low)));
        if (2 * block + 1 < n)
            y[2 * block + 1] = Put<Elem>::of(static_cast<long long>(b + static_cast<unsigned long long>(low)));
    });
}

#if FLOATS
extern "C" __global__ void uniform(const long long* key, Elem* y, long long n) {
    const PhiloxKey k = philox_key(key);
    grid_stride((n + numbers - 1) / numbers, [&](long long block) {
        Elem v[numbers];
        philox_uniforms(philox_block(k, block), v);
        put(y, block * numbers, n, v);
    });
}

// Halves by way of float, as the CPU has them.
template <class F> TL_DEVICE void normals_of(const uint4& w, F (&v)[4]) {
    float f[4];
    philox_normals(w, f);
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = from_float<F>(f[k]);
}
TL_DEVICE void normals_of(const uint4& w, double (&v)[2]) { philox_normals(w, v); }

extern "C" __global__ void normal(const long long* key, Elem* y, long long n) {
    const PhiloxKey k = philox_key(key);
    grid_stride((n + numbers - 1) / numbers, [&](long long block) {
        Elem v[numbers];
        normals_of(philox_block(k, block), v);
        put(y, block * numbers, n, v);
    });
}

template <class F> struct Computed { typedef float Type; };
template <> struct Computed<double> { typedef double Type; };
typedef Computed<Elem>::Type Number;

TL_DEVICE unsigned word(const uint4& w, int k) { return k == 0 ? w.x : k == 1 ? w.y : k == 2 ? w.z : w.w; }

// y = 1 with probability x, else 0. Dense arrays.
extern "C" __global__ void bernoulli(const Elem* x, const long long* key, Elem* y, long long n, long long* flag,
                                     int code) {
    const PhiloxKey k = philox_key(key);
    grid_stride((n + 3) / 4, [&](long long block) {
        const uint4 w = philox_block(k, block);
        Elem v[4];
        get(x, 4 * block, n, v);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (4 * block + j < n) {
                const double p = static_cast<double>(read<Number>(v[j]));
                if (!(p >= 0.0 && p <= 1.0)) fault(flag, code, 4 * block + j, n);
                v[j] = Put<Elem>::of(philox_bernoulli(word(w, j), p) ? Number(1) : Number(0));
            }
        put(y, 4 * block, n, v);
    });
}

TL_DEVICE Elem dropped(Elem x, unsigned word, unsigned long long least, Number scale) {
    return Put<Elem>::of(read<Number>(x) * (word >= least ? scale : Number(0)));
}

// y = x scale where the element's word is `least` or more, else x 0. Dense arrays, which may be one.
extern "C" __global__ void dropout(const Elem* x, const long long* key, Elem* y, long long n, unsigned long long least,
                                   double scale) {
    const PhiloxKey k = philox_key(key);
    grid_stride((n + 3) / 4, [&](long long block) {
        const uint4 w = philox_block(k, block);
        Elem v[4];
        get(x, 4 * block, n, v);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (4 * block + j < n) v[j] = dropped(v[j], word(w, j), least, static_cast<Number>(scale));
        put(y, 4 * block, n, v);
    });
}

// The same with one word for each row of `inner` elements; `lanes` threads, a power of 2, share a row.
// grid: (rows, parts of a row).
extern "C" __global__ void dropout_rows(const Elem* x, const long long* key, Elem* y, long long rows, long long inner,
                                        int lanes, unsigned long long least, double scale) {
    const PhiloxKey k = philox_key(key);
    const long long step = grid_step() / lanes, first = static_cast<long long>(blockIdx.y) * lanes;
    for (long long row = grid_first() / lanes; row < rows; row += step) {
        const unsigned w = philox_word(k, row);
        const Elem* from = x + row * inner;
        Elem* to = y + row * inner;
        for (long long i = first + threadIdx.x % lanes; i < inner; i += static_cast<long long>(lanes) * gridDim.y)
            to[i] = dropped(from[i], w, least, static_cast<Number>(scale));
    }
}

// The same for (samples, places, channels) in memory, whose words go by sample, channel and, unless `whole`, place.
extern "C" __global__ void dropout_last(const Elem* x, const long long* key, Elem* y, long long n, long long places,
                                        long long channels, int whole, unsigned long long least, double scale) {
    const PhiloxKey k = philox_key(key);
    grid_stride(n, [&](long long i) {
        const long long c = i % channels, at = i / channels % places, sample = i / channels / places;
        const long long row = sample * channels + c;
        y[i] = dropped(x[i], philox_word(k, whole ? row : row * places + at), least, static_cast<Number>(scale));
    });
}
#endif
