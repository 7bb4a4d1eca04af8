// Convolutions of one input channel a group, with one or a few features each: forward, and both gradients.
//
// Floor: bytes. There are as few operations as taps for each output, so what counts is that image and output cross the
// memory once; that neighbouring windows meet the same pixels is left to the L1, whose rate bears 3 x 3 taps above the
// memory's. `planes` has a thread for each output, along rows of pixels; `last` (channels_last) 1 or 4 neighbouring
// channels a thread, whose weights lie in shared memory in that order. Taps are added row by row. `weights` sums over
// parts of the pixels, 9 taps at a time in registers; conv_weights.cu's `join` adds the parts in order. It also serves a
// first layer of one channel, for which all features share that channel.
//
// ELEM: the elements, WIDE: what is summed in.
#include "conv.cuh"

namespace {

constexpr int THREADS = 256, TAPS = 9;

// The taps of one dimension that an output meets: tap first + t * every meets the source at from + t * step.
struct Met {
    int first, every, from, step;
    __device__ inline Met(int at, int transposed, int kernel, int stride, int pad, int dilation) {
        if (!transposed) {
            first = 0, every = 1, from = at * stride - pad, step = dilation;
            return;
        }
        at += pad;
        if (dilation == 1) {
            first = at % stride, every = stride;
        } else {
            first = 0, every = 1;
            while (first < kernel && (at - first * dilation) % stride) ++first;
            while (every * dilation % stride) ++every;
        }
        from = (at - first * dilation) / stride, step = -(every * dilation / stride);
    }
};

}  // namespace

#define GEOMETRY                                                                                                    \
    int transposed, int relu, int height, int width, int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw, \
        int spread, int joined
#define LIES long long xn, long long xc, long long xh, long long xw, long long wo, int wi, int wj

// y[n, c] = the sum over source channels c / spread * joined + 0 .. joined - 1. Weights are those of feature c, or of
// the source's where the convolution is transposed. y is contiguous: n1 x n2 x n3 are channels, rows, columns.
extern "C" __global__ void __launch_bounds__(256, 4)
    planes(const Elem* x, const Elem* weights, const Elem* bias, Elem* y, unsigned total, unsigned n1, unsigned m1,
           unsigned s1, unsigned n2, unsigned m2, unsigned s2, unsigned n3, unsigned m3, unsigned s3, GEOMETRY, LIES) {
    const unsigned e = blockIdx.x * 256u + threadIdx.x;
    if (e >= total) return;
    unsigned c, row, col;
    const FastDivider channels{m1, s1, n1}, rows{m2, s2, n2}, cols{m3, s3, n3};
    const unsigned n = channels.divide(rows.divide(cols.divide(e, col), row), c);
    const Met down(static_cast<int>(row), transposed, kh, sh, ph, dh);
    const Met right(static_cast<int>(col), transposed, kw, sw, pw, dw);
    Wide sum = 0;
    for (int r = 0; r < joined; ++r) {
        const int source = static_cast<int>(c) / spread * joined + r;
        const Elem* image = x + n * xn + source * xc;
        const Elem* factors = weights + (transposed ? source : static_cast<int>(c)) * wo;
        for (int i = down.first, u = down.from; i < kh; i += down.every, u += down.step) {
            if (u < 0 || u >= height) continue;
            const Elem* line = image + u * xh;
#pragma unroll 3
            for (int j = right.first, v = right.from; j < kw; j += right.every, v += right.step)
                if (v >= 0 && v < width) sum = tl_fma(widened(line[v * xw]), widened(factors[i * wi + j * wj]), sum);
        }
    }
    if (bias) sum += widened(bias[c]);
    y[e] = narrowed(relu ? rectified(sum) : sum);
}

namespace {

template <int V>
__device__ inline void last_pixels(const Elem* x, const Wide* packed, const Elem* bias, Elem* y, int c, int at,
                                   int lanes, int chunk, int channels, int first, int past, FastDivider rows,
                                   FastDivider cols, GEOMETRY, LIES) {
    const int taps = kh * kw;
    for (int pixel = first; pixel < past; pixel += lanes) {
        unsigned row, col;
        const unsigned n = rows.divide(cols.divide(static_cast<unsigned>(pixel), col), row);
        const Met down(static_cast<int>(row), transposed, kh, sh, ph, dh);
        const Met right(static_cast<int>(col), transposed, kw, sw, pw, dw);
        Wide sums[V] = {};
        for (int r = 0; r < joined; ++r) {
            const Elem* image = x + n * xn + (c / spread * joined + r) * xc;
            for (int i = down.first, u = down.from; i < kh; i += down.every, u += down.step) {
                if (u < 0 || u >= height) continue;
#pragma unroll 3
                for (int j = right.first, v = right.from; j < kw; j += right.every, v += right.step) {
                    if (v < 0 || v >= width) continue;
                    const Vec<Elem, V> pixels_here = load_vec<V>(image + u * xh + v * xw);
                    const Wide* factors = packed + (r * taps + i * kw + j) * chunk + at;
#pragma unroll
                    for (int k = 0; k < V; ++k) sums[k] = tl_fma(widened(pixels_here[k]), factors[k], sums[k]);
                }
            }
        }
        Vec<Elem, V> out;
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (bias) sums[k] += widened(bias[c + k]);
            out[k] = narrowed(relu ? rectified(sums[k]) : sums[k]);
        }
        store_vec<V>(y + static_cast<long long>(pixel) * channels + c, out);
    }
}

}  // namespace

