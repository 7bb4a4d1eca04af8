// tl::gemm: matrix products of any shape, strides and number of threads. gemm_body.h holds the loops.
//
// What is chosen, by the shape alone:
// - Inner products of runs where c has few columns (or rows) and both operands lie so.
// - Else vectors run along b's columns: read where they lie if they are runs and few rows use them, else packed into
//   panels, all threads together. Where it is cheaper to pack a, the product is made the other way round, and its
//   tiles are stored across.
// - The sum over k goes by pieces of `deep` steps, so that a panel stays near; blocks of c are the tasks. Where c is
//   too small to be cut and k is long, parts of k are the tasks instead, added up in their order.
// How c is cut never changes a bit: an element is the sum over k in order within a piece.
#include "gemm.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include "pool.h"

namespace {

using tl::Act;
using tl::Matrix;

// A block of c and what it is made of.
template <class T>
struct Block {
    std::int64_t rows, cols, steps;
    Matrix<T> a, b;
    std::int64_t panel;  // columns of a panel of b
    bool packed;         // b.data has panels; else columns in place, whose rows are runs
    bool across;         // c's rows run along the block's columns
    T* c;
    std::int64_t c_row;
    bool add;  // to what is in c
    const T* bias = nullptr;
    const T* residual = nullptr;
    std::int64_t residual_row = 0;
    Act act = Act::none;
    T* pre = nullptr;  // where what goes into the act is kept
    bool plain = true;  // nothing to do to a tile beyond adding
};

// What an instruction set brings.
template <class T>
struct Kernel {
    std::int64_t lanes, vectors, across, rows;  // of a vector; vectors of a panel, and of one across; rows of a tile
    bool parts;                                 // reads a part of a vector as quickly as all of it
    void (*multiply)(const Block<T>&);
    void (*pack)(std::int64_t steps, std::int64_t cols, Matrix<T> b, T* to);
    void (*dots)(const Block<T>&);
};

}  // namespace

#define TL_BODY "gemm_body.h"
#include "each_isa.h"

namespace {

using tl::Epilogue;

constexpr std::int64_t deep = 512;           // steps of a piece of k
constexpr std::int64_t shallow = 64;         // the same for rows that make one tile with columns in place
constexpr std::int64_t wide = 4096;          // columns that are packed at a time
constexpr std::int64_t in_place_rows = 128;  // as many read b's columns where they lie
constexpr std::int64_t few_steps = 16;       // b's columns of so few are packed sooner than tiles are stored across
constexpr std::int64_t dot_columns = 8;      // columns that inner products are made for
constexpr std::int64_t alone = 1 << 19;      // multiplications that are not worth a second thread
constexpr std::int64_t of_task = 1 << 18;    // multiplications that a task has at least
constexpr std::int64_t most_tasks = 16;

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
void in_tasks(std::int64_t tasks, F f) {
    if (tasks == 1) return f(0);
    tl::Pool::get().run(static_cast<int>(tasks), [&](int t) { f(t); });
}

// So much work as a power of two of parts, for every number of threads.
std::int64_t parts_of(std::int64_t work) {
    std::int64_t tasks = 1;
    while (work >= alone && tasks < most_tasks && work >= 2 * tasks * of_task) tasks *= 2;
    return tasks;
}

// The same for what may be cut in any way. One thread does it best in one part.
std::int64_t tasks_of(std::int64_t work) { return tl::Pool::alone() ? 1 : parts_of(work); }

// c in a grid of blocks of nearly the same size, as square as can be.
struct Grid {
    std::int64_t rows, cols;
    Grid(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t tile, std::int64_t panel) : rows(1), cols(1) {
        const std::int64_t tasks = tasks_of(m * n * k);
        double least = 0;
        for (std::int64_t r = 1; r <= tasks; r *= 2) {
            // the largest block, and what is read for it
            const double high = static_cast<double>(cuts(cuts(m, tile), r) * tile),
                         broad = static_cast<double>(cuts(cuts(n, panel), tasks / r) * panel);
            const double cost = high * broad + 8 * (high + broad);
            if (r == 1 || cost < least) least = cost, rows = r, cols = tasks / r;
        }
    }
};

template <class T>
struct Product {
    std::int64_t m, n;
    Matrix<T> a, b;
    bool across;  // a and b have changed places: c's rows run along b's columns
    T* c;
    std::int64_t c_row;
    Epilogue<T> after;
    const Kernel<T>& kernel;

