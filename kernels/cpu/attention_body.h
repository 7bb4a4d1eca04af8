// Attention of one head, forward and back: see attention.cpp. Scores exist for a block of queries and keys at a time.
#include "lines_body.h"

// ---- products of what lies in scratch memory: rows there are whole vectors, filled up with zeros
constexpr std::int64_t padded(std::int64_t n, std::int64_t lane) { return (n + lane - 1) / lane * lane; }

// c[i][0 .. V vectors] = sum over k of a(i, k) b[k][...] (more what is there, where `add`) for M rows.
template <int M, int V, class T>
TL_INLINE void block(std::int64_t steps, const T* a, std::int64_t row, std::int64_t col, const T* b, std::int64_t ldb,
                     T* c, std::int64_t ldc, bool add) {
    Vec<T> acc[M][V];
    for (int i = 0; i < M; ++i)
        for (int v = 0; v < V; ++v) acc[i][v] = add ? load(c + i * ldc + v * lanes<T>) : Vec<T>{};
    tile<M, V>(steps, a, row, col, b, ldb, acc);
    for (int i = 0; i < M; ++i)
        for (int v = 0; v < V; ++v) store(c + i * ldc + v * lanes<T>, acc[i][v]);
}

template <int V, class T>
void strip(std::int64_t m, std::int64_t steps, const T* a, std::int64_t row, std::int64_t col, const T* b,
           std::int64_t ldb, T* c, std::int64_t ldc, bool add) {
    constexpr int most = V * 12 + V + 1 <= registers ? 12 : 6;
    while (m > 0) {
        int done = 1;
        if (m >= most)
            block<most, V>(steps, a, row, col, b, ldb, c, ldc, add), done = most;
        else if (m >= 6)
            block<6, V>(steps, a, row, col, b, ldb, c, ldc, add), done = 6;
        else if (m >= 4)
            block<4, V>(steps, a, row, col, b, ldb, c, ldc, add), done = 4;
        else if (m >= 2)
            block<2, V>(steps, a, row, col, b, ldb, c, ldc, add), done = 2;
        else
            block<1, V>(steps, a, row, col, b, ldb, c, ldc, add);
        m -= done, a += done * row, c += done * ldc;
    }
}

// c (m x n) = a b, or c + a b; n in whole vectors, a(i, k) = a[i * row + k * col].
template <class T>
void product(std::int64_t m, std::int64_t n, std::int64_t steps, const T* a, std::int64_t row, std::int64_t col,
             const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool add) {
    constexpr int most = registers == 32 ? 4 : 2;
    std::int64_t j = 0;
    for (; j + most * lanes<T> <= n; j += most * lanes<T>)
        strip<most>(m, steps, a, row, col, b + j, ldb, c + j, ldc, add);
    for (; j + 2 * lanes<T> <= n; j += 2 * lanes<T>) strip<2>(m, steps, a, row, col, b + j, ldb, c + j, ldc, add);
    for (; j < n; j += lanes<T>) strip<1>(m, steps, a, row, col, b + j, ldb, c + j, ldc, add);
}

// Rows of `width` numbers as they lie, where they are whole vectors; else their copy in `room`.
template <class T>
const T* in_vectors(std::int64_t rows, std::int64_t width, const T* x, std::int64_t& step, T* room) {
    if (width % lanes<T> == 0) return x;
    const std::int64_t wide = padded(width, lanes<T>);
    for (std::int64_t i = 0; i < rows; ++i) {
        std::copy_n(x + i * step, width, room + i * wide);
        std::fill(room + i * wide + width, room + (i + 1) * wide, T(0));
    }
    step = wide;
    return room;
}

// y[j][i] = x[i][j] for rows i of `width` numbers; y's rows are `wide` long, zeros behind the last.
template <class T>
void transpose(std::int64_t rows, std::int64_t width, const T* x, std::int64_t step, T* y, std::int64_t wide) {
    constexpr std::int64_t side = 16;
    for (std::int64_t i0 = 0; i0 < rows; i0 += side)
        for (std::int64_t j0 = 0; j0 < width; j0 += side) {
            const std::int64_t i1 = std::min(rows, i0 + side), j1 = std::min(width, j0 + side);
            for (std::int64_t j = j0; j < j1; ++j)
                for (std::int64_t i = i0; i < i1; ++i) y[j * wide + i] = x[i * step + j];
        }
    for (std::int64_t j = 0; j < width; ++j) std::fill(y + j * wide + rows, y + (j + 1) * wide, T(0));
}

