// The steps of recurrent layers through time, forward and back, and the products with w_ih where vectors are wide. The
// weights' gradients are left to NumPy's BLAS by the ops' Python side (tensorlite/ops/recurrent_*.py).
//
// Recurrent weights are packed once a call. One source, three instruction sets, chosen when called.
#include <algorithm>
#include <cstring>

#include "isa.h"
#include "pool.h"
#include "tl.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define TL_INLINE static inline __attribute__((always_inline))

namespace tl {

template <class T>
struct Bits;
template <>
struct Bits<float> {
    typedef std::int32_t type;
};
template <>
struct Bits<double> {
    typedef std::int64_t type;
};

constexpr std::int64_t task_rows = 16;   // the most rows of the batch that one task has
constexpr std::int64_t panel_rows = 96;  // rows of several steps that are multiplied at once with what is no state

// A step's rows: row b of the batch lies at start + b, for b < rows.
struct Step {
    std::int64_t start, rows;
};

// What the steps of a layer read and write; each kind of layer uses some of it.
template <class T>
struct Layer {
    std::int64_t hidden = 0, inputs = 0;
    bool relu = false;
    const std::vector<Step>* walk = nullptr;
    const T *h0 = nullptr, *c0 = nullptr, *w = nullptr, *bias = nullptr, *dy = nullptr;
    const T *x = nullptr, *w_x = nullptr;  // packed w_ih, where products with it are wanted
    T* dx = nullptr;
    T *y = nullptr, *h_n = nullptr, *c_n = nullptr, *gates = nullptr, *cells = nullptr;
    T *state = nullptr, *cell = nullptr, *d = nullptr, *before = nullptr;
};

// How many of the `left` vectors of columns a tile of `multiply` takes; packing and multiplying must agree.
inline int vectors_at_once(std::int64_t left) { return left >= 3 ? 4 : left >= 2 ? 2 : 1; }

}  // namespace tl

