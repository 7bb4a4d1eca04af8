// The gradient of conv2d with respect to the weights on the tensor cores, for images in channels_last.
//
// A block of 4 warps makes 64 features x 128 taps (row, column, channel), a warp 32 x 64; inner elements are pixels, 32
// of halves or 16 of float32 a step, that cp.async brings into one of 3 stages. Pixels are rows in shared memory, so
// halves come to the tensor cores by ldmatrix.trans and float32 by plain loads; pieces of 16 bytes are swizzled so that
// neither meets a conflict. As in conv_weights.cu pixels are cut into parts by the shape alone, which its `join` adds in
// order: the same bits in every run. Floor: 2 N OH OW O C KH KW operations at the rate of mma.sync; a block reads 12 KB
// for 64 x 128 x 32 (16) products of halves (TF32), from the L2.
//
// ELEM: float (rounded to TF32), half_t or bf16_t. WIDE: float.
#include "conv.cuh"

namespace {

constexpr int BM = 64, BN = 128, THREADS = 128, STAGES = 3, PIECE = 16 / sizeof(Elem);
constexpr int PIXELS = 64 / sizeof(Elem), ROW_LEFT = BM * sizeof(Elem), ROW_RIGHT = BN * sizeof(Elem);
constexpr int STAGE = PIXELS * (ROW_LEFT + ROW_RIGHT), MMA_DEEP = 32 / sizeof(Elem);
constexpr int PIECES_LEFT = BM / PIECE, PIECES_RIGHT = BN / PIECE;
constexpr int LEFT = PIXELS * PIECES_LEFT / THREADS, RIGHT = PIXELS * PIECES_RIGHT / THREADS;  // pieces a thread
constexpr int OUTSIDE = -(1 << 30);

// Where element m of a pixel's row lies, in bytes. Eight pixels' pieces lie in eight groups of banks (halves), or four
// pixels' pairs of pieces do (float32).
__device__ inline int swizzled(int pixel, int m, int row) {
    const int turn = sizeof(Elem) == 2 ? pixel & 7 : (pixel & 3) * 2;
    return pixel * row + ((m / PIECE ^ turn) << 4) + m % PIECE * static_cast<int>(sizeof(Elem));
}

__device__ inline unsigned tf32_at(const unsigned char* p) { return to_tf32(*reinterpret_cast<const float*>(p)); }

// Fragments of A (16 features) and of two B (8 taps each) whose first pixel is k.
__device__ inline void left_of(unsigned (&a)[4], const unsigned char* from, int k, int m, int lane, float) {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = tf32_at(from + swizzled(k + lane % 4 + r / 2 * 4, m + lane / 4 + r % 2 * 8, ROW_LEFT));
}
__device__ inline void right_of(unsigned (&b)[4], const unsigned char* from, int k, int n, int lane, float) {
#pragma unroll
    for (int r = 0; r < 4; ++r) b[r] = tf32_at(from + swizzled(k + lane % 4 + r % 2 * 4, n + lane / 4 + r / 2 * 8, ROW_RIGHT));
}
template <class T>
__device__ inline void left_of(unsigned (&a)[4], const unsigned char* from, int k, int m, int lane, T) {
    ldmatrix_x4_trans(a, from + swizzled(k + lane / 16 * 8 + lane % 8, m + lane / 8 % 2 * 8, ROW_LEFT));
}
template <class T>
__device__ inline void right_of(unsigned (&b)[4], const unsigned char* from, int k, int n, int lane, T) {
    ldmatrix_x4_trans(b, from + swizzled(k + lane / 8 % 2 * 8 + lane % 8, n + lane / 16 * 8, ROW_RIGHT));
}

__device__ inline void multiply(float (&d)[4], unsigned (&a)[4], unsigned (&b)[2], float) { mma_tf32_16x8x8(d, a, b); }
__device__ inline void multiply(float (&d)[4], unsigned (&a)[4], unsigned (&b)[2], half_t) { mma_f16_16x8x16(d, a, b); }
__device__ inline void multiply(float (&d)[4], unsigned (&a)[4], unsigned (&b)[2], bf16_t) { mma_bf16_16x8x16(d, a, b); }

}  // namespace

