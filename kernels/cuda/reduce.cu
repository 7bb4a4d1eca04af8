// Reductions: sum, amax, amin, any, all, argmax, argmin over any dimensions of an array of any strides.
//
// Macros: ELEMENT and RESULT, the types of elements and results; NUMBER, what is computed in; OP, a struct below. Output
// o begins at an offset of its own, worked out from up to four kept dimensions; element r of it lies at an offset from
// up to four reduced ones. Bound by memory: the floor is the bytes of x / bandwidth. `rows`: a block for each output and
// part of its elements, for outputs whose elements lie together. `columns`: 32 neighbouring outputs a block, eight rows
// at a time, for outputs that lie together. Where there are few outputs their elements are cut in parts, which `finish`
// adds up in order: the same bits each time.
#include "elementwise.cuh"

using namespace tl;
typedef ELEMENT X;
typedef RESULT Y;
typedef NUMBER C;

// What is kept while an output's elements are gone through.
template <class T> struct Best {
    T value;
    long long at;  // -1: none yet
};

struct Sum {
    typedef C A;
    TL_DEVICE A start() { return A(0); }
    TL_DEVICE A step(A a, A x, long long) { return a + x; }
    TL_DEVICE A join(A a, A b) { return a + b; }
};

struct Largest {
    typedef Best<C> A;
    TL_DEVICE A start() { return {C(0), -1}; }
    TL_DEVICE A join(A a, A b) {  // the first of equal ones; nan beats all
        if (a.at < 0) return b;
        if (b.at < 0) return a;
        const bool an = a.value != a.value, bn = b.value != b.value;
        if (an || bn) return an && (!bn || a.at < b.at) ? a : b;
        if (a.value == b.value) return a.at < b.at ? a : b;
        return a.value > b.value ? a : b;
    }
    TL_DEVICE A step(A a, C x, long long at) { return join(a, {x, at}); }
};

struct Smallest {
    typedef Best<C> A;
    TL_DEVICE A start() { return {C(0), -1}; }
    TL_DEVICE A join(A a, A b) {
        if (a.at < 0) return b;
        if (b.at < 0) return a;
        const bool an = a.value != a.value, bn = b.value != b.value;
        if (an || bn) return an && (!bn || a.at < b.at) ? a : b;
        if (a.value == b.value) return a.at < b.at ? a : b;
        return a.value < b.value ? a : b;
    }
    TL_DEVICE A step(A a, C x, long long at) { return join(a, {x, at}); }
};

struct Any {
    typedef bool A;
    TL_DEVICE A start() { return false; }
    TL_DEVICE A step(A a, bool x, long long) { return a || x; }
    TL_DEVICE A join(A a, A b) { return a || b; }
};

struct All {
    typedef bool A;
    TL_DEVICE A start() { return true; }
    TL_DEVICE A step(A a, bool x, long long) { return a && x; }
    TL_DEVICE A join(A a, A b) { return a && b; }
};

typedef OP Op;
typedef Op::A A;

// What an output is made of: a number, or the number and the place of the best element.
template <class T> TL_DEVICE void give(Y* y, long long*, long long o, T a) {
    if (y) y[o] = Put<Y>::of(a);
}
template <class T> TL_DEVICE void give(Y* y, long long* at, long long o, Best<T> a) {
    if (y) y[o] = Put<Y>::of(a.value);
    if (at) at[o] = a.at;
}

struct Steps {  // sizes n of four dimensions, the last the innermost, and the steps s of x in them
    long long n1, n2, n3, s0, s1, s2, s3;
    TL_DEVICE long long wide(const Steps& k, long long i) {
        long long at = 0;
        if (k.n3 > 1) { at += i % k.n3 * k.s3; i /= k.n3; }
        if (k.n2 > 1) { at += i % k.n2 * k.s2; i /= k.n2; }
        if (k.n1 > 1) { at += i % k.n1 * k.s1; i /= k.n1; }
        return at + i * k.s0;
    }
};

// 32 bits do for most, and cost a quarter of the division.
TL_DEVICE long long offset(const Steps& k, long long i) {
    if (k.n1 == 1 && k.n2 == 1 && k.n3 == 1) return i * k.s0;
    if (i >> 31) return Steps::wide(k, i);
    unsigned r = static_cast<unsigned>(i);
    long long at = 0;
    if (k.n3 > 1) { const unsigned n = static_cast<unsigned>(k.n3); at += r % n * k.s3; r /= n; }
    if (k.n2 > 1) { const unsigned n = static_cast<unsigned>(k.n2); at += r % n * k.s2; r /= n; }
    if (k.n1 > 1) { const unsigned n = static_cast<unsigned>(k.n1); at += r % n * k.s1; r /= n; }
    return at + r * k.s0;
}

