// tl::gemm: matrix products of any shape, strides and number of threads. gemm_body.h holds the loops.
//
// The sum over k is cut into pieces of `deep` steps, so that a panel of b's columns stays near. For each piece b is
// packed into panels (all threads together), unless it can be read where it lies; then blocks of c are made, one a
// task. Where c is too small to be cut and k is long, the pieces of k are the tasks, and what they make is added up in
// their order. How c and k are cut never changes a bit: an element is the sum over k in order within a piece, and the
// pieces depend on the shape alone.
#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>
#include <utility>

#include "pool.h"

namespace tl {

namespace {

// A block of c and what it is made of.
template <class T>
struct Block {
    std::int64_t rows, cols, steps;
    const T* a;
    std::int64_t a_row, a_col;
    const T* b;  // packed panels, or columns in place, whose rows lie b_row apart
    std::int64_t b_row;
    bool packed;
    T* c;
    std::int64_t c_row;
    bool add;
    const T *bias, *residual;
    std::int64_t residual_row;
    bool relu;
};

// What an instruction set brings.
template <class T>
struct Kernel {
    std::int64_t lanes, panel, rows;  // elements of a vector, columns of a panel, rows of a tile
    bool parts;                       // reads a part of a vector in place
    void (*multiply)(const Block<T>&);
    void (*pack)(std::int64_t steps, std::int64_t cols, Matrix<T> b, T* to);
};

}  // namespace

}  // namespace tl

namespace {
using tl::Block;
using tl::Kernel;
using tl::Matrix;
}  // namespace

#define TL_BODY "gemm_body.h"
#include "each_isa.h"

