// conv2d and its gradient with respect to the image as one implicit product, in strict float32 (or double).
//
// Rows are pixels of the output, columns its features, inner elements the taps of a window: nothing of a window is ever
// stored but the tile of 16 taps that is being multiplied. The gradient is the same product with kernel and image the
// other way round; where windows are a stride apart, pixels are split by their remainder, and each part (blockIdx.z)
// meets only its own taps. Sums run over the taps in order, so their bits are the same in every run.
//
// A block of 256 threads makes 16 ROWS_EACH x 16 COLS_EACH outputs, each thread ROWS_EACH x COLS_EACH in registers;
// tiles pass through two halves of shared memory while the next one is loaded. Floor: 2 N OH OW O C KH KW operations at
// the rate of FFMA (60 TFLOP/s on an H100); bytes are those of image, weights and output once, and what of them a
// block's neighbours read again comes from the L2.
//
// ELEM: the elements, WIDE: what is summed in. LAST: 1 where the images lie channels_last: neighbouring threads read
// neighbouring channels and taps are counted (row, column, channel); 0: neighbouring pixels, (channel, row, column).
#include "conv.cuh"

namespace {

constexpr int TM = ROWS_EACH, TN = COLS_EACH, BM = 16 * TM, BN = 16 * TN, THREADS = 256;
constexpr int LEFT = BM + 4, RIGHT = BN + 4;  // a row of a tile in shared memory: banks differ from row to row
constexpr int LOADS = BM * DEEP / THREADS, STEP = LAST ? DEEP : THREADS / BM;
constexpr int OUTSIDE = -(1 << 30);  // a row of no image

}  // namespace

// x: (image, channel, row, column) by its steps; weights by theirs for (group, inner channel, feature, row, column).
// pixels: all of y, or of one phase of it: down x across in each image.
extern "C" __global__ void __launch_bounds__(256, 2)
    image(const Elem* x, const Elem* weights, const Elem* bias, Elem* y, int transposed, int relu, int vector,     //
          int pixels, unsigned down, unsigned down_mul, unsigned down_shift, unsigned across, unsigned across_mul,  //
          unsigned across_shift, int groups, int channels, int features, int height, int width, int out_height,     //
          int out_width, int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw,                            //
          long long xn, int xc, int xh, int xw, long long wg, int wk, int wn, int wi, int wj,                       //
          long long yn, int yc, int yh, int yw) {
    TL_SHARED(Wide, left, 2 * DEEP * LEFT);
    TL_SHARED(Wide, right, 2 * DEEP * RIGHT);
    const int tid = threadIdx.x, tx = tid % 16, ty = tid / 16;
    const int tiles = (features + BN - 1) / BN;
    const int n0 = static_cast<int>(blockIdx.x % tiles) * BN, group = static_cast<int>(blockIdx.x / tiles % groups);
    const int m0 = static_cast<int>(blockIdx.x / tiles / groups) * BM;
    const int phases = transposed ? sw : 1;
    const Side rows = side(transposed, static_cast<int>(blockIdx.z) / phases, sh, ph, dh, kh);
    const Side cols = side(transposed, static_cast<int>(blockIdx.z) % phases, sw, pw, dw, kw);
    const FastDivider by_down{down_mul, down_shift, down}, by_across{across_mul, across_shift, across};
    x += static_cast<long long>(group) * channels * xc;
    weights += group * wg + static_cast<long long>(rows.first_tap) * wi + static_cast<long long>(cols.first_tap) * wj;
    wi *= rows.every, wj *= cols.every;

    // the taps that this thread loads, and the pixels: one, or every 16th of the tile
    const int nb = LAST ? cols.taps : rows.taps, nc = LAST ? channels : cols.taps;
    const int na = nb * nc ? (LAST ? rows.taps : channels) : 0;
    Digits taps(LAST ? tid % DEEP : tid / BM, STEP, nb > 0 ? nb : 1, nc > 0 ? nc : 1);
    long long from;
    int row0, col0;
    const auto meet = [&](int m) {
        unsigned q = 0, p = 0, n = 0;
        if (m < pixels) n = by_down.divide(by_across.divide(static_cast<unsigned>(m), q), p);
        row0 = static_cast<int>(p) * rows.by + rows.from;
        col0 = static_cast<int>(q) * cols.by + cols.from;
        from = n * xn + (static_cast<long long>(row0) * xh + static_cast<long long>(col0) * xw);
        if (m >= pixels) row0 = OUTSIDE;
    };
#if LAST  // in registers there is no room for so many pixels
    TL_SHARED(long long, start, BM);
    TL_SHARED(int, corner, 2 * BM);
    if (tid < BM) {
        meet(m0 + tid);
        start[tid] = from, corner[2 * tid] = row0, corner[2 * tid + 1] = col0;
    }
    barrier();
#else
    meet(m0 + tid % BM);
#endif
    // the taps whose weights it loads, for features tid / 16 + 16 r; where the images lie channels_last they are the same
    Digits weights_taps(tid % DEEP, DEEP, nb > 0 ? nb : 1, nc > 0 ? nc : 1);

    Wide next_left[LOADS], next_right[TN];
    const auto load = [&] {
#pragma unroll
        for (int r = 0; r < LOADS; ++r) {
            const int i = LAST ? taps.a : taps.b, j = LAST ? taps.b : taps.c, c = LAST ? taps.c : taps.a;
            const int down_i = i * rows.step, right_j = j * cols.step;
#if LAST
            const int pixel = tid / DEEP + r * (THREADS / DEEP);
            from = start[pixel], row0 = corner[2 * pixel], col0 = corner[2 * pixel + 1];
#endif
            const int row = row0 + down_i, col = col0 + right_j;
            const bool in = taps.a < na && static_cast<unsigned>(row) < static_cast<unsigned>(height) &&
                            static_cast<unsigned>(col) < static_cast<unsigned>(width);
            next_left[r] = in ? widened(x[from + (c * xc + down_i * xh + right_j * xw)]) : Wide(0);
            if (!LAST) taps.next();
        }
        Digits& places = LAST ? taps : weights_taps;
        const int i = LAST ? places.a : places.b, j = LAST ? places.b : places.c, c = LAST ? places.c : places.a;
        const int at = c * wk + i * wi + j * wj;
#pragma unroll
        for (int r = 0; r < TN; ++r) {
            const int n = n0 + tid / DEEP + r * (THREADS / DEEP);
            next_right[r] = places.a < na && n < features ? widened(weights[at + n * wn]) : Wide(0);
        }
        places.next();
    };
    const auto keep = [&](int half) {
        Wide* l = left + half * DEEP * LEFT;
        Wide* r = right + half * DEEP * RIGHT;
#pragma unroll
        for (int k = 0; k < LOADS; ++k) {
            if (LAST)
                l[tid % DEEP * LEFT + tid / DEEP + k * (THREADS / DEEP)] = next_left[k];
            else
                l[(tid / BM + k * STEP) * LEFT + tid % BM] = next_left[k];
        }
#pragma unroll
        for (int k = 0; k < TN; ++k) r[tid % DEEP * RIGHT + tid / DEEP + k * (THREADS / DEEP)] = next_right[k];
    };

    Wide sums[TM][TN] = {};
    const int deep = (na * nb * nc + DEEP - 1) / DEEP;
    if (deep) {
        load();
        keep(0);
        barrier();
    }
    for (int t = 0; t < deep; ++t) {
        const int half = t & 1;
        if (t + 1 < deep) load();
        tile_product<TM, TN>(left + half * DEEP * LEFT, right + half * DEEP * RIGHT, LEFT, RIGHT, tx, ty, sums);
        if (t + 1 < deep) {
            keep(half ^ 1);
            barrier();
        }
    }

    Wide more[TN];
    const int f0 = n0 + ty * TN;
#pragma unroll
    for (int j = 0; j < TN; ++j)
        more[j] = bias && f0 + j < features ? widened(bias[group * features + f0 + j]) : Wide(0);
    y += (static_cast<long long>(group) * features + f0) * yc + static_cast<long long>(rows.first) * yh +
         static_cast<long long>(cols.first) * yw;
#pragma unroll
    for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) {
            sums[i][j] += more[j];
            if (relu) sums[i][j] = rectified(sums[i][j]);
        }
    }