namespace {

using tl::data;
namespace py = pybind11;

#define T float
#define LANES 4
#define ROWS 3
namespace f4_base {
#include "recurrent_body.h"
}
#undef T
#undef LANES
#define T double
#define LANES 2
namespace f8_base {
#include "recurrent_body.h"
}
#undef T
#undef LANES
#undef ROWS

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TL_X86 1
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define T float
#define LANES 8
#define ROWS 3
namespace f4_avx2 {
#include "recurrent_body.h"
}
#undef T
#undef LANES
#define T double
#define LANES 4
namespace f8_avx2 {
#include "recurrent_body.h"
}
#undef T
#undef LANES
#undef ROWS
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,fma")
#define T float
#define LANES 16
#define ROWS 6
namespace f4_avx512 {
#include "recurrent_body.h"
}
#undef T
#undef LANES
#define T double
#define LANES 8
namespace f8_avx512 {
#include "recurrent_body.h"
}
#undef T
#undef LANES
#undef ROWS
#pragma GCC pop_options
#endif

template <class T>
using Steps = void (*)(const tl::Layer<T>&, std::int64_t, std::int64_t);

template <class T>
struct Kernels {
    Steps<T> lstm, lstm_back, gru, gru_back, rnn, rnn_back;
    std::int64_t lanes;
};

#define TL_KERNELS(IN, LANES) {IN::lstm, IN::lstm_back, IN::gru, IN::gru_back, IN::rnn, IN::rnn_back, LANES}

template <class T>
Kernels<T> kernels();

template <>
Kernels<float> kernels<float>() {
#ifdef TL_X86
    if (tl::isa() >= tl::avx512) return TL_KERNELS(f4_avx512, 16);
    if (tl::isa() >= tl::avx2) return TL_KERNELS(f4_avx2, 8);
#endif
    return TL_KERNELS(f4_base, 4);
}

template <>
Kernels<double> kernels<double>() {
#ifdef TL_X86
    if (tl::isa() >= tl::avx512) return TL_KERNELS(f8_avx512, 8);
    if (tl::isa() >= tl::avx2) return TL_KERNELS(f8_avx2, 4);
#endif
    return TL_KERNELS(f8_base, 2);
}

// Memory of the calling thread that is kept from call to call, since fresh pages cost more than packing.
template <class T>
T* scratch(std::int64_t count) {
    thread_local std::vector<T> kept;
    constexpr std::int64_t line = 64 / sizeof(T);
    if (static_cast<std::int64_t>(kept.size()) < count + line) kept = std::vector<T>(count + line);
    const auto at = reinterpret_cast<std::uintptr_t>(kept.data());
    return kept.data() + (64 - at % 64) % 64 / sizeof(T);
}

std::int64_t up(std::int64_t n, std::int64_t lanes) { return (n + lanes - 1) / lanes * lanes; }

// Work that is worth waking the helpers for is cut into tasks, by shape alone.
template <class F>
void in_tasks(std::int64_t work, std::int64_t tasks, F f) {
    if (work < 1 << 17)
        for (std::int64_t k = 0; k < tasks; ++k) f(k);
    else
        tl::Pool::get().run(static_cast<int>(tasks), [&](int k) { f(k); });
}

// w (gates * hidden, hidden) as [blocks of hidden units][inner][gates][lanes], beginning with gate `first`; zeros fill
// up.
template <class T>
void pack_gates(std::int64_t gates, std::int64_t hidden, std::int64_t first, std::int64_t lanes, const T* w, T* to) {
    in_tasks(gates * hidden * hidden, up(hidden, lanes) / lanes, [=](std::int64_t block) {
        const std::int64_t j = block * lanes, n = std::min(lanes, hidden - j);
        T* out = to + j * gates * hidden;
        for (std::int64_t g = 0; g < gates; ++g) {
            const T* from = w + ((g + first) % gates * hidden + j) * hidden;
            for (std::int64_t k = 0; k < hidden; ++k) {
                T* here = out + (k * gates + g) * lanes;
                for (std::int64_t l = 0; l < n; ++l) here[l] = from[l * hidden + k];
                for (std::int64_t l = n; l < lanes; ++l) here[l] = 0;
            }
        }
    });
}

// Four sums of two biases each, or of one or none where null, as [blocks of hidden units][4][lanes]; zeros fill up.
template <class T>
void pack_bias(std::int64_t hidden, std::int64_t lanes, const T* const (*b)[2], T* to) {
    for (std::int64_t j = 0; j < up(hidden, lanes); j += lanes)
        for (int g = 0; g < 4; ++g)
            for (std::int64_t l = j; l < j + lanes; ++l, ++to) {
                *to = 0;
                for (int k = 0; k < 2; ++k) *to += l < hidden && b[g][k] ? b[g][k][l] : T(0);
            }
}

// The matrix whose element (k, j) is w[k * row + j * column] as blocks of columns, a tile of `multiply` wide each:
// [inner][columns of the block], beginning with row `first`; zeros fill up.
template <class T>
void pack_columns(std::int64_t inner, std::int64_t width, std::int64_t row, std::int64_t column, std::int64_t first,
                  std::int64_t lanes, const T* w, T* to) {
    in_tasks(inner * width, up(width, 4 * lanes) / (4 * lanes), [=](std::int64_t task) {
        const std::int64_t j = task * 4 * lanes;
        const std::int64_t block = tl::vectors_at_once((width - j + lanes - 1) / lanes) * lanes;
        const std::int64_t n = std::min(block, width - j);
        T* out = to + j * inner;
        for (std::int64_t k = 0; k < inner; ++k, out += block) {
            const T* from = w + (k + first) % inner * row + j * column;
            if (column == 1)
                std::copy_n(from, n, out);
            else
                for (std::int64_t l = 0; l < n; ++l) out[l] = from[l * column];
            std::fill(out + n, out + block, T(0));
        }
    });
}

// Numbers too small for the format's usual form become 0: gradients that fade away would take a hundred cycles each.
struct NoDenormals {
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();
    NoDenormals() { _mm_setcsr(before | 0x8040); }
    ~NoDenormals() { _mm_setcsr(before); }
#endif
};

// The rows of each step in the order in which they are taken: T steps of the whole batch, or as `sizes` says.
std::vector<tl::Step> walk_of(std::int64_t steps, std::int64_t batch, const std::int64_t* sizes, bool reverse) {
    std::vector<tl::Step> walk(steps);
    std::int64_t start = 0;
    for (std::int64_t t = 0; t < steps; ++t) {
        walk[t] = {start, sizes ? sizes[t] : batch};
        start += walk[t].rows;
    }
    if (reverse) std::reverse(walk.begin(), walk.end());
    return walk;
}

// What is known of a layer from its shapes.
struct Sizes {
    std::int64_t steps, batch, hidden, inputs, gates;
    bool reverse, relu;
};

// Packs the weights by `pack(to, f)`, `packed` numbers, and w_ih where it is given: for products with x, or (back) for
// those that give dx. Then sends the rows of the batch through the steps, in tasks. Where the weights fill the
// second-level cache, more rows share what is read of them.
template <class T, class Pack>
void go(const Sizes& s, PyObject* sizes, const Kernels<T>& chosen, Steps<T> steps, std::int64_t packed,
        tl::Layer<T> f, const T* w_ih, Pack pack) {
    const auto walk = walk_of(s.steps, s.batch, sizes == Py_None ? nullptr : data<std::int64_t>(sizes), s.reverse);
    const std::int64_t work = packed * s.steps * s.batch, rows_of_w = s.gates * s.hidden, step = 4 * chosen.lanes;
    const std::int64_t more = !w_ih ? 0 : f.dx ? rows_of_w * up(s.inputs, step) : s.inputs * up(rows_of_w, step);
    tl::Unlock unlock(work / 64);
    const std::int64_t aligned = up(packed, 16);
    T* w = scratch<T>(aligned + more);
    pack(w, f);
    if (w_ih && f.dx)
        pack_columns(rows_of_w, s.inputs, s.inputs, 1, 0, chosen.lanes, w_ih, w + aligned);
    else if (w_ih)
        pack_columns(s.inputs, rows_of_w, 1, s.inputs, 0, chosen.lanes, w_ih, w + aligned);
    f.hidden = s.hidden, f.inputs = s.inputs, f.relu = s.relu, f.walk = &walk, f.w = w;
    f.w_x = w_ih ? w + aligned : nullptr;
    const std::int64_t bytes = packed * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t most = bytes > 1 << 18 ? tl::task_rows : tl::task_rows / 2, tasks = (s.batch + most - 1) / most;
    in_tasks(work, tasks, [&](std::int64_t k) {
        const NoDenormals quick;
        steps(f, s.batch * k / tasks, s.batch * (k + 1) / tasks);
    });
}

template <class T>
const T* given(PyObject* array) {
    return array == Py_None ? nullptr : data<T>(array);
}

template <class T>
const T* part(const T* bias, std::int64_t offset) {
    return bias ? bias + offset : nullptr;
}

// (h0, c0, w_hh, b_ih, b_hh, sizes, y, h_n, c_n, gates, cells, x, w_ih); without x and w_ih the
// gates come in as w_ih x of all rows.
template <class T>
py::object lstm_of(Sizes s) {
    return tl::bind(13, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        tl::Layer<T> f;
        f.x = given<T>(a[11]);
        const T* w_ih = given<T>(a[12]);
        f.h0 = data<T>(a[0]), f.c0 = data<T>(a[1]), f.y = data<T>(a[6]), f.h_n = data<T>(a[7]), f.c_n = data<T>(a[8]);
        f.gates = data<T>(a[9]), f.cells = data<T>(a[10]);
        const T *w_hh = data<T>(a[2]), *b_ih = given<T>(a[3]), *b_hh = given<T>(a[4]);
        const std::int64_t n = s.hidden, wide = up(n, chosen.lanes), weights = 4 * wide * n;
        const T* b[4][2];
        for (int k = 0; k < 4; ++k) b[k][0] = part(b_ih, k * n), b[k][1] = part(b_hh, k * n);
        go<T>(s, a[5], chosen, chosen.lstm, weights + 4 * wide, f, w_ih, [&](T* to, tl::Layer<T>& f) {
            pack_gates(4, n, 0, chosen.lanes, w_hh, to);
            pack_bias(n, chosen.lanes, b, to + weights);
            f.bias = to + weights;
        });
    });
}

