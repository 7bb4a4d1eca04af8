// Tables of many tensors that one launch goes through: optimizer steps, norms, scalings. In device memory, as words of
// 64 bits (tensorlite/backends/launch/table.py writes them):
//   fixed: a row for each tensor: its addresses (parameter, states, single numbers), its size, the first of its blocks;
//   moving: two words for each tensor: the address of its gradient, and where among these words it is said how its
//   arrays lie (0: all alike and without gaps): dimensions, their sizes, the steps of each kind in elements.
// A block of 256 threads takes `chunk` elements of one tensor.
#pragma once
#include "elementwise.cuh"

namespace tl {

constexpr int TABLE_THREADS = 256;
typedef long long Word;

// What the elements of a type are computed in.
template <class E> struct Wide { typedef float C; };
template <> struct Wide<double> { typedef double C; };

// A number of any floating-point type, by its code in table.py.
TL_DEVICE double number(const void* p, int code) {
    switch (code) {
        case 0: return *static_cast<const double*>(p);
        case 1: return *static_cast<const float*>(p);
        case 2: return to_float(*static_cast<const half_t*>(p));
        default: return to_float(*static_cast<const bf16_t*>(p));
    }
}

// K kinds of arrays of one tensor, and the elements [begin, end) that are this block's.
template <class E, int K> struct Part {
    E* at[K];
    Word begin, end;
    const Word* dims;
    Word tensor;
};

// The last tensor that begins at this block or before it: its row ends with the number of its first block.
TL_DEVICE int tensor_of(const Word* fixed, int width, int count) {
    int found = 0;
    for (int base = 0; base < count; base += TABLE_THREADS) {
        const int k = base + static_cast<int>(threadIdx.x);
        const Word block = blockIdx.x;
        const int here = barrier_count(k < count && fixed[static_cast<Word>(k) * width + width - 1] <= block);
        found += here;
        if (here < TABLE_THREADS) break;
    }
    return found - 1;
}

template <class E, int K> TL_DEVICE Part<E, K> part_of(const Word* fixed, const Word* moving, int width, int count, int chunk) {
    Part<E, K> part;
    part.tensor = tensor_of(fixed, width, count);
    const Word* row = fixed + part.tensor * width;
    part.at[0] = reinterpret_cast<E*>(row[0]);
    if constexpr (K > 1) part.at[1] = reinterpret_cast<E*>(moving[2 * part.tensor]);
#pragma unroll
    for (int k = 2; k < K; ++k) part.at[k] = reinterpret_cast<E*>(row[k - 1]);
    const Word how = moving[2 * part.tensor + 1];
    part.dims = how ? moving + how : nullptr;
    part.begin = (static_cast<Word>(blockIdx.x) - row[width - 1]) * chunk;
    part.end = part.begin + chunk < row[width - 2] ? part.begin + chunk : row[width - 2];
    return part;
}

// f(v) for each element, v its values of all kinds; what v then holds is stored, of kind 1 (gradients) never.
template <class C, bool STORES, class E, int K, class F> TL_DEVICE void each(const Part<E, K>& part, F f) {
    constexpr int V = sizeof(E) == 8 ? 2 : 4;  // elements that are read and written in one instruction
    const Word first = part.begin + threadIdx.x;
    if (part.dims) {
        const int n = static_cast<int>(part.dims[0]);
#pragma unroll 1
        for (Word i = first; i < part.end; i += TABLE_THREADS) {
            Word rest = i, offset[K] = {};
#pragma unroll 1
            for (int d = n; d > 0; --d) {
                const Word size = part.dims[d], at = rest % size;
                rest /= size;
#pragma unroll
                for (int k = 0; k < K; ++k) offset[k] += at * part.dims[(k + 1) * n + d];
            }
            C v[K];
#pragma unroll
            for (int k = 0; k < K; ++k) v[k] = read<C>(part.at[k][offset[k]]);
            f(v);
            if constexpr (STORES) {
#pragma unroll
                for (int k = 0; k < K; ++k)
                    if (k != 1) part.at[k][offset[k]] = Put<E>::of(v[k]);
            }
        }
        return;
    }
    bool together = true;
#pragma unroll
    for (int k = 0; k < K; ++k) together = together && is_aligned(part.at[k], sizeof(E) * V);
    const auto one = [&](Word i) {
        C v[K];
#pragma unroll
        for (int k = 0; k < K; ++k) v[k] = read<C>(part.at[k][i]);
        f(v);
        if constexpr (STORES) {
#pragma unroll
            for (int k = 0; k < K; ++k)
                if (k != 1) part.at[k][i] = Put<E>::of(v[k]);
        }
    };
    if (!together) {
#pragma unroll 1
        for (Word i = first; i < part.end; i += TABLE_THREADS) one(i);
        return;
    }
    Word i = part.begin + threadIdx.x * V;
#pragma unroll 1
    for (; i + V <= part.end; i += TABLE_THREADS * V) {
        Vec<E, V> x[K];
#pragma unroll
        for (int k = 0; k < K; ++k) x[k] = load_vec<V>(part.at[k] + i);
#pragma unroll
        for (int e = 0; e < V; ++e) {
            C v[K];
#pragma unroll
            for (int k = 0; k < K; ++k) v[k] = read<C>(x[k][e]);
            f(v);
#pragma unroll
            for (int k = 0; k < K; ++k) x[k][e] = Put<E>::of(v[k]);
        }
        if constexpr (STORES) {
#pragma unroll
            for (int k = 0; k < K; ++k)
                if (k != 1) store_vec<V>(part.at[k] + i, x[k]);
        }
    }
#pragma unroll 1
    for (; i < part.end; ++i) one(i);  // fewer than V at the end: of one thread
}

}  // namespace tl