// How many of `keys` keys from `first` on query i may look at.
TL_INLINE std::int64_t seen(const Attention& f, std::int64_t i, std::int64_t first, std::int64_t keys) {
    return f.causal ? std::max<std::int64_t>(0, std::min(keys, i + 1 - first)) : keys;
}

// The keys that queries before `to` may look at.
TL_INLINE std::int64_t keys_before(const Attention& f, std::int64_t to) { return f.causal ? std::min(f.s, to) : f.s; }

// ---- forward: the queries [from, to) of one head
template <class T>
void attend(const Attention& f, std::int64_t from, std::int64_t to, const Operand<T>& q, const Operand<T>& k,
            const Operand<T>& v, const Operand<T>& mask, T* out, T* lse) {
    const T least = -std::numeric_limits<T>::infinity();
    const std::int64_t keys = keys_before(f, to), wide = padded(keys, lanes<T>), v_wide = padded(f.v, lanes<T>);
    const std::int64_t block_wide = tl::key_block;  // whole vectors of every instruction set
    T* room = tl::scratch<T>(f.e * wide + keys * v_wide + tl::query_block * (block_wide + v_wide) + 64);
    T *kt = room, *v_room = kt + f.e * wide, *scores = v_room + keys * v_wide;
    T* sums = scores + tl::query_block * block_wide;
    transpose(keys, f.e, k.data, k.row, kt, wide);
    std::int64_t v_row = v.row;
    const T* values = in_vectors(keys, f.v, v.data, v_row, v_room);
    for (std::int64_t i0 = from; i0 < to; i0 += tl::query_block) {
        const std::int64_t rows = std::min(to - i0, tl::query_block), all_keys = keys_before(f, i0 + rows);
        T top[tl::query_block], weight[tl::query_block];
        for (std::int64_t i = 0; i < rows; ++i) top[i] = least, weight[i] = 0;
        for (std::int64_t j0 = 0; j0 < all_keys; j0 += tl::key_block) {
            const std::int64_t count = std::min(all_keys - j0, tl::key_block), n = padded(count, lanes<T>);
            product(rows, n, f.e, q.data + i0 * q.row, q.row, std::int64_t(1), kt + j0, wide, scores, block_wide,
                    false);
            for (std::int64_t i = 0; i < rows; ++i) {
                T* s = scores + i * block_wide;
                const T* m = mask.data ? mask.data + (i0 + i) * mask.row + j0 : nullptr;
                const std::int64_t own = seen(f, i0 + i, j0, count);
                const Row<T> row{own};
                const Vec<T> scale = all(static_cast<T>(f.scale));
                Vec<T> best[places];
                for (int p = 0; p < places; ++p) best[p] = all(least);
                row.each([&](std::int64_t at, auto width, int p) TL_ALWAYS {
                    Vec<T> x = take(s + at, width, least) * scale;
                    if (m) x += take(m + at, width);
                    put(s + at, width, x);
                    best[p] = larger(best[p], take(s + at, width, least));
                });
                const T highest = std::max(top[i], row.join(best, Larger{})[0]);
                const T base = highest == least ? T(0) : highest;  // a row that saw nothing yet has weights of 0
                const Vec<T> sum = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                    const Vec<T> e = exp(take(s + at, width, least) - base);
                    put(s + at, width, e);
                    return e;
                });
                std::fill(s + own, s + n, T(0));
                if (j0) {
                    const Vec<T> shrink = exp(all(top[i] - base));
                    for (std::int64_t c = 0; c < v_wide; c += lanes<T>)
                        store(sums + i * v_wide + c, load(sums + i * v_wide + c) * shrink);
                    weight[i] *= shrink[0];
                }
                weight[i] += sum[0];
                top[i] = highest;
            }
            product(rows, v_wide, count, scores, block_wide, std::int64_t(1), values + j0 * v_row, v_row, sums, v_wide,
                    j0 > 0);
        }
        for (std::int64_t i = 0; i < rows; ++i) {
            const bool blind = weight[i] == 0;
            const Vec<T> by = all(blind ? T(0) : 1 / weight[i]);
            const T* sum = sums + i * v_wide;
            T* y = out + (i0 + i) * f.v;
            Row<T>{f.v}.each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                put(y + at, width, take(sum + at, width) * by);
            });
            lse[i0 + i] = blind ? -least : top[i] + log(all(weight[i]))[0];  // inf: its weights come out as 0 again
        }
    }
}