// (h0, c0, w_hh, gates, cells, sizes, dy, state, cell, d, before, w_ih, dx); state and cell come in as the gradients of
// h_n and c_n and go out as those of h0 and c0, d gets the gates' gradients, before the hidden state that each row
// began with, dx the gradient of x if w_ih is given.
template <class T>
py::object lstm_dx_of(Sizes s) {
    return tl::bind(13, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        tl::Layer<T> f;
        const T* w_ih = given<T>(a[11]);
        f.dx = w_ih ? data<T>(a[12]) : nullptr;
        f.h0 = data<T>(a[0]), f.c0 = data<T>(a[1]), f.gates = data<T>(a[3]), f.cells = data<T>(a[4]);
        f.dy = given<T>(a[6]), f.state = data<T>(a[7]), f.cell = data<T>(a[8]), f.d = data<T>(a[9]);
        f.before = data<T>(a[10]);
        const T* w_hh = data<T>(a[2]);
        const std::int64_t n = s.hidden, packed = 4 * n * up(n, 4 * chosen.lanes);
        go<T>(s, a[5], chosen, chosen.lstm_back, packed, f, w_ih, [&](T* to, tl::Layer<T>&) {
            pack_columns(4 * n, n, n, 1, 0, chosen.lanes, w_hh, to);
        });
    });
}