// Arguments as in conv_weights.cu, but that the channels of x and dy are neighbours; a part is ``deep`` stages.
extern "C" __global__ void __launch_bounds__(128, 3)
    weights_mma(const Elem* x, const Elem* dy, Elem* dw, Wide* parts, int deep, int pixels, unsigned down,        //
                unsigned down_mul, unsigned down_shift, unsigned across, unsigned across_mul, unsigned across_shift,  //
                int groups, int channels, int features, int height, int width, int kh, int kw, int sh, int sw,        //
                int ph, int pw, int dh, int dilation, long long xn, int xh, int xw, long long yn, int yh, int yw,     //
                long long wo, int wc, int wi, int wj, long long size) {
    TL_DYNAMIC_SHARED(unsigned char, shared);
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int columns = channels * kh * kw, tiles = (columns + BN - 1) / BN, tall = (features + BM - 1) / BM;
    const int n0 = static_cast<int>(blockIdx.x % tiles) * BN;
    const int m0 = static_cast<int>(blockIdx.x / tiles % tall) * BM;
    const int group = static_cast<int>(blockIdx.x / tiles / tall);
    const FastDivider by_down{down_mul, down_shift, down}, by_across{across_mul, across_shift, across};
    x += static_cast<long long>(group) * channels;
    dy += static_cast<long long>(group) * features;

    // the pieces that this thread brings: one of each row, of every so many pixels
    const int feature = tid % PIECES_LEFT * PIECE, column = tid % PIECES_RIGHT * PIECE;
    const Digits tap(n0 + column, 0, kw, channels);
    const int row0 = n0 + column < columns ? tap.a * dh - ph : OUTSIDE, col0 = tap.b * dilation - pw;
    const bool is_feature = m0 + feature < features;
    int k0 = static_cast<int>(blockIdx.z) * deep * PIXELS;
    const int left_over = (pixels - k0 + PIXELS - 1) / PIXELS, count = left_over < deep ? left_over : deep;
    const auto bring = [&](int stage) {
        unsigned char* left = shared + stage * STAGE;
        unsigned char* right = left + PIXELS * ROW_LEFT;
#pragma unroll
        for (int r = 0; r < LEFT; ++r) {
            const int at = tid / PIECES_LEFT + r * (THREADS / PIECES_LEFT), pixel = k0 + at;
            const bool in = is_feature && pixel < pixels;
            unsigned q = 0, p = 0, n = 0;
            if (in) n = by_down.divide(by_across.divide(static_cast<unsigned>(pixel), q), p);
            const Elem* from = dy + (n * yn + (static_cast<int>(p) * yh + static_cast<int>(q) * yw + m0 + feature));
            cp_async16(left + swizzled(at, feature, ROW_LEFT), in ? from : dy, in ? 16 : 0);
        }
#pragma unroll
        for (int r = 0; r < RIGHT; ++r) {
            const int at = tid / PIECES_RIGHT + r * (THREADS / PIECES_RIGHT), pixel = k0 + at;
            unsigned q = 0, p = 0, n = 0;
            if (pixel < pixels) n = by_down.divide(by_across.divide(static_cast<unsigned>(pixel), q), p);
            const int row = row0 + static_cast<int>(p) * sh, col = col0 + static_cast<int>(q) * sw;
            const bool in = pixel < pixels && static_cast<unsigned>(row) < static_cast<unsigned>(height) &&
                            static_cast<unsigned>(col) < static_cast<unsigned>(width);
            const Elem* from = in ? x + (n * xn + (row * xh + col * xw + tap.c)) : x;
            cp_async16(right + swizzled(at, column, ROW_RIGHT), from, in ? 16 : 0);
        }
        k0 += PIXELS;
    };

    float sums[2][8][4] = {};
    const int m_warp = warp % 2 * 32, n_warp = warp / 2 * 64;
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < count) bring(s);
        cp_async_commit();
    }
    for (int t = 0; t < count; ++t) {
        cp_async_wait<STAGES - 2>();
        barrier();  // of stage t % 3 all is there, and of the one before nothing is read any more
        if (t + STAGES - 1 < count) bring((t + STAGES - 1) % STAGES);
        cp_async_commit();
        const unsigned char* left = shared + t % STAGES * STAGE;
        const unsigned char* right = left + PIXELS * ROW_LEFT;
#pragma unroll
        for (int k = 0; k < PIXELS; k += MMA_DEEP) {
            unsigned a[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) left_of(a[i], left, k, m_warp + i * 16, lane, Elem{});
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                unsigned b[4];
                right_of(b, right, k, n_warp + j * 8, lane, Elem{});
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    unsigned factor[2] = {b[2 * h], b[2 * h + 1]};
#pragma unroll
                    for (int i = 0; i < 2; ++i) multiply(sums[i][j + h], a[i], factor, Elem{});
                }
            }
        }
    }
    cp_async_wait<0>();

#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            const int n = n0 + n_warp + j * 8 + lane % 4 * 2 + u;
            if (n >= columns) continue;
            const Digits place(n, 0, kw, channels);
            const long long at = static_cast<long long>(place.c) * wc + static_cast<long long>(place.a) * wi + place.b * wj;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int m = m0 + m_warp + i / 2 * 16 + i % 2 * 8 + lane / 4;
                if (m >= features) continue;
                const long long e = (static_cast<long long>(group) * features + m) * wo + at;
                const float v = sums[i / 2][j][i % 2 * 2 + u];
                if (parts)
                    parts[blockIdx.z * size + e] = v;
                else
                    dw[e] = narrowed(v);
            }
        }
}