    Product turned() const {
        return {n, m, {b.data, b.col, b.row}, {a.data, a.col, a.row}, !across, c, c_row, after, kernel};
    }

    // Rows and columns from (i, j) on of the piece of k that begins at `from`.
    Block<T> block(std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t cols, std::int64_t from,
                   std::int64_t steps, bool first, bool last) const {
        const std::int64_t y = across ? j : i, x = across ? i : j;
        Block<T> p{rows, cols, steps, {a.data + i * a.row + from * a.col, a.row, a.col},
                   {b.data + from * b.row + j * b.col, b.row, b.col}, 0, false, across, c + y * c_row + x, c_row,
                   !first || after.add};
        if (last) {
            p.bias = after.bias ? after.bias + x : nullptr;
            p.residual = after.residual ? after.residual + y * after.residual_row + x : nullptr;
            p.residual_row = after.residual_row, p.act = after.act;
            p.pre = after.pre ? after.pre + y * c_row + x : nullptr;
            p.plain = !p.bias && !p.residual && p.act != Act::relu;
        }
        return p;
    }

    // The epilogue of a c that has its sums.
    void finish() const {
        if (!after.bias && !after.residual && after.act == Act::none) return;
        Block<T> p = block(0, m, 0, n, 0, 0, false, true);
        if (p.across) std::swap(p.rows, p.cols), p.across = false;
        p.panel = kernel.vectors * kernel.lanes, p.packed = false, p.b.row = 0;
        kernel.multiply(p);
    }

    void dots(std::int64_t k) const {
        const std::int64_t tasks = std::min(tasks_of(m * n * k), cuts(m, 4));
        in_tasks(tasks, [&](std::int64_t t) {
            const std::int64_t i = t * m / tasks;
            kernel.dots(block(i, (t + 1) * m / tasks - i, 0, n, 0, k, true, false));
        });
        finish();
    }

    void panels(std::int64_t k) const {
        const std::int64_t panel = (across ? kernel.across : kernel.vectors) * kernel.lanes;
        if (b.col != 1 || m > in_place_rows || (!kernel.parts && n % kernel.lanes)) {
            const std::int64_t pieces = std::max<std::int64_t>(1, cuts(k, deep));
            for (std::int64_t p = 0; p < pieces; ++p)
                for (std::int64_t j = 0; j < n; j += wide)
                    packed(panel, j, std::min(wide, n - j), p * k / pieces, (p + 1) * k / pieces, p == 0,
                           p == pieces - 1);
            return;
        }
        // a few rows go through long rows of b side by side, not through columns that lie far apart
        const std::int64_t pieces = std::max<std::int64_t>(1, cuts(k, m <= kernel.rows ? shallow : deep));
        in_blocks(panel, n, k, [&](std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t cols) {
            for (std::int64_t p = 0; p < pieces; ++p) {
                const std::int64_t from = p * k / pieces, steps = (p + 1) * k / pieces - from;
                Block<T> made = block(i, rows, j, cols, from, steps, p == 0, p == pieces - 1);
                made.panel = panel;
                kernel.multiply(made);
            }
        });
    }

    // Some columns of a piece of k.
    void packed(std::int64_t panel, std::int64_t j, std::int64_t cols, std::int64_t from, std::int64_t to, bool first,
                bool last) const {
        const std::int64_t panels = cuts(cols, panel), steps = to - from;
        T* columns = scratch<T, 0>(panels * panel * steps);
        const std::int64_t tasks = std::min(tasks_of(m * cols * steps), panels);
        in_tasks(tasks, [&](std::int64_t t) {
            for (std::int64_t s = t * panels / tasks; s < (t + 1) * panels / tasks; ++s)
                kernel.pack(steps, std::min(panel, cols - s * panel),
                            {b.data + from * b.row + (j + s * panel) * b.col, b.row, b.col},
                            columns + s * panel * steps);
        });
        in_blocks(panel, cols, steps, [&](std::int64_t i, std::int64_t rows, std::int64_t at, std::int64_t width) {
            Block<T> made = block(i, rows, j + at, width, from, steps, first, last);
            made.panel = panel, made.packed = true, made.b.data = columns + at * steps;
            kernel.multiply(made);
        });
    }