// (h0, w_hh, b_ih, b_hh, sizes, y, h_n, gates, x, w_ih); without x and w_ih the gates come in as w_ih x of all rows
// behind a block for q.
template <class T>
py::object gru_of(Sizes s) {
    return tl::bind(10, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        tl::Layer<T> f;
        f.x = given<T>(a[8]);
        const T* w_ih = given<T>(a[9]);
        f.h0 = data<T>(a[0]), f.y = data<T>(a[5]), f.h_n = data<T>(a[6]), f.gates = data<T>(a[7]);
        const T *w_hh = data<T>(a[1]), *b_ih = given<T>(a[2]), *b_hh = given<T>(a[3]);
        const std::int64_t n = s.hidden, wide = up(n, chosen.lanes), weights = 3 * wide * n;
        const T* const b[4][2] = {{part(b_hh, 2 * n), nullptr},
                                  {b_ih, b_hh},
                                  {part(b_ih, n), part(b_hh, n)},
                                  {part(b_ih, 2 * n), nullptr}};
        go<T>(s, a[4], chosen, chosen.gru, weights + 4 * wide, f, w_ih, [&](T* to, tl::Layer<T>& f) {
            pack_gates(3, n, 2, chosen.lanes, w_hh, to);
            pack_bias(n, chosen.lanes, b, to + weights);
            f.bias = to + weights;
        });
    });
}

// (h0, w_hh, gates, y, sizes, dy, state, d, before, w_ih, dx), as in lstm_dx.
template <class T>
py::object gru_dx_of(Sizes s) {
    return tl::bind(11, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        tl::Layer<T> f;
        const T* w_ih = given<T>(a[9]);
        f.dx = w_ih ? data<T>(a[10]) : nullptr;
        f.h0 = data<T>(a[0]), f.gates = data<T>(a[2]), f.y = data<T>(a[3]), f.dy = given<T>(a[5]);
        f.state = data<T>(a[6]), f.d = data<T>(a[7]), f.before = data<T>(a[8]);
        const T* w_hh = data<T>(a[1]);
        const std::int64_t n = s.hidden, packed = 3 * n * up(n, 4 * chosen.lanes);
        go<T>(s, a[4], chosen, chosen.gru_back, packed, f, w_ih, [&](T* to, tl::Layer<T>&) {
            pack_columns(3 * n, n, n, 1, 2 * n, chosen.lanes, w_hh, to);
        });
    });
}

