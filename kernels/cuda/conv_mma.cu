// conv2d and the gradient of its image on the tensor cores: conv.cu's implicit product for images in channels_last.
//
// A block of 4 warps makes 128 pixels x 64 features, a warp 64 x 32. Inner elements are the taps (row, column, channel)
// in pieces of 16 bytes, 4 pieces a step, that cp.async brings into one of 3 stages while the one before is multiplied:
// a piece never crosses a tap, since channels are whole pieces. Rows of 64 bytes are swizzled so that ldmatrix reads
// eight of them without a conflict. float32 is rounded to TF32 (mma m16n8k8), halves are taken as they are (m16n8k16);
// bytes lie the same for both. Sums are in float32, in an order given by the shape.
// Floor: 2 N OH OW O C KH KW operations at the rate of mma.sync (about 600 TFLOP/s for halves, 300 for TF32 on an
// H100); a block reads 12 KB for 128 x 64 x 32 (16) products of halves (TF32), so the L2 must bring 2.3 bytes for every
// 100 operations of halves.
//
// ELEM: float, half_t or bf16_t. WIDE: float.
#include "conv.cuh"

namespace {

constexpr int BM = 128, BN = 64, THREADS = 128, STAGES = 3;
constexpr int PIECES = 4, PIECE = 16 / sizeof(Elem);  // pieces of a row in a stage, elements of a piece
constexpr int ROW = PIECES * 16, STAGE = (BM + BN) * ROW, LEFT = BM / 32, RIGHT = BN / 32;  // bytes; pieces a thread
constexpr int OUTSIDE = -(1 << 30);

// Where piece p of a row lies among its 4: eight neighbouring rows have theirs in eight different groups of banks.
__device__ inline int swizzled(int row, int piece) { return row * ROW + ((piece ^ (row >> 1 & 3)) << 4); }

__device__ inline void multiply(float (&d)[4], unsigned (&a)[4], unsigned (&b)[2], float) { mma_tf32_16x8x8(d, a, b); }
__device__ inline void multiply(float (&d)[4], unsigned (&a)[4], unsigned (&b)[2], half_t) { mma_f16_16x8x16(d, a, b); }
__device__ inline void multiply(float (&d)[4], unsigned (&a)[4], unsigned (&b)[2], bf16_t) { mma_bf16_16x8x16(d, a, b); }

template <int N>
__device__ inline void rounded(unsigned (&r)[N], float) {
#pragma unroll
    for (int k = 0; k < N; ++k) r[k] = to_tf32(__uint_as_float(r[k]));
}
template <int N, class T>
__device__ inline void rounded(unsigned (&)[N], T) {}

}  // namespace

