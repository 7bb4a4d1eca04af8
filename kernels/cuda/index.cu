// Elements and rows picked by indices: index_select, embedding, gather, several index tensors; and written where they
// say: index_copy, scatter, index_put; one_hot.
//
// UNIT: what is moved, 1 to 16 bytes: the host takes the widest that rows and addresses allow. Arrays are seen as
// (outer, rows, inner), each with a step; `lanes` threads share a row, so that neighbours read neighbours. Floor: rows
// are read and written once, 2 * bytes / bandwidth, and the indices once. Indices are int64, or int32 where `narrow`.
// A bad one is noted (device.cuh, fault) and taken as the nearest good one; where there is none, nothing is moved.
#include "device.cuh"

typedef UNIT Unit;

TL_DEVICE long long index_at(const void* index, long long at, int narrow) {
    return narrow ? static_cast<const int*>(index)[at] : static_cast<const long long*>(index)[at];
}

// k as a place from 0 to size - 1; -1 where there is none.
TL_DEVICE long long checked(long long k, long long size, int wraps, long long* flag, int code) {
    if (k >= size || k < (wraps ? -size : 0)) {
        fault(flag, code, k, size);
        return k < 0 && size ? 0 : size - 1;
    }
    return k < 0 ? k + size : k;
}

// i / n; 32 bits do for most, and cost a quarter.
TL_DEVICE long long over(long long i, long long n) {
    if ((i | n) >> 31) return i / n;
    return static_cast<unsigned>(i) / static_cast<unsigned>(n);
}

struct Sizes {  // of four dimensions, without the first: it is what is left
    long long n1, n2, n3;
};
struct Steps {
    long long s0, s1, s2, s3;
};

// Where element i of the four dimensions stands, for two ways of stepping.
TL_DEVICE void walk(long long i, const Sizes& n, const Steps& a, const Steps& b, long long& at, long long& bt) {
    at = bt = 0;
#define TL_DIGIT(size, sa, sb)                      \
    if (size > 1) {                                 \
        const long long left = over(i, size);       \
        const long long digit = i - left * (size);  \
        at += digit * (sa), bt += digit * (sb);     \
        i = left;                                   \
    }
    TL_DIGIT(n.n3, a.s3, b.s3)
    TL_DIGIT(n.n2, a.s2, b.s2)
    TL_DIGIT(n.n1, a.s1, b.s1)
    at += i * a.s0, bt += i * b.s0;
}

// y[o, j, :] = x[o, index[j], :]. y is dense; grid: (rows, parts of a row).
extern "C" __global__ void take(const Unit* __restrict__ x, const void* __restrict__ index, Unit* __restrict__ y,
                                long long rows, long long m, long long inner, long long x_outer, long long x_row,
                                long long x_inner, long long index_step, int narrow, long long size, int wraps,
                                int lanes, long long* flag, int code) {
    const long long step = grid_step() / lanes;
    for (long long row = grid_first() / lanes; row < rows; row += step) {
        const long long o = over(row, m), j = row - o * m;
        const long long k = checked(index_at(index, j * index_step, narrow), size, wraps, flag, code);
        if (k < 0) continue;
        const Unit* from = x + o * x_outer + k * x_row;
        Unit* to = y + row * inner;
        const long long skip = static_cast<long long>(lanes) * gridDim.y;
        long long i = static_cast<long long>(blockIdx.y) * lanes + threadIdx.x % lanes;
        for (; i + skip < inner; i += 2 * skip) {  // two reads on their way
            const Unit a = from[i * x_inner], b = from[(i + skip) * x_inner];
            to[i] = a, to[i + skip] = b;
        }
        if (i < inner) to[i] = from[i * x_inner];
    }
}

// y[i] = the element of x at i's place in all dimensions but one, and at index[i] in that one, x_dim apart.
extern "C" __global__ void gather(const Unit* __restrict__ x, const void* __restrict__ index, Unit* __restrict__ y,
                                  long long n, long long n1, long long n2, long long n3, long long i0, long long i1,
                                  long long i2, long long i3, long long x0, long long x1, long long x2, long long x3,
                                  long long x_dim, int narrow, long long size, int wraps, long long* flag, int code) {
    grid_stride(n, [&](long long i) {
        long long at, from;
        walk(i, {n1, n2, n3}, {i0, i1, i2, i3}, {x0, x1, x2, x3}, at, from);
        const long long k = checked(index_at(index, at, narrow), size, wraps, flag, code);
        if (k >= 0) y[i] = x[from + k * x_dim];
    });
}

// keys[i] = the place that index[i] names, counted on from what keys held where there is `more` than one index.
extern "C" __global__ void keys(const void* index, long long index_step, int narrow, long long* keys, long long n,
                                long long size, int wraps, int more, long long* flag, int code) {
    grid_stride(n, [&](long long i) {
        const long long k = checked(index_at(index, i * index_step, narrow), size, wraps, flag, code);
        const long long before = more ? keys[i] : 0;
        keys[i] = before < 0 || k < 0 ? -1 : before * size + k;
    });
}

// keys[i] = the place, as `gather` has it, counted in steps x.
extern "C" __global__ void places(const void* index, long long* keys, long long n, long long n1, long long n2,
                                  long long n3, long long i0, long long i1, long long i2, long long i3, long long x0,
                                  long long x1, long long x2, long long x3, long long x_dim, int narrow, long long size,
                                  int wraps, long long* flag, int code) {
    grid_stride(n, [&](long long i) {
        long long at, from;
        walk(i, {n1, n2, n3}, {i0, i1, i2, i3}, {x0, x1, x2, x3}, at, from);
        const long long k = checked(index_at(index, at, narrow), size, wraps, flag, code);
        keys[i] = k < 0 ? -1 : from + k * x_dim;
    });
}

// Of equal keys the last wins: winner[key] = its place + 1. winner holds zeros before.
extern "C" __global__ void winners(const long long* keys, unsigned* winner, long long n) {
    grid_stride(n, [&](long long i) {
        if (keys[i] >= 0) atomic_max(winner + keys[i], static_cast<unsigned>(i + 1));
    });
}

// y[o, keys[j], :] = w[o, j, :] for the j that win. grid: (rows, parts of a row).
extern "C" __global__ void put(const Unit* w, const long long* keys, const unsigned* winner, Unit* y, long long rows,
                               long long m, long long inner, long long w_outer, long long w_row, long long w_inner,
                               long long y_outer, long long y_row, long long y_inner, int lanes) {
    const long long step = grid_step() / lanes;
    for (long long row = grid_first() / lanes; row < rows; row += step) {
        const long long o = over(row, m), j = row - o * m, k = keys[j];
        if (k < 0 || winner[k] != static_cast<unsigned>(j + 1)) continue;
        const Unit* from = w + o * w_outer + j * w_row;
        Unit* to = y + o * y_outer + k * y_row;
        for (long long i = static_cast<long long>(blockIdx.y) * lanes + threadIdx.x % lanes; i < inner;
             i += static_cast<long long>(lanes) * gridDim.y)
            to[i * y_inner] = from[i * w_inner];
    }
}

// y[i, c] = whether x[i] is c.
extern "C" __global__ void one_hot(const long long* x, long long* y, long long n, long long classes, long long* flag,
                                   int negative, int large) {
    grid_stride(n * classes, [&](long long at) {
        const long long i = over(at, classes), c = at - i * classes, k = x[i];
        if (!c && k < 0) fault(flag, negative, k, classes);
        if (!c && k >= classes) fault(flag, large, k, classes);
        y[at] = k == c;
    });
}