// (h0, w_hh, b_ih, b_hh, sizes, y, h_n, x, w_ih); without x and w_ih y comes in as w_ih x of all rows.
template <class T>
py::object rnn_of(Sizes s) {
    return tl::bind(9, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        tl::Layer<T> f;
        f.x = given<T>(a[7]);
        const T* w_ih = given<T>(a[8]);
        f.h0 = data<T>(a[0]), f.y = data<T>(a[5]), f.h_n = data<T>(a[6]);
        const T *w = data<T>(a[1]), *b_ih = given<T>(a[2]), *b_hh = given<T>(a[3]);
        const std::int64_t n = s.hidden, weights = n * up(n, 4 * chosen.lanes);
        go<T>(s, a[4], chosen, chosen.rnn, weights + n, f, w_ih, [&](T* to, tl::Layer<T>& f) {
            pack_columns(n, n, 1, n, 0, chosen.lanes, w, to);
            for (std::int64_t j = 0; j < n; ++j) to[weights + j] = (b_ih ? b_ih[j] : 0) + (b_hh ? b_hh[j] : 0);
            f.bias = to + weights;
        });
    });
}

// (h0, w_hh, y, sizes, dy, state, d, before, w_ih, dx), as in lstm_dx.
template <class T>
py::object rnn_dx_of(Sizes s) {
    return tl::bind(10, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        tl::Layer<T> f;
        const T* w_ih = given<T>(a[8]);
        f.dx = w_ih ? data<T>(a[9]) : nullptr;
        f.h0 = data<T>(a[0]), f.y = data<T>(a[2]), f.dy = given<T>(a[4]), f.state = data<T>(a[5]);
        f.d = data<T>(a[6]), f.before = data<T>(a[7]);
        const T* w_hh = data<T>(a[1]);
        const std::int64_t n = s.hidden, packed = n * up(n, 4 * chosen.lanes);
        go<T>(s, a[3], chosen, chosen.rnn_back, packed, f, w_ih, [&](T* to, tl::Layer<T>&) {
            pack_columns(n, n, n, 1, 0, chosen.lanes, w_hh, to);
        });
    });
}

// A factory of one of these. Its ops take x first and the first hidden state second, w_hh at W_HH and `sizes` at SIZES.
template <py::object (*F32)(Sizes), py::object (*F64)(Sizes), int W_HH, int SIZES>
py::object layer(py::tuple specs, py::tuple, py::dict constants) {
    const auto state = tl::shape(specs[1]);
    const py::object sizes = specs[SIZES];
    const bool relu = constants.contains("nonlinearity") && constants["nonlinearity"].cast<std::string>() == "relu";
    const auto x = tl::shape(specs[0]);
    const Sizes s{sizes.is_none() ? x[0] : tl::shape(sizes)[0],
                  state[0],
                  state[1],
                  x.back(),
                  tl::shape(specs[W_HH])[0] / state[1],
                  constants["reverse"].cast<bool>(),
                  relu};
    return tl::is_double(specs[0]) ? F64(s) : F32(s);
}

const tl::Registrar registered[] = {
    {"lstm_layer", layer<lstm_of<float>, lstm_of<double>, 4, 8>},
    {"lstm_layer_dx", layer<lstm_dx_of<float>, lstm_dx_of<double>, 4, 8>},
    {"gru_layer", layer<gru_of<float>, gru_of<double>, 3, 6>},
    {"gru_layer_dx", layer<gru_dx_of<float>, gru_dx_of<double>, 3, 6>},
    {"rnn_layer", layer<rnn_of<float>, rnn_of<double>, 3, 6>},
    {"rnn_layer_dx", layer<rnn_dx_of<float>, rnn_dx_of<double>, 3, 5>},
};

}  // namespace