#pragma unroll
    for (int i = 0; i < TM; ++i) {
        const int m = m0 + i / 4 * 64 + tx * 4 + i % 4;
        if (m >= pixels) continue;
        unsigned q, p;
        const unsigned n = by_down.divide(by_across.divide(static_cast<unsigned>(m), q), p);
        if (static_cast<int>(p) * rows.apart + rows.first >= out_height) continue;
        if (static_cast<int>(q) * cols.apart + cols.first >= out_width) continue;
        Elem* to = y + n * yn + static_cast<int>(p) * rows.apart * yh + static_cast<int>(q) * cols.apart * yw;
        if (!LAST && vector && sizeof(Elem) <= 4) {  // four pixels lie together, and all of them are there
            if (i % 4 == 0) {
#pragma unroll
                for (int j = 0; j < TN; ++j)
                    if (f0 + j < features) {
                        Vec<Elem, 4> four;
#pragma unroll
                        for (int k = 0; k < 4; ++k) four[k] = narrowed(sums[(i & ~3) + k][j]);
                        store_vec<4>(to + static_cast<long long>(j) * yc, four);
                    }
            }
        } else if (LAST && vector && sizeof(Elem) <= 4 && TN == 4) {  // four features do
            if (f0 < features) {
                Vec<Elem, 4> four;
#pragma unroll
                for (int k = 0; k < 4; ++k) four[k] = narrowed(sums[i][k % TN]);
                store_vec<4>(to, four);
            }
        } else {
#pragma unroll
            for (int j = 0; j < TN; ++j)
                if (f0 + j < features) to[static_cast<long long>(j) * yc] = narrowed(sums[i][j]);
        }
    }
}
