// Copies of arrays of any strides into dense ones, in units of 1, 2, 4, 8 or 16 bytes: the host joins dimensions
// and takes the widest unit that strides and addresses allow, so that two dense arrays are copied 16 bytes at a time.
// Where neighbours in the output lie far apart in the input, but some other dimension is dense there, both are walked
// in tiles that turn in shared memory. Floor of both: each byte is read and written once, 2 * bytes / bandwidth.
//
// UNIT: the unit. WIDE: 1 where there are 2^31 units or more.
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
    strided(const UNIT* x, UNIT* y, long long units, int dims,                                   //
            unsigned n0, unsigned m0, int s0, unsigned n1, unsigned m1, int s1,                  //
            unsigned n2, unsigned m2, int s2, unsigned n3, unsigned m3, int s3,                  //
            unsigned n4, unsigned m4, int s4,                                                    //
            long long d0, long long d1, long long d2, long long d3, long long d4, long long d5) {
    const Index n = static_cast<Index>(units);
    const Index first = static_cast<Index>(blockIdx.x) * (THREADS * EACH) + threadIdx.x;
    UNIT v[EACH];
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

#define SIDE 32  // of a tile; a block has 8 rows of 32 threads

// y[.., r * dy + c] = x[.., c * dx + r] for all c below columns and r below rows, at each place of up to 4 dimensions
// more: n_k of them, x_k apart in x and y_k in y. A block turns one tile.
extern "C" __global__ void __launch_bounds__(THREADS)
    turned(const UNIT* x, UNIT* y, long long columns, long long rows, long long dx, long long dy,  //
           long long n0, long long x0, long long y0, long long n1, long long x1, long long y1,  //
           long long n2, long long x2, long long y2, long long n3, long long x3, long long y3) {
    __shared__ UNIT tile[SIDE * (SIDE + 1)];  // one more in a row, so that a column has its banks to itself
    const Index across = static_cast<Index>((columns + SIDE - 1) / SIDE);
    const Index down = static_cast<Index>((rows + SIDE - 1) / SIDE);
    Index left = blockIdx.x;
    const long long c = static_cast<long long>(left % across) * SIDE;
    left /= across;
    const long long r = static_cast<long long>(left % down) * SIDE;
    left /= down;
#define MOVE(k)                                                                       \
    {                                                                                 \
        const long long at = static_cast<long long>(left % static_cast<Index>(n##k)); \
        left /= static_cast<Index>(n##k);                                             \
        x += at * x##k;                                                               \
        y += at * y##k;                                                               \
    }
    MOVE(0)
    MOVE(1)
    MOVE(2)
    MOVE(3)
    const int lane = threadIdx.x % SIDE, row = threadIdx.x / SIDE;
#pragma unroll
    for (int k = row; k < SIDE; k += THREADS / SIDE)
        if (c + k < columns && r + lane < rows) tile[k * (SIDE + 1) + lane] = x[(c + k) * dx + r + lane];
    __syncthreads();
#pragma unroll
    for (int k = row; k < SIDE; k += THREADS / SIDE)
        if (r + k < rows && c + lane < columns) y[(r + k) * dy + c + lane] = tile[lane * (SIDE + 1) + k];
}
