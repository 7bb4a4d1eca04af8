// conv2d of few channels (a first layer), with relu and max-pooling of 2 x 2 behind it where they are wanted.
//
// A block takes a patch of an image, with what its windows need around it, and the weights of 32 features (16 of
// double) into shared memory; a thread makes 2 x 2 neighbouring pixels of 8 (4) features, which is a window of the
// pooling, so that what is not pooled never leaves the registers. Taps are added in the order channel, row, column.
// Floor: bytes of the image read once for every 32 features, and outputs written once (with pooling 5/16 of that:
// MNIST, 256 images, 32 features of 24 x 24: 5.9 MB, 2 us at 3 TB/s); operations 2 N OH OW O C KH KW at FFMA's rate.
//
// ELEM: the elements, WIDE: what is summed in.
#include "conv.cuh"

namespace {

constexpr int THREADS = 256, QUADS = 64, PARTS = THREADS / QUADS;  // windows of 2 x 2 in a block, threads for each
constexpr int EACH = sizeof(Wide) == 8 ? 4 : 8, FEATURES = PARTS * EACH, PITCH = FEATURES + 4;

}  // namespace

// quads: down x across in a block. patch: high x wide pixels of its image. pooled: y and place are of windows.
// Strides of y are those of place too.
extern "C" __global__ void __launch_bounds__(256, 2)
    direct(const Elem* x, const Elem* weights, const Elem* bias, Elem* y, unsigned char* place, int relu, int pooled,  //
           int down, int across, int tiles_down, int tiles_across, int high, int wide, int groups, int channels,       //
           int features, int height, int width, int out_height, int out_width, int kh, int kw, int sh, int sw,         //
           int ph, int pw, int dh, int dw, long long xn, int xc, int xh, int xw,                                       //
           long long wo, int wc, int wi, int wj, long long yn, long long yc, long long yh, long long yw) {
    TL_DYNAMIC_SHARED(Wide, shared);
    const int tid = threadIdx.x, taps = channels * kh * kw;
    Wide* const packed = shared;                // [tap][feature]
    Wide* const patch = shared + taps * PITCH;  // [channel][row][column]
    const int tile_col = static_cast<int>(blockIdx.x % tiles_across);
    const int tile_row = static_cast<int>(blockIdx.x / tiles_across % tiles_down);
    const long long n = blockIdx.x / tiles_across / tiles_down;
    const int chunks = (features + FEATURES - 1) / FEATURES;
    const int group = static_cast<int>(blockIdx.y) / chunks, f0 = static_cast<int>(blockIdx.y) % chunks * FEATURES;

    weights += (static_cast<long long>(group) * features + f0) * wo;
    for (int e = tid; e < taps * FEATURES; e += THREADS) {
        const int f = e / taps, tap = e % taps, j = tap % kw, i = tap / kw % kh, c = tap / kw / kh;
        packed[tap * PITCH + f] = f0 + f < features ? widened(weights[f * wo + (c * wc + i * wi + j * wj)]) : Wide(0);
    }
    const int top = tile_row * down * 2 * sh - ph, left = tile_col * across * 2 * sw - pw;
    x += n * xn + static_cast<long long>(group) * channels * xc;
    for (int e = tid; e < channels * high * wide; e += THREADS) {
        const int v = e % wide, u = e / wide % high, c = e / wide / high, row = top + u, col = left + v;
        const bool in = row >= 0 && row < height && col >= 0 && col < width;
        patch[e] = in ? widened(x[c * xc + row * xh + col * xw]) : Wide(0);
    }
    barrier();

    const int quad_row = tid % QUADS / across, quad_col = tid % QUADS % across, part = tid / QUADS;
    if (quad_row >= down) return;
    const int row = (tile_row * down + quad_row) * 2, col = (tile_col * across + quad_col) * 2;
    if (row >= out_height || col >= out_width) return;
    const Wide* corner = patch + quad_row * 2 * sh * wide + quad_col * 2 * sw;
    const Wide* factors = packed + part * EACH;
    Wide sums[4][EACH] = {};
    for (int c = 0; c < channels; ++c)
        for (int i = 0; i < kh; ++i) {
            const Wide* from = corner + (c * high + i * dh) * wide;
#pragma unroll 4
            for (int j = 0; j < kw; ++j) {
                Wide w[EACH], v[4];
#pragma unroll
                for (int k = 0; k < EACH; k += 4) quad(factors + k, w + k);
                v[0] = from[0], v[1] = from[sw], v[2] = from[sh * wide], v[3] = from[sh * wide + sw];
#pragma unroll
                for (int q = 0; q < 4; ++q)
#pragma unroll
                    for (int k = 0; k < EACH; ++k) sums[q][k] = tl_fma(v[q], w[k], sums[q][k]);
                factors += PITCH;
                from += dw;
            }
        }

    const int first = f0 + part * EACH;
    const long long feature = static_cast<long long>(group) * features + first;
    const long long to = n * yn + feature * yc + (pooled ? row / 2 * yh + col / 2 * yw : row * yh + col * yw);
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
        if (first + k >= features) break;
        const Wide more = bias ? widened(bias[feature + k]) : Wide(0);
        if (!pooled) {
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const Wide v = sums[q][k] + more;
                if (row + q / 2 < out_height && col + q % 2 < out_width)
                    y[to + k * yc + q / 2 * yh + q % 2 * yw] = narrowed(relu ? rectified(v) : v);
            }
            continue;
        }
        Wide best = -INF;  // of what is rounded: the first of equals, the last nan
        int at = 0;
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const Wide v = rectified(widened(narrowed(sums[q][k] + more)));
            if (v > best || is_nan(v)) best = v, at = q;
        }
        y[to + k * yc] = narrowed(best);
        place[to + k * yc] = static_cast<unsigned char>(at);
    }
}