namespace tl {

namespace {

constexpr std::int64_t deep = 384;         // steps of a piece of k
constexpr std::int64_t wide = 4096;        // columns that are packed at a time
constexpr std::int64_t alone = 1 << 19;    // multiplications that are not worth a second thread
constexpr std::int64_t of_task = 1 << 18;  // multiplications that a task has at least

// Memory of the calling thread that is kept from call to call, since fresh pages cost more than packing.
template <class T, int Purpose>
T* scratch(std::int64_t count) {
    thread_local struct Kept {
        void* at = nullptr;
        std::int64_t bytes = 0;
        ~Kept() { std::free(at); }
    } kept;
    const std::int64_t bytes = (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    if (bytes > kept.bytes) {
        std::free(kept.at);
        kept.at = std::aligned_alloc(64, static_cast<std::size_t>(bytes));
        kept.bytes = kept.at ? bytes : 0;
        if (!kept.at) throw std::bad_alloc();
    }
    return static_cast<T*>(kept.at);
}

std::int64_t cuts(std::int64_t n, std::int64_t most) { return (n + most - 1) / most; }

template <class F>
void in_tasks(std::int64_t tasks, bool together, F f) {
    if (together && tasks > 1)
        Pool::get().run(static_cast<int>(tasks), [&](int t) { f(t); });
    else
        for (std::int64_t t = 0; t < tasks; ++t) f(t);
}

// c in a grid of blocks: a power of two of them, of nearly the same size, and as square as can be.
struct Grid {
    std::int64_t rows = 1, cols = 1;
};

Grid grid(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t tile, std::int64_t panel) {
    Grid best;
    const std::int64_t work = m * n * k;
    if (work < alone) return best;
    std::int64_t tasks = 2;
    while (tasks < 16 && work >= 2 * tasks * of_task) tasks *= 2;
    double least = 0;
    for (std::int64_t rows = 1; rows <= tasks; rows *= 2) {
        const std::int64_t cols = tasks / rows;
        // the largest block times their number, in elements, and what is read for them
        const double high = static_cast<double>(cuts(cuts(m, tile), rows) * tile),
                     broad = static_cast<double>(cuts(cuts(n, panel), cols) * panel);
        const double cost = static_cast<double>(tasks) * (high * broad + 8 * (high + broad));
        if (rows == 1 || cost < least) least = cost, best = {rows, cols};
    }
    return best;
}

template <class T>
T activated(Act act, T x) {
    switch (act) {
        case Act::gelu: return x / 2 * (1 + std::erf(x * T(0.70710678118654752440)));
        case Act::gelu_tanh: return x / 2 * (1 + std::tanh(T(0.79788456080286535588) * (x + T(0.044715) * x * x * x)));
        case Act::tanh: return std::tanh(x);
        case Act::sigmoid: return 1 / (1 + std::exp(-x));
        default: return x;
    }
}

// The product of one piece of k, [from, to), with all of c, or with what follows it where it is the last.
template <class T>
struct Product {
    std::int64_t m, n;
    Matrix<T> a, b;
    T* c;
    std::int64_t c_row;
    Epilogue<T> after;

    void piece(const Kernel<T>& kernel, std::int64_t from, std::int64_t to, bool first, bool last) const {
        const std::int64_t steps = to - from;
        const bool packed = b.col != 1 || m > 4 * kernel.rows || (!kernel.parts && n % kernel.lanes);
        for (std::int64_t j = 0; j < n; j += wide) {
            const std::int64_t cols = std::min(wide, n - j);
            const Matrix<T> here{b.data + from * b.row + j * b.col, b.row, b.col};
            const T* columns = here.data;
            if (packed) {
                T* to = scratch<T, 0>(cuts(cols, kernel.panel) * kernel.panel * steps);
                columns = to;
                in_tasks(cuts(cols, kernel.panel), m * n * steps >= alone, [&](std::int64_t t) {
                    const std::int64_t at = t * kernel.panel;
                    kernel.pack(steps, std::min(kernel.panel, cols - at), {here.data + at * b.col, b.row, b.col},
                                to + at * steps);
                });
            }
            const Grid cut = grid(m, cols, steps, kernel.rows, kernel.panel);
            const std::int64_t panels = cuts(cols, kernel.panel);
            in_tasks(cut.rows * cut.cols, true, [&](std::int64_t t) {
                const std::int64_t r = t % cut.rows, s = t / cut.rows;
                const std::int64_t i = r * m / cut.rows, i_end = (r + 1) * m / cut.rows;
                const std::int64_t p = s * panels / cut.cols * kernel.panel;
                const std::int64_t p_end = std::min(cols, (s + 1) * panels / cut.cols * kernel.panel);
                if (i == i_end || p >= p_end) return;
                block(kernel, i, i_end, j + p, j + p_end, from, steps, columns + (packed ? p * steps : p), packed,
                      first, last);
            });
        }
    }

    void block(const Kernel<T>& kernel, std::int64_t i, std::int64_t i_end, std::int64_t j, std::int64_t j_end,
               std::int64_t from, std::int64_t steps, const T* columns, bool packed, bool first, bool last) const {
        Block<T> made{i_end - i, j_end - j, steps, a.data + i * a.row + from * a.col, a.row, a.col, columns, b.row,
                      packed, c + i * c_row + j, c_row, !first || after.add, nullptr, nullptr, 0, false};
        if (last) {
            if (after.bias) made.bias = after.bias + j;
            if (after.residual)
                made.residual = after.residual + i * after.residual_row + j, made.residual_row = after.residual_row;
            made.relu = after.act == Act::relu;
        }
        kernel.multiply(made);
        if (last && after.act != Act::none && after.act != Act::relu)
            for (std::int64_t r = i; r < i_end; ++r)
                for (std::int64_t s = j; s < j_end; ++s) c[r * c_row + s] = activated(after.act, c[r * c_row + s]);
    }
};

template <class T>
const Kernel<T> kernel_in_use() {
    return TL_PICK(kernel<T>)();
}

}  // namespace

template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c, std::int64_t c_row,
          const Epilogue<T>& after) {
    if (m <= 0 || n <= 0) return;
    const Kernel<T> kernel = kernel_in_use<T>();
    const Product<T> product{m, n, a, b, c, c_row, after};
    const std::int64_t pieces = std::max<std::int64_t>(1, cuts(k, deep));
    for (std::int64_t p = 0; p < pieces; ++p)
        product.piece(kernel, p * k / pieces, (p + 1) * k / pieces, p == 0, p == pieces - 1);
}

template void gemm<float>(std::int64_t, std::int64_t, std::int64_t, Matrix<float>, Matrix<float>, float*, std::int64_t,
                          const Epilogue<float>&);
template void gemm<double>(std::int64_t, std::int64_t, std::int64_t, Matrix<double>, Matrix<double>, double*,
                           std::int64_t, const Epilogue<double>&);

}  // namespace tl