    // Calls f(first row, rows, first column, columns) for a grid of blocks, columns cut between panels.
    template <class F>
    void in_blocks(std::int64_t panel, std::int64_t cols, std::int64_t steps, F f) const {
        const Grid grid(m, cols, steps, kernel.rows, panel);
        const std::int64_t panels = cuts(cols, panel);
        in_tasks(grid.rows * grid.cols, [&](std::int64_t t) {
            const std::int64_t r = t % grid.rows, s = t / grid.rows;
            const std::int64_t i = r * m / grid.rows, rows = (r + 1) * m / grid.rows - i;
            const std::int64_t j = s * panels / grid.cols * panel;
            const std::int64_t width = std::min(cols, (s + 1) * panels / grid.cols * panel) - j;
            if (rows > 0 && width > 0) f(i, rows, j, width);
        });
    }

    void run(std::int64_t k) const {
        const bool runs = a.col == 1 && b.row == 1;
        if (runs && n <= dot_columns) return dots(k);
        if (runs && m <= dot_columns) return turned().dots(k);
        // to pack a, or it needs no packing
        const bool cheaper = b.col != 1 && k > few_steps && (a.col == 1 ? m < n : a.row == 1);
        const bool fuller = n < kernel.lanes && n < m && a.row == 1;           // vectors along a's rows
        if (n == 1 && c_row == 1 && !after.bias && (!after.residual || after.residual_row == 1)) {
            Product row = turned();  // a column without gaps is a row
            row.across = false;
            return row.panels(k);
        }
        (cheaper || fuller ? turned() : *this).panels(k);
    }

    // The parts of k as tasks, each with a c of its own.
    void by_parts(std::int64_t k, std::int64_t parts) const {
        T* sums = scratch<T, 1>(parts * m * n);
        in_tasks(parts, [&](std::int64_t t) {
            const std::int64_t from = t * k / parts;
            const Matrix<T> some_a{a.data + from * a.col, a.row, a.col}, some_b{b.data + from * b.row, b.row, b.col};
            Product{m, n, some_a, some_b, false, sums + t * m * n, n, {}, kernel}.run((t + 1) * k / parts - from);
        });
        for (std::int64_t i = 0; i < m; ++i) {
            T* row = c + i * c_row;
            if (!after.add) std::fill(row, row + n, T(0));
            for (std::int64_t t = 0; t < parts; ++t) {
                const T* more = sums + (t * m + i) * n;
                for (std::int64_t j = 0; j < n; ++j) row[j] += more[j];
            }
        }
        finish();
    }
};

template <class T>
Kernel<T> kernel_in_use() {
    return TL_PICK(kernel<T>)();
}

}  // namespace

namespace tl {

template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c, std::int64_t c_row,
          const Epilogue<T>& after) {
    if (m <= 0 || n <= 0) return;
    const Kernel<T> kernel = kernel_in_use<T>();
    const Product<T> product{m, n, a, b, false, c, c_row, after, kernel};
    const std::int64_t tiles = cuts(m, kernel.rows) * cuts(n, kernel.lanes * kernel.vectors);
    const std::int64_t parts = std::min(parts_of(m * n * k), k / deep);
    if (tiles <= most_tasks && parts > 1)
        product.by_parts(k, parts);
    else
        product.run(k);
}

template void gemm<float>(std::int64_t, std::int64_t, std::int64_t, Matrix<float>, Matrix<float>, float*, std::int64_t,
                          const Epilogue<float>&);
template void gemm<double>(std::int64_t, std::int64_t, std::int64_t, Matrix<double>, Matrix<double>, double*,
                           std::int64_t, const Epilogue<double>&);

}  // namespace tl
