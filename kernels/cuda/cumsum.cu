// Running sums along one dimension, in a fixed order: the same bits each time.
//
// Macros: ELEM, the type of the elements; NUMBER, what they are added up in. A line is what is summed along: line l is
// (l / inner, l % inner) of (outer, n, inner), each with a step, negative along n where sums run from the end. Where
// there are few lines they are cut in parts: `*_sums` adds each part up, then each part begins with the sum of those
// before it. `lines`: a block a line, 1024 elements at a time, where n is innermost. `columns`: a thread a line, where
// neighbouring lines lie together. Floor: read once (twice in parts) and written once, 2 or 3 * bytes / bandwidth.
#include "elementwise.cuh"

using namespace tl;
typedef ELEM Elem;
typedef NUMBER Number;

constexpr int kEach = 4, kStride = 256 * kEach;

#define TL_LINES                                                                                                    \
    long long count, long long inner, long long n, long long a_part, long long x_first, long long x_outer,          \
        long long x_step, long long x_inner, long long y_first, long long y_outer, long long y_step, long long y_inner
#define TL_LINE(array, line) array + array##_first + (line) / inner * array##_outer + (line) % inner * array##_inner
#define TL_PART(part) \
    const long long first = (part) * a_part, last = first + a_part < n ? first + a_part : n

// sums[line][part]. grid: (lines, parts) of 256 threads.
extern "C" __global__ void line_sums(const Elem* x, const Elem* y, Number* sums, TL_LINES) {
    TL_SHARED(Number, scratch, 32);
    TL_PART(static_cast<long long>(blockIdx.y));
    for (long long line = blockIdx.x; line < count; line += gridDim.x) {
        const Elem* from = TL_LINE(x, line);
        Number sum = Number(0);
        for (long long i = first + threadIdx.x; i < last; i += 256) sum += read<Number>(from[i * x_step]);
        sum = block_sum(sum, scratch);
        if (!threadIdx.x) sums[line * gridDim.y + blockIdx.y] = sum;
    }
}

extern "C" __global__ void lines(const Elem* x, Elem* y, const Number* sums, TL_LINES) {
    TL_SHARED(Number, totals, 32);
    TL_PART(static_cast<long long>(blockIdx.y));
    for (long long line = blockIdx.x; line < count; line += gridDim.x) {
        const Elem* from = TL_LINE(x, line);
        Elem* to = TL_LINE(y, line);
        Number carry = Number(0);
        if (blockIdx.y) {
            for (long long k = threadIdx.x; k < blockIdx.y; k += 256) carry += sums[line * gridDim.y + k];
            carry = block_sum(carry, totals);
        }
        for (long long base = first; base < last; base += kStride) {
            const long long mine = base + static_cast<long long>(threadIdx.x) * kEach;
            Number v[kEach], sum = Number(0);
#pragma unroll
            for (int k = 0; k < kEach; ++k) v[k] = mine + k < last ? read<Number>(from[(mine + k) * x_step]) : Number(0);
#pragma unroll
            for (int k = 0; k < kEach; ++k) sum += v[k], v[k] = sum;
            Number up = sum;  // with all lanes before
#pragma unroll
            for (int by = 1; by < 32; by *= 2) {
                const Number other = shuffle_up(up, by);
                if (lane_id() >= by) up += other;
            }
            if (lane_id() == 31) totals[warp_id()] = up;
            Number before = shuffle_up(up, 1);
            if (!lane_id()) before = Number(0);
            barrier();
            Number warps = carry, all_of_them = carry;
#pragma unroll
            for (int w = 0; w < 8; ++w) {
                if (w < warp_id()) warps += totals[w];
                all_of_them += totals[w];
            }
            carry = all_of_them;
            before += warps;
#pragma unroll
            for (int k = 0; k < kEach; ++k)
                if (mine + k < last) to[(mine + k) * y_step] = Put<Elem>::of(static_cast<Number>(before + v[k]));
            barrier();
        }
    }
}

// The same with a thread a line. grid: (lines / 256, parts).
extern "C" __global__ void column_sums(const Elem* x, const Elem* y, Number* sums, TL_LINES) {
    TL_PART(static_cast<long long>(blockIdx.y));
    grid_stride(count, [&](long long line) {
        const Elem* from = TL_LINE(x, line);
        Number sum = Number(0);
#pragma unroll 4
        for (long long i = first; i < last; ++i) sum += read<Number>(from[i * x_step]);
        sums[blockIdx.y * count + line] = sum;
    });
}

extern "C" __global__ void columns(const Elem* x, Elem* y, const Number* sums, TL_LINES) {
    TL_PART(static_cast<long long>(blockIdx.y));
    grid_stride(count, [&](long long line) {
        const Elem* from = TL_LINE(x, line);
        Elem* to = TL_LINE(y, line);
        Number sum = Number(0);
        for (long long k = 0; k < blockIdx.y; ++k) sum += sums[k * count + line];
        long long i = first;
        for (; i + 4 <= last; i += 4) {  // four reads on their way
            Number v[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) v[k] = read<Number>(from[(i + k) * x_step]);
#pragma unroll
            for (int k = 0; k < 4; ++k) sum += v[k], to[(i + k) * y_step] = Put<Elem>::of(sum);
        }
        for (; i < last; ++i) sum += read<Number>(from[i * x_step]), to[i * y_step] = Put<Elem>::of(sum);
    });
}