// The block's values in the order of its threads, joined by thread 0 of each of its groups.
TL_DEVICE A joined(A a, A* shared, int threads) {
    const int t = threadIdx.x;
    shared[t] = a;
    barrier();
    for (int half = threads / 2; half; half /= 2) {
        if (t < half) shared[t] = Op::join(shared[t], shared[t + half]);
        barrier();
    }
    return shared[0];
}

#define TL_STEPS(p) \
    long long p##n1, long long p##n2, long long p##n3, long long p##s0, long long p##s1, long long p##s2, long long p##s3
#define TL_OF(p) {p##n1, p##n2, p##n3, p##s0, p##s1, p##s2, p##s3}

// grid: (outputs, parts); 256 threads. Where there are several parts, they go to `parts`, [part][output].
extern "C" __global__ void rows(const X* __restrict__ x, Y* y, long long* at, A* parts, long long outputs, long long n,
                                long long a_part, TL_STEPS(k), TL_STEPS(r)) {
    TL_SHARED(A, shared, 256);
    const Steps kept = TL_OF(k), reduced = TL_OF(r);
    const long long first = blockIdx.y * a_part, last = first + a_part < n ? first + a_part : n;
    for (long long o = blockIdx.x; o < outputs; o += gridDim.x) {
        const X* p = x + offset(kept, o);
        A a = Op::start();
        long long i = first + threadIdx.x;
        for (; i + 768 < last; i += 1024) {  // four reads on their way at a time
            const C v0 = read<C>(p[offset(reduced, i)]), v1 = read<C>(p[offset(reduced, i + 256)]);
            const C v2 = read<C>(p[offset(reduced, i + 512)]), v3 = read<C>(p[offset(reduced, i + 768)]);
            a = Op::step(Op::step(Op::step(Op::step(a, v0, i), v1, i + 256), v2, i + 512), v3, i + 768);
        }
        for (; i < last; i += 256) a = Op::step(a, read<C>(p[offset(reduced, i)]), i);
        a = joined(a, shared, 256);
        if (!threadIdx.x) {
            if (gridDim.y > 1) parts[blockIdx.y * outputs + o] = a;
            else give(y, at, o, a);
        }
        barrier();
    }
}

// grid: (outputs / 32, parts); 32 x 8 threads in one row: neighbouring threads have neighbouring outputs.
extern "C" __global__ void columns(const X* __restrict__ x, Y* y, long long* at, A* parts, long long outputs,
                                   long long n, long long a_part, TL_STEPS(k), TL_STEPS(r)) {
    TL_SHARED(A, shared, 256);
    const Steps kept = TL_OF(k), reduced = TL_OF(r);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    const long long first = blockIdx.y * a_part, last = first + a_part < n ? first + a_part : n;
    for (long long base = blockIdx.x * 32ll; base < outputs; base += gridDim.x * 32ll) {
        const long long o = base + lane;
        A a = Op::start();
        if (o < outputs) {
            const X* p = x + offset(kept, o);
            long long i = first + row;
            for (; i + 24 < last; i += 32) {
                const C v0 = read<C>(p[offset(reduced, i)]), v1 = read<C>(p[offset(reduced, i + 8)]);
                const C v2 = read<C>(p[offset(reduced, i + 16)]), v3 = read<C>(p[offset(reduced, i + 24)]);
                a = Op::step(Op::step(Op::step(Op::step(a, v0, i), v1, i + 8), v2, i + 16), v3, i + 24);
            }
            for (; i < last; i += 8) a = Op::step(a, read<C>(p[offset(reduced, i)]), i);
        }
        shared[threadIdx.x] = a;
        barrier();
        if (!row && o < outputs) {
            for (int k2 = 1; k2 < 8; ++k2) a = Op::join(a, shared[32 * k2 + lane]);
            if (gridDim.y > 1) parts[blockIdx.y * outputs + o] = a;
            else give(y, at, o, a);
        }
        barrier();
    }
}

// A thread for each output joins its parts in order.
extern "C" __global__ void finish(const A* __restrict__ parts, Y* y, long long* at, long long outputs, int count) {
    const long long o = blockIdx.x * 256ll + threadIdx.x;
    if (o >= outputs) return;
    A a = parts[o];
    for (int k = 1; k < count; ++k) a = Op::join(a, parts[k * outputs + o]);
    give(y, at, o, a);
}
