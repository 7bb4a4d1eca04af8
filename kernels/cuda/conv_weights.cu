// The gradient of conv2d with respect to the weights as an implicit product: rows are features, columns the taps of a
// window, inner elements all pixels of dy. Strict float32 (or double).
//
// There are few outputs and many inner elements, so these are cut into parts of a size given by the shape alone; each
// part (blockIdx.z) leaves its sums in scratch memory, and `join` adds them in order: the same bits in every run. Tiles
// are 64 x 64 x 16, each thread makes 4 x 4. Floor: 2 N OH OW O C KH KW operations at the rate of FFMA, and x and dy
// read once for every 64 features or 64 taps, the rereads from the L2.
//
// ELEM: the elements, WIDE: what is summed in. LAST: 1 where the images lie channels_last.
#include "conv.cuh"

namespace {

constexpr int TILE = 64, THREADS = 256, EACH = 4, PITCH = TILE + 4;
constexpr int OUTTILE = -(1 << 30);

}  // namespace

// parts: null, or room for one dw each; a part is ``deep`` tiles of 16 pixels.
extern "C" __global__ void __launch_bounds__(256, 2)
    weights(const Elem* x, const Elem* dy, Elem* dw, Wide* parts, int deep, int pixels, unsigned down,          //
            unsigned down_mul, unsigned down_shift, unsigned across, unsigned across_mul, unsigned across_shift,  //
            int groups, int channels, int features, int height, int width, int kh, int kw, int sh, int sw,        //
            int ph, int pw, int dh, int dilation, long long xn, int xc, int xh, int xw,                           //
            long long yn, int yc, int yh, int yw, long long wo, int wc, int wi, int wj, long long size) {
    TL_SHARED(Wide, left, 2 * DEEP * PITCH);
    TL_SHARED(Wide, right, 2 * DEEP * PITCH);
    const int tid = threadIdx.x, tx = tid % 16, ty = tid / 16;
    const int columns = channels * kh * kw, tiles = (columns + TILE - 1) / TILE, tall = (features + TILE - 1) / TILE;
    const int n0 = static_cast<int>(blockIdx.x % tiles) * TILE;
    const int m0 = static_cast<int>(blockIdx.x / tiles % tall) * TILE;
    const int group = static_cast<int>(blockIdx.x / tiles / tall);
    const FastDivider by_down{down_mul, down_shift, down}, by_across{across_mul, across_shift, across};
    const int nb = LAST ? kw : kh, nc = LAST ? channels : kw;
    x += static_cast<long long>(group) * channels * xc;
    dy += static_cast<long long>(group) * features * yc;

    // planes: one pixel and every 16th feature and tap; channels_last: every 4th pixel, one feature and one tap
    constexpr int TAPS = LAST ? 1 : EACH, PIXELS = LAST ? EACH : 1;
    int row0[TAPS], col0[TAPS], start[TAPS], feature[TAPS];
#pragma unroll
    for (int r = 0; r < TAPS; ++r) {
        const int at = LAST ? tid % TILE : tid / DEEP + r * (THREADS / DEEP);
        const Digits tap(n0 + at, 0, nb, nc);
        const int i = LAST ? tap.a : tap.b, j = LAST ? tap.b : tap.c, c = LAST ? tap.c : tap.a;
        row0[r] = n0 + at < columns ? i * dh - ph : OUTTILE;
        col0[r] = j * dilation - pw;
        start[r] = c * xc;
        feature[r] = m0 + at < features ? (m0 + at) * yc : -1;
    }
    const int first = static_cast<int>(blockIdx.z) * deep * DEEP;
    int k = first + (LAST ? tid / TILE : tid % DEEP);

    Wide next_left[EACH], next_right[EACH];
    const auto load = [&] {
#pragma unroll
        for (int u = 0; u < PIXELS; ++u) {
            const int pixel = k + u * (THREADS / TILE);
            const bool is = pixel < pixels;
            unsigned q = 0, p = 0, n = 0;
            if (is) n = by_down.divide(by_across.divide(static_cast<unsigned>(pixel), q), p);
            const Elem* image = x + n * xn;
            const Elem* slope = dy + n * yn + (static_cast<int>(p) * yh + static_cast<int>(q) * yw);
#pragma unroll
            for (int r = 0; r < TAPS; ++r) {
                const int row = row0[r] + static_cast<int>(p) * sh, col = col0[r] + static_cast<int>(q) * sw;
                const bool in = is && static_cast<unsigned>(row) < static_cast<unsigned>(height) &&
                                static_cast<unsigned>(col) < static_cast<unsigned>(width);
                next_right[u + r] = in ? widened(image[start[r] + row * xh + col * xw]) : Wide(0);
                next_left[u + r] = is && feature[r] >= 0 ? widened(slope[feature[r]]) : Wide(0);
            }
        }
        k += DEEP;
    };
    const auto keep = [&](int half) {
        Wide* l = left + half * DEEP * PITCH;
        Wide* r = right + half * DEEP * PITCH;
#pragma unroll
        for (int u = 0; u < EACH; ++u) {
            const int at = LAST ? (tid / TILE + u * (THREADS / TILE)) * PITCH + tid % TILE
                                : tid % DEEP * PITCH + tid / DEEP + u * (THREADS / DEEP);
            l[at] = next_left[u];
            r[at] = next_right[u];
        }
    };

    Wide sums[EACH][EACH] = {};
    const int left_over = (pixels - first + DEEP - 1) / DEEP, count = left_over < deep ? left_over : deep;
    if (count > 0) {
        load();
        keep(0);
        barrier();
    }
    for (int t = 0; t < count; ++t) {
        const int half = t & 1;
        if (t + 1 < count) load();
        tile_product<EACH, EACH>(left + half * DEEP * PITCH, right + half * DEEP * PITCH, PITCH, PITCH, tx, ty, sums);
        if (t + 1 < count) {
            keep(half ^ 1);
            barrier();
        }
    }
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
        const int n = n0 + ty * EACH + j;
        if (n >= columns) continue;
        const Digits tap(n, 0, nb, nc);
        const int i = LAST ? tap.a : tap.b, v = LAST ? tap.b : tap.c, c = LAST ? tap.c : tap.a;
        const long long place = static_cast<long long>(c) * wc + static_cast<long long>(i) * wi + v * wj;
#pragma unroll
        for (int u = 0; u < EACH; ++u) {
            const int m = m0 + tx * 4 + u;
            if (m >= features) continue;
            const long long at = (static_cast<long long>(group) * features + m) * wo + place;
            if (parts)
                parts[blockIdx.z * size + at] = sums[u][j];
            else
                dw[at] = narrowed(sums[u][j]);
        }
    }
}

// dw[e] = the sum of parts[:, e]: 32 elements a block, 8 threads share the parts of each.
extern "C" __global__ void __launch_bounds__(256, 4) join(const Wide* parts, Elem* dw, int count, long long size) {
    TL_SHARED(Wide, shared, 256);
    const int tx = threadIdx.x % 32, ty = threadIdx.x / 32;
    const long long e = static_cast<long long>(blockIdx.x) * 32 + tx;
    Wide sum = 0;
    if (e < size) {
#pragma unroll 4
        for (int p = ty; p < count; p += 8) sum += parts[p * size + e];
    }
    shared[threadIdx.x] = sum;
    barrier();
    if (ty == 0 && e < size) {
        for (int r = 1; r < 8; ++r) sum += shared[r * 32 + tx];
        dw[e] = narrowed(sum);
    }
}
