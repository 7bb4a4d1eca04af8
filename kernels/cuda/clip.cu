// The norm of many tensors taken as one vector: sum of |x|, root of the sum of squares, or the greatest |x|, in double.
//
// Macro: ELEM, the elements of the tensors of a launch. Floor: the bytes of the tensors. Each block leaves one number,
// `join_parts` adds those up in their order: the same bits each time. NaN comes through.
#include "table.cuh"

using namespace tl;
typedef ELEM E;
enum { GREATEST, SIZES, SQUARES };

// A block for each chunk of a tensor (table.cuh); parts: a number of each.
extern "C" __global__ void __launch_bounds__(256, 4)
    norm_parts(const Word* fixed, const Word* moving, int count, int chunk, double* parts, int kind) {
    TL_SHARED(double, scratch, 32);
    const Part<E, 1> part = part_of<E, 1>(fixed, moving, 3, count, chunk);
    double all = 0;
    each<double, false>(part, [&](double (&v)[1]) {
        const double size = tl_abs(v[0]);
        all = kind == SQUARES ? all + size * size : kind == SIZES ? all + size : tl_max(all, size);
    });
    all = kind == GREATEST ? block_max(all, scratch) : block_sum(all, scratch);
    if (threadIdx.x == 0) parts[blockIdx.x] = all;
}

// One block. code: the type of out (table.py).
extern "C" __global__ void __launch_bounds__(256, 4)
    join_parts(const double* parts, Word count, void* out, int code, int kind) {
    TL_SHARED(double, scratch, 32);
    double all = 0;
    for (Word k = threadIdx.x; k < count; k += TABLE_THREADS)
        all = kind == GREATEST ? tl_max(all, parts[k]) : all + parts[k];
    all = kind == GREATEST ? block_max(all, scratch) : block_sum(all, scratch);
    if (threadIdx.x) return;
    if (kind == SQUARES) all = tl_sqrt(all);
    switch (code) {
        case 0: *static_cast<double*>(out) = all; break;
        case 1: *static_cast<float*>(out) = static_cast<float>(all); break;
        case 2: *static_cast<half_t*>(out) = half_of(all); break;
        default: *static_cast<bf16_t*>(out) = bf16_of(static_cast<float>(all));
    }
}
