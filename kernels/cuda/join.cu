// Elements that go to another place, whatever their type: cat, pad, tril and triu.
//
// UNIT: what is moved, 1 to 16 bytes; SMALL: 1 where it is 8 at most, which pad and the triangles want. Arrays are seen
// as rows with a step; `lanes` threads share a row. Floor: each byte is read and written once, 2 * bytes / bandwidth.
#include "device.cuh"

typedef UNIT Unit;

TL_DEVICE long long over(long long i, long long n) {  // i / n; 32 bits do for most, and cost a quarter
    if ((i | n) >> 31) return i / n;
    return static_cast<unsigned>(i) / static_cast<unsigned>(n);
}

// y[offset + row y_row + i] = x[row x_row + i x_inner] for i below inner. grid: (rows, parts of a row).
extern "C" __global__ void lines(const Unit* __restrict__ x, Unit* __restrict__ y, long long rows, long long inner,
                                 long long x_row, long long x_inner, long long offset, long long y_row, int lanes) {
    const long long step = grid_step() / lanes, skip = static_cast<long long>(lanes) * gridDim.y;
    for (long long row = grid_first() / lanes; row < rows; row += step) {
        const Unit* from = x + row * x_row;
        Unit* to = y + offset + row * y_row;
        long long i = static_cast<long long>(blockIdx.y) * lanes + threadIdx.x % lanes;
        for (; i + skip < inner; i += 2 * skip) {  // two reads on their way
            const Unit a = from[i * x_inner], b = from[(i + skip) * x_inner];
            to[i] = a, to[i + skip] = b;
        }
        if (i < inner) to[i] = from[i * x_inner];
    }
}

#if SMALL
// One of five dimensions: n elements of y, the first `before` of them not of x, which has m, a step s apart.
#define TL_BORDERED(k) long long n##k, long long before##k, long long m##k, long long s##k

// y = x inside of a border of `value`; y is dense, dimension 4 the innermost.
extern "C" __global__ void pad(const Unit* __restrict__ x, Unit* __restrict__ y, long long n, unsigned long long value,
                               TL_BORDERED(0), TL_BORDERED(1), TL_BORDERED(2), TL_BORDERED(3), TL_BORDERED(4)) {
    grid_stride(n, [&](long long at) {
        long long left = at, from = 0;
        bool inside = true;
#define TL_DIGIT(k)                                                   \
    if (n##k > 1 || before##k || m##k != 1) {                         \
        const long long rest = over(left, n##k);                      \
        const long long i = left - rest * n##k - before##k;           \
        inside = inside && i >= 0 && i < m##k;                        \
        from += i * s##k, left = rest;                                \
    }
        TL_DIGIT(4)
        TL_DIGIT(3)
        TL_DIGIT(2)
        TL_DIGIT(1)
        TL_DIGIT(0)
        y[at] = inside ? x[from] : static_cast<Unit>(value);
    });
}

// y = x where column - row >= diagonal (upper) or <= diagonal, else 0. Dense, and maybe one; `rows` of all matrices.
extern "C" __global__ void triangle(const Unit* x, Unit* y, long long rows, long long height, long long width,
                                    long long diagonal, int upper, int lanes) {
    const long long step = grid_step() / lanes;
    for (long long row = grid_first() / lanes; row < rows; row += step) {
        const long long edge = row - over(row, height) * height + diagonal;
        for (long long i = static_cast<long long>(blockIdx.y) * lanes + threadIdx.x % lanes; i < width;
             i += static_cast<long long>(lanes) * gridDim.y)
            y[row * width + i] = (upper ? i >= edge : i <= edge) ? x[row * width + i] : Unit(0);
    }
}
#endif
