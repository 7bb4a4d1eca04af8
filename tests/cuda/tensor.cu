// Products on tensor cores, and a tiled one without: test_cuda_device.py, test_cuda_emulator.py.
#include "device.cuh"
// one warp: d(16, 8) += a(16, 16) b(16, 8) with fragments as PTX says; `wrong` swaps the two halves of A's rows
template <class T, class F>
__device__ void product(const T* a, const T* b, float* d, int wrong, F mma) {
    const int g = lane_id() / 4, t = lane_id() % 4, swap = wrong ? 8 : 0;
    unsigned fa[4], fb[2];
    for (int k = 0; k < 4; ++k) {
        const T* at = a + (g + (k % 2 * 8 ^ swap)) * 16 + k / 2 * 8 + 2 * t;
        fa[k] = pack2(at[0], at[1]);
    }
    for (int k = 0; k < 2; ++k) fb[k] = pack2(b[(2 * t + 8 * k) * 8 + g], b[(2 * t + 1 + 8 * k) * 8 + g]);
    float c[4];
    for (int k = 0; k < 4; ++k) c[k] = d[(g + k / 2 * 8) * 8 + 2 * t + k % 2];
    mma(c, fa, fb);
    for (int k = 0; k < 4; ++k) d[(g + k / 2 * 8) * 8 + 2 * t + k % 2] = c[k];
}
extern "C" __global__ void half_product(const half_t* a, const half_t* b, float* d, int wrong) {
    product(a, b, d, wrong, [](float (&c)[4], unsigned (&x)[4], unsigned (&y)[2]) { mma_f16_16x8x16(c, x, y); });
}
extern "C" __global__ void bf16_product(const bf16_t* a, const bf16_t* b, float* d, int wrong) {
    product(a, b, d, wrong, [](float (&c)[4], unsigned (&x)[4], unsigned (&y)[2]) { mma_bf16_16x8x16(c, x, y); });
}
extern "C" __global__ void tf32_product(const float* a, const float* b, float* d, int raw) {  // a(16, 8) b(8, 8)
    const int g = lane_id() / 4, t = lane_id() % 4;
    unsigned fa[4], fb[2];
    const auto bits = [&](float x) { return raw ? __float_as_uint(x) : to_tf32(x); };
    for (int k = 0; k < 4; ++k) fa[k] = bits(a[(g + k % 2 * 8) * 8 + t + k / 2 * 4]);
    for (int k = 0; k < 2; ++k) fb[k] = bits(b[(t + 4 * k) * 8 + g]);
    float c[4] = {};
    mma_tf32_16x8x8(c, fa, fb);
    for (int k = 0; k < 4; ++k) d[(g + k / 2 * 8) * 8 + 2 * t + k % 2] = c[k];
}
// c = a b with bf16, through shared memory and ldmatrix: rows of a, and columns of b by _trans; n x n, one warp a tile
extern "C" __global__ void gemm(const bf16_t* a, const bf16_t* b, float* c, int n) {
    TL_SHARED(bf16_t, as, 16 * 24);
    TL_SHARED(bf16_t, bs, 16 * 24);
    const int lane = lane_id(), r0 = blockIdx.y * 16, c0 = blockIdx.x * 16;
    float acc[2][4] = {};
    for (int k = 0; k < n; k += 16) {
        cp_async16(as + lane / 2 * 24 + lane % 2 * 8, a + (r0 + lane / 2) * n + k + lane % 2 * 8, 16);
        cp_async16(bs + lane / 2 * 24 + lane % 2 * 8, b + (k + lane / 2) * n + c0 + lane % 2 * 8, 16);
        cp_async_commit();
        cp_async_wait<0>();
        barrier();
        unsigned fa[4], fb[4], pair[2], again[2];
        ldmatrix_x4(fa, as + lane % 16 * 24 + lane / 16 * 8);
        ldmatrix_x4_trans(fb, bs + lane % 16 * 24 + lane / 16 * 8);
        ldmatrix_x2_trans(pair, bs + lane % 16 * 24);
        if (pair[0] != fb[0] || pair[1] != fb[1]) acc[0][0] = NAN_F;
        ldmatrix_x2(again, as + lane % 16 * 24);
        if (again[0] != fa[0] || again[1] != fa[1]) acc[0][0] = NAN_F;
        for (int h = 0; h < 2; ++h) {
            unsigned two[2] = {fb[2 * h], fb[2 * h + 1]};
            mma_bf16_16x8x16(acc[h], fa, two);
        }
        barrier();
    }
    for (int h = 0; h < 2; ++h)
        for (int k = 0; k < 4; ++k)
            c[(r0 + lane / 4 + k / 2 * 8) * n + c0 + h * 8 + lane % 4 * 2 + k % 2] = acc[h][k];
}
extern "C" __global__ void matmul(const float* a, const float* b, float* c, int n) {
    TL_SHARED(float, at, 256);
    TL_SHARED(float, bt, 256);
    const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        at[y * 16 + x] = a[row * n + k + x], bt[y * 16 + x] = b[(k + y) * n + column];
        barrier();
        for (int i = 0; i < 16; ++i) sum += at[y * 16 + i] * bt[i * 16 + x];
        barrier();
    }
    c[row * n + column] = sum;
}
