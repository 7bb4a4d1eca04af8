// Copies of arrays of any strides into dense ones, in units of 1, 2, 4, 8 or 16 bytes (T): the host joins dimensions
// and takes the widest unit that strides and addresses allow, so that two dense arrays are copied 16 bytes at a time.
// Floor: each byte is read and written once, 2 * bytes / bandwidth. Where neighbours in the output lie far apart in
// the input, a whole sector of 32 bytes is read for each of them.
//
// T: the unit. WIDE: 1 where there are 2^31 units or more.
#if WIDE
typedef unsigned long long Index;
#define OVER(i, n, m, s) ((i) / (n))
#else
typedef unsigned Index;
// i / n for i below 2^31 by the magic number m and the shift s of n: 3 instructions where a division takes 20
#define OVER(i, n, m, s) ((static_cast<unsigned>(static_cast<unsigned long long>(i) * (m) >> 32) + (i)) >> (s))
#endif

// Takes digit k of what is left of an index, to the base n, and moves by it; all threads agree in `dims`.
#define DIGIT(k)                                                 \
    if (dims > k + 1) {                                          \
        const Index more = OVER(left, n##k, m##k, s##k);         \
        at += static_cast<long long>(left - more * n##k) * d##k; \
        left = more;                                             \
    } else if (dims == k + 1)                                    \
        at += static_cast<long long>(left) * d##k

#define THREADS 256
#define EACH 4  // units a thread, all read before the first is written

// Unit i of y is the unit of x at the sum of i_k * d_k, where i_k are the digits of i to the bases n_k: the 1 to 6
// dimensions, the innermost first.
extern "C" __global__ void __launch_bounds__(THREADS)
    strided(const T* x, T* y, long long units, int dims,                                         //
            unsigned n0, unsigned m0, int s0, unsigned n1, unsigned m1, int s1,                  //
            unsigned n2, unsigned m2, int s2, unsigned n3, unsigned m3, int s3,                  //
            unsigned n4, unsigned m4, int s4,                                                    //
            long long d0, long long d1, long long d2, long long d3, long long d4, long long d5) {
    const Index n = static_cast<Index>(units);
    const Index first = static_cast<Index>(blockIdx.x) * (THREADS * EACH) + threadIdx.x;
    T v[EACH];
#pragma unroll
    for (int u = 0; u < EACH; ++u) {
        Index left = first + u * THREADS;
        if (left < n) {
            long long at = 0;
            DIGIT(0);
            DIGIT(1);
            DIGIT(2);
            DIGIT(3);
            DIGIT(4);
            if (dims == 6) at += static_cast<long long>(left) * d5;
            v[u] = x[at];
        }
    }
#pragma unroll
    for (int u = 0; u < EACH; ++u)
        if (first + u * THREADS < n) y[first + u * THREADS] = v[u];
}
