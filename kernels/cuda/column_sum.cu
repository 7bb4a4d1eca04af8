// out[p][j]: the sum of column j of x over the p-th of `parts` runs of rows. Macros: FROM, TO, SUM (type of sums).
// Two launches give the sums of all rows in a fixed order. Bound by memory: the floor is the bytes of x / bandwidth.
#include "recurrent.cuh"

extern "C" __global__ void __launch_bounds__(256)
    column_sum(const FROM* x, TO* out, long long rows, int columns, long long pitch, int parts) {
    TL_SHARED(SUM, partial, 256);
    const int lane = lane_id(), warp = warp_id(), j = blockIdx.x * 32 + lane;
    for (int p = blockIdx.y; p < parts; p += gridDim.y) {
        SUM sum = SUM(0);
        if (j < columns)
            for (long long i = rows * p / parts + warp; i < rows * (p + 1) / parts; i += 8) sum += number(x[i * pitch + j]);
        partial[warp * 32 + lane] = sum;
        barrier();
        if (warp == 0 && j < columns) {
            for (int k = 1; k < 8; ++k) sum += partial[k * 32 + lane];
            put(out + static_cast<long long>(p) * columns + j, sum);
        }
        barrier();
    }
}
