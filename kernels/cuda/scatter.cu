// Rows added where indices say, equal ones adding up in one order: the same bits each time, without atomics.
//
// Macros: ELEM, the type of the elements; NUMBER, what they are added up in. y is (outer, size, inner) and w (outer, m,
// inner), each with a step; keys[j] is the row of y that row j of w belongs to, or -1. `scan`: each element of y looks
// through the keys for its own; for few. Else the host sorts the keys (stable), and `add_rows` goes through them in
// parts of 32: the sum of a run of equal keys is added to y where the run ends inside of the part; those at its two
// edges become rows of a shorter list, which `add_parts` goes through in the same way, until one part is left.
// Floor: w is read once, by the order of the keys, and each row of y that is named is read and written once.
#include "elementwise.cuh"

using namespace tl;
typedef ELEM Elem;
typedef NUMBER Number;

TL_DEVICE void add_to(Elem& y, Number sum) { y = Put<Elem>::of(op_add(read<Number>(y), sum)); }

// keys of (o, j, i) are at o * k_outer + j * k_row + i * k_inner.
extern "C" __global__ void scan(const Elem* __restrict__ w, const long long* __restrict__ keys, Elem* y, long long n,
                                long long size, long long inner, long long m, long long k_outer, long long k_row,
                                long long k_inner, long long w_outer, long long w_row, long long w_inner,
                                long long y_outer, long long y_row, long long y_inner) {
    grid_stride(n, [&](long long at) {
        const long long line = at / inner, i = at - line * inner, o = line / size, row = line - o * size;
        const long long* key = keys + o * k_outer + i * k_inner;
        const Elem* from = w + o * w_outer + i * w_inner;
        Number sum = Number(0);
        bool any_of_them = false;
        for (long long j = 0; j < m; ++j)
            if (key[j * k_row] == row) sum = op_add(sum, read<Number>(from[j * w_row])), any_of_them = true;
        if (any_of_them) add_to(y[o * y_outer + row * y_row + i * y_inner], sum);
    });
}

constexpr int kPart = 32, kAhead = 4;  // keys of a part; rows that are on their way at a time

// Parts of a list of `count` keys in order; key(j) and value(j, o, i) of its place j. The edges' sums go to
// next_keys[2 part], next_keys[2 part + 1] and the rows of `next`; with one part there are no edges.
template <class Key, class Value>
TL_DEVICE void add_up(Key key, Value value, long long count, Elem* y, long long outer, long long inner, long long y_outer,
                      long long y_row, long long y_inner, long long* next_keys, Number* next, int lanes) {
    const long long parts = (count + kPart - 1) / kPart, columns = outer * inner, step = grid_step() / lanes;
    for (long long part = grid_first() / lanes; part < parts; part += step) {
        const long long first = part * kPart, last = first + kPart < count ? first + kPart : count;
        for (long long column = static_cast<long long>(blockIdx.y) * lanes + threadIdx.x % lanes; column < columns;
             column += static_cast<long long>(lanes) * gridDim.y) {
            const long long o = outer > 1 ? column / inner : 0, i = column - o * inner;
            long long run = -1, edge = -1;  // the run that is being added up; the key of the first one
            Number sum = Number(0);
            for (long long j = first; j < last; j += kAhead) {
                long long k[kAhead];
                Number v[kAhead];
#pragma unroll
                for (int a = 0; a < kAhead; ++a) {
                    k[a] = j + a < last ? key(j + a) : -1;
                    v[a] = k[a] >= 0 ? value(j + a, o, i) : Number(0);
                }
#pragma unroll
                for (int a = 0; a < kAhead; ++a) {
                    if (k[a] < 0) continue;
                    if (k[a] == run) {
                        sum = op_add(sum, v[a]);
                        continue;
                    }
                    if (run >= 0) {  // a run ends here
                        if (edge < 0 && parts > 1) edge = run, next[2 * part * columns + column] = sum;
                        else add_to(y[o * y_outer + run * y_row + i * y_inner], sum);
                    }
                    run = k[a], sum = v[a];
                }
            }
            if (parts > 1) {
                if (run >= 0) next[(2 * part + 1) * columns + column] = sum;
                if (!column) next_keys[2 * part] = edge, next_keys[2 * part + 1] = run;
            } else if (run >= 0) {
                add_to(y[o * y_outer + run * y_row + i * y_inner], sum);
            }
        }
    }
}

// grid: (parts, pieces of the columns). order: the places of keys and rows of w, by key.
extern "C" __global__ void add_rows(const Elem* __restrict__ w, const long long* __restrict__ keys,
                                    const long long* __restrict__ order, Elem* y, long long count, long long outer,
                                    long long inner, long long w_outer, long long w_row, long long w_inner,
                                    long long y_outer, long long y_row, long long y_inner, long long* next_keys,
                                    Number* next, int lanes) {
    add_up([&](long long j) { return keys[order[j]]; },
           [&](long long j, long long o, long long i) {
               return read<Number>(w[o * w_outer + order[j] * w_row + i * w_inner]);
           },
           count, y, outer, inner, y_outer, y_row, y_inner, next_keys, next, lanes);
}

extern "C" __global__ void add_parts(const Number* __restrict__ sums, const long long* __restrict__ keys, Elem* y,
                                     long long count, long long outer, long long inner, long long y_outer,
                                     long long y_row, long long y_inner, long long* next_keys, Number* next, int lanes) {
    add_up([&](long long j) { return keys[j]; },
           [&](long long j, long long o, long long i) { return sums[j * outer * inner + o * inner + i]; }, count, y, outer,
           inner, y_outer, y_row, y_inner, next_keys, next, lanes);
}