// Arguments as in conv.cu, but that x's channels are neighbours, and that the weights lie as (group, feature, row,
// column, inner channel) without gaps.
extern "C" __global__ void __launch_bounds__(128, 3)
    image_mma(const Elem* x, const Elem* weights, const Elem* bias, Elem* y, int transposed, int relu, int vector,     //
              int pixels, unsigned down, unsigned down_mul, unsigned down_shift, unsigned across, unsigned across_mul,  //
              unsigned across_shift, int groups, int channels, int features, int height, int width, int out_height,     //
              int out_width, int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw,                            //
              long long xn, int xh, int xw, long long yn, int yc, int yh, int yw) {
    TL_DYNAMIC_SHARED(unsigned char, shared);
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int tiles = (features + BN - 1) / BN;
    const int n0 = static_cast<int>(blockIdx.x % tiles) * BN, group = static_cast<int>(blockIdx.x / tiles % groups);
    const int m0 = static_cast<int>(blockIdx.x / tiles / groups) * BM;
    const int phases = transposed ? sw : 1;
    const Side rows = side(transposed, static_cast<int>(blockIdx.z) / phases, sh, ph, dh, kh);
    const Side cols = side(transposed, static_cast<int>(blockIdx.z) % phases, sw, pw, dw, kw);
    const FastDivider by_down{down_mul, down_shift, down}, by_across{across_mul, across_shift, across};
    x += static_cast<long long>(group) * channels;
    const int filter = kh * kw * channels;
    weights += (static_cast<long long>(group) * features + n0) * filter;  // a filter and its tiles are counted with 32 bits

    // the pieces that this thread brings: one of every 4, of every 32nd row
    const int pieces = channels / PIECE, piece = tid % PIECES, deep = rows.taps * cols.taps * pieces;
    Digits taps(piece, PIECES, cols.taps > 0 ? cols.taps : 1, pieces);
    long long from[LEFT];
    int row0[LEFT], col0[LEFT];
#pragma unroll
    for (int r = 0; r < LEFT; ++r) {
        const int m = m0 + tid / PIECES + r * (THREADS / PIECES);
        unsigned q = 0, p = 0, n = 0;
        if (m < pixels) n = by_down.divide(by_across.divide(static_cast<unsigned>(m), q), p);
        row0[r] = static_cast<int>(p) * rows.by + rows.from;
        col0[r] = static_cast<int>(q) * cols.by + cols.from;
        from[r] = n * xn + (static_cast<long long>(row0[r]) * xh + static_cast<long long>(col0[r]) * xw);
        if (m >= pixels) row0[r] = OUTSIDE;
    }
    const auto bring = [&](int stage) {
        unsigned char* to = shared + stage * STAGE;
        const bool is = taps.a < rows.taps && cols.taps > 0;
        const int down_i = taps.a * rows.step, right_j = taps.b * cols.step, c = taps.c * PIECE;
#pragma unroll
        for (int r = 0; r < LEFT; ++r) {
            const int at = tid / PIECES + r * (THREADS / PIECES), row = row0[r] + down_i, col = col0[r] + right_j;
            const bool in = is && static_cast<unsigned>(row) < static_cast<unsigned>(height) &&
                            static_cast<unsigned>(col) < static_cast<unsigned>(width);
            const Elem* source = in ? x + (from[r] + (down_i * xh + right_j * xw + c)) : x;
            cp_async16(to + swizzled(at, piece), source, in ? 16 : 0);
        }
        const int tap =
            ((rows.first_tap + taps.a * rows.every) * kw + cols.first_tap + taps.b * cols.every) * channels + c;
#pragma unroll
        for (int r = 0; r < RIGHT; ++r) {
            const int at = tid / PIECES + r * (THREADS / PIECES);
            const bool in = is && n0 + at < features;
            cp_async16(to + BM * ROW + swizzled(at, piece), in ? weights + (at * filter + tap) : weights, in ? 16 : 0);
        }
        taps.next();
    };

    float sums[4][4][4] = {};
    const int m_warp = warp / 2 * 64, n_warp = warp % 2 * 32, steps = (deep + PIECES - 1) / PIECES;
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < steps) bring(s);
        cp_async_commit();
    }
    for (int t = 0; t < steps; ++t) {
        cp_async_wait<STAGES - 2>();
        barrier();  // of stage t % 3 all is there, and of the one before nothing is read any more
        if (t + STAGES - 1 < steps) bring((t + STAGES - 1) % STAGES);
        cp_async_commit();
        const unsigned char* left = shared + t % STAGES * STAGE;
        const unsigned char* right = left + BM * ROW;
#pragma unroll
        for (int k = 0; k < PIECES; k += 2) {
            unsigned a[4][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {  // rows 0..7, 8..15 of the first piece, then of the second
                ldmatrix_x4(a[i], left + swizzled(m_warp + i * 16 + lane % 16, k + lane / 16));
                rounded(a[i], Elem{});
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {  // features 0..7: both pieces, then features 8..15
                ldmatrix_x4(b[j], right + swizzled(n_warp + j * 16 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
                rounded(b[j], Elem{});
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    unsigned factor[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    multiply(sums[i][j], a[i], factor, Elem{});
                }
        }
    }
    cp_async_wait<0>();

    y += static_cast<long long>(group) * features * yc + static_cast<long long>(rows.first) * yh +
         static_cast<long long>(cols.first) * yw;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int m = m0 + m_warp + i * 16 + half * 8 + lane / 4;
            if (m >= pixels) continue;
            unsigned q, p;
            const unsigned n = by_down.divide(by_across.divide(static_cast<unsigned>(m), q), p);
            const int row = static_cast<int>(p) * rows.apart, col = static_cast<int>(q) * cols.apart;
            if (row + rows.first >= out_height || col + cols.first >= out_width) continue;
            Elem* to = y + n * yn + row * yh + col * yw;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int f = n0 + n_warp + j * 8 + lane % 4 * 2;
                Vec<Elem, 2> two;
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    float v = sums[i][j][half * 2 + k];
                    if (bias && f + k < features) v += widened(bias[group * features + f + k]);
                    two[k] = narrowed(relu ? rectified(v) : v);
                }
                if (vector && f < features) {
                    store_vec<2>(to + f, two);
                } else {
                    if (f < features) to[static_cast<long long>(f) * yc] = two[0];
                    if (f + 1 < features) to[static_cast<long long>(f + 1) * yc] = two[1];
                }
            }
        }
}