// ---- back: all of one head
// P = exp(scores - lse), dV = P^T dY, dS = P (dY V^T - sum(dY Y)) scale, dQ = dS K, dK = dS^T Q.
template <class T>
void attend_dx(const Attention& f, const Operand<T>& dy, const Operand<T>& q, const Operand<T>& k, const Operand<T>& v,
               const Operand<T>& mask, const T* y, const T* lse, T* dq, T* dk, T* dv) {
    const T least = -std::numeric_limits<T>::infinity();
    const std::int64_t wide = padded(f.s, lanes<T>), e = padded(f.e, lanes<T>), v_wide = padded(f.v, lanes<T>);
    const std::int64_t block_wide = tl::key_block, block = tl::query_block * block_wide;
    T* room = tl::scratch<T>((f.e + f.v) * wide + 2 * f.s * (e + v_wide) + f.l * (e + v_wide) + 2 * block +
                             tl::query_block * e);
    T *kt = room, *vt = kt + f.e * wide, *k_room = vt + f.v * wide, *to_k = k_room + f.s * e, *to_v = to_k + f.s * e;
    T *q_room = to_v + f.s * v_wide, *dy_room = q_room + f.l * e, *p = dy_room + f.l * v_wide, *d = p + block;
    T* to_q = d + block;
    transpose(f.s, f.e, k.data, k.row, kt, wide);
    transpose(f.s, f.v, v.data, v.row, vt, wide);
    std::int64_t q_row = q.row, k_row = k.row, dy_row = dy.row;
    const T* qs = in_vectors(f.l, f.e, q.data, q_row, q_room);
    const T* ks = in_vectors(f.s, f.e, k.data, k_row, k_room);
    const T* dys = in_vectors(f.l, f.v, dy.data, dy_row, dy_room);
    std::fill(to_k, to_k + f.s * (e + v_wide), T(0));
    for (std::int64_t i0 = 0; i0 < f.l; i0 += tl::query_block) {
        const std::int64_t rows = std::min(f.l - i0, tl::query_block), all_keys = keys_before(f, i0 + rows);
        T dots[tl::query_block];
        for (std::int64_t i = 0; i < rows; ++i) {
            const T *g = dy.data + (i0 + i) * dy.row, *o = y + (i0 + i) * f.v;
            dots[i] = total<T>(Row<T>{f.v}, [&](std::int64_t at, auto width) TL_ALWAYS {
                return take(g + at, width) * take(o + at, width);
            })[0];
        }
        const T *q0 = qs + i0 * q_row, *dy0 = dys + i0 * dy_row;
        for (std::int64_t j0 = 0; j0 < all_keys; j0 += tl::key_block) {
            const std::int64_t count = std::min(all_keys - j0, tl::key_block), n = padded(count, lanes<T>);
            product(rows, n, f.e, q0, q_row, std::int64_t(1), kt + j0, wide, p, block_wide, false);
            product(rows, n, f.v, dy0, dy_row, std::int64_t(1), vt + j0, wide, d, block_wide, false);
            for (std::int64_t i = 0; i < rows; ++i) {
                T *s = p + i * block_wide, *t = d + i * block_wide;
                const T* m = mask.data ? mask.data + (i0 + i) * mask.row + j0 : nullptr;
                const std::int64_t own = seen(f, i0 + i, j0, count);
                const Vec<T> scale = all(static_cast<T>(f.scale)), less = all(lse[i0 + i]), dot = all(dots[i]);
                Row<T>{own}.each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                    Vec<T> x = take(s + at, width, least) * scale;
                    if (m) x += take(m + at, width);
                    const Vec<T> weight = exp(x - less);
                    put(s + at, width, weight);
                    put(t + at, width, weight * (take(t + at, width) - dot) * scale);
                });
                std::fill(s + own, s + n, T(0));
                std::fill(t + own, t + n, T(0));
            }
            product(count, v_wide, rows, p, std::int64_t(1), block_wide, dy0, dy_row, to_v + j0 * v_wide, v_wide, true);
            product(count, e, rows, d, std::int64_t(1), block_wide, q0, q_row, to_k + j0 * e, e, true);
            product(rows, e, count, d, block_wide, std::int64_t(1), ks + j0 * k_row, k_row, to_q, e, j0 > 0);
        }
        for (std::int64_t i = 0; i < rows; ++i) std::copy_n(to_q + i * e, f.e, dq + (i0 + i) * f.e);
    }
    for (std::int64_t j = 0; j < f.s; ++j) {
        std::copy_n(to_k + j * e, f.e, dk + j * f.e);
        std::copy_n(to_v + j * v_wide, f.v, dv + j * f.v);
    }
}