// The same for y in channels_last. A block makes `chunk` channels of `each` pixels, ``vector`` (1 or 4) a thread; x's
// channels are neighbours where it is 4.
extern "C" __global__ void __launch_bounds__(256, 2)
    last(const Elem* x, const Elem* weights, const Elem* bias, Elem* y, int vector, int chunk, int each, int pixels,
         int channels, unsigned n2, unsigned m2, unsigned s2, unsigned n3, unsigned m3, unsigned s3, GEOMETRY, LIES) {
    TL_DYNAMIC_SHARED(Wide, packed);  // [source][tap][channel]
    const int tid = threadIdx.x, c0 = static_cast<int>(blockIdx.y) * chunk, taps = kh * kw;
    for (int e = tid; e < joined * taps * chunk; e += THREADS) {
        const int k = e % chunk, tap = e / chunk % taps, c = c0 + k;
        const int feature = transposed ? c / spread * joined + e / chunk / taps : c;
        packed[e] = c < channels ? widened(weights[feature * wo + tap / kw * wi + tap % kw * wj]) : Wide(0);
    }
    barrier();
    const int across = chunk / vector, lanes = THREADS / across, at = tid % across * vector, c = c0 + at;
    const int first = static_cast<int>(blockIdx.x) * each, past = first + each < pixels ? first + each : pixels;
    if (c >= channels) return;
    const FastDivider rows{m2, s2, n2}, cols{m3, s3, n3};
    if (vector == 4 && sizeof(Elem) <= 4)
        last_pixels<sizeof(Elem) <= 4 ? 4 : 1>(x, packed, bias, y, c, at, lanes, chunk, channels, first + tid / across, past, rows,
                       cols, transposed, relu, height, width, kh, kw, sh, sw, ph, pw, dh, dw, spread, joined, xn,
                       xc, xh, xw, wo, wi, wj);
    else
        last_pixels<1>(x, packed, bias, y, c, at, lanes, chunk, channels, first + tid / across, past, rows,
                       cols, transposed, relu, height, width, kh, kw, sh, sw, ph, pw, dh, dw, spread, joined, xn,
                       xc, xh, xw, wo, wi, wj);
}

// dw[o] = the sum over pixels [part * each, ...) of dy[o] times what each tap met of x's channel o / spread. A block
// has `across` features (1, or neighbours in memory) and 256 / across pixels at a time, and 9 taps from 9 blockIdx.y on.
extern "C" __global__ void __launch_bounds__(256, 2)
    weights(const Elem* x, const Elem* dy, Elem* dw, Wide* parts, int across, int each, int pixels, int features,
            int spread, unsigned n2, unsigned m2, unsigned s2, unsigned n3, unsigned m3, unsigned s3, int height,
            int width, int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dilation, long long xn, long long xc,
            long long xh, long long xw, long long yn, long long yc, long long yh, long long yw, long long wo, int wi,
            int wj, long long size) {
    TL_SHARED(Wide, shared, THREADS);
    const int tid = threadIdx.x, o = static_cast<int>(blockIdx.x) * across + tid % across;
    const int lanes = THREADS / across, lane = tid / across, tap0 = static_cast<int>(blockIdx.y) * TAPS;
    const int first = static_cast<int>(blockIdx.z) * each, past = first + each < pixels ? first + each : pixels;
    const FastDivider rows{m2, s2, n2}, cols{m3, s3, n3};
    Wide sums[TAPS] = {};
    if (o < features) {
        for (int pixel = first + lane; pixel < past; pixel += lanes) {
            unsigned p, q;
            const unsigned n = rows.divide(cols.divide(static_cast<unsigned>(pixel), q), p);
            const Wide slope = widened(dy[n * yn + o * yc + p * yh + q * yw]);
            const Elem* image = x + n * xn + o / spread * xc;
            const int top = static_cast<int>(p) * sh - ph, left = static_cast<int>(q) * sw - pw;
            int i = tap0 / kw, j = tap0 % kw;
#pragma unroll
            for (int t = 0; t < TAPS; ++t) {
                const int row = top + i * dh, col = left + j * dilation;
                if (i < kh && row >= 0 && row < height && col >= 0 && col < width)
                    sums[t] = tl_fma(slope, widened(image[row * xh + col * xw]), sums[t]);
                if (++j == kw) j = 0, ++i;
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TAPS; ++t) {
        const int tap = tap0 + t;
        if (tap >= kh * kw) break;  // the same for all threads
        shared[tid] = sums[t];
        barrier();
        for (int half = lanes / 2; half; half /= 2) {
            if (lane < half) shared[tid] += shared[tid + half * across];
            barrier();
        }
        if (lane == 0 && o < features) {
            const long long at = o * wo + tap / kw * wi + tap % kw * wj;
            if (parts)
                parts[blockIdx.z * size + at] = shared[tid];
            else
                dw[at] = narrowed(shared[tid]);
        }
        barrier();
    }
}
