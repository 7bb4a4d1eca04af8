// The steps of recurrent layers through time, forward and back. Products over whole sequences stay with NumPy's BLAS:
// the ops' Python side calls it before and after (tensorlite/ops/recurrent_*.py).
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

constexpr std::int64_t task_rows = 16;  // the most rows of the batch that one task has

// A step's rows: row b of the batch lies at start + b, for b < rows.
struct Step {
    std::int64_t start, rows;
};

template <class T>
struct Lstm {
    std::int64_t hidden;
    const std::vector<Step>* walk;
    const T *h0, *c0, *w, *bias;
    T *y, *h_n, *c_n, *gates, *cells;
};

template <class T>
struct LstmBack {
    std::int64_t hidden;
    const std::vector<Step>* walk;
    const T *h0, *c0, *w, *gates, *cells, *dy;
    T *state, *cell, *d, *before;
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
struct Kernels {
    void (*lstm)(const tl::Lstm<T>&, std::int64_t, std::int64_t);
    void (*lstm_back)(const tl::LstmBack<T>&, std::int64_t, std::int64_t);
    std::int64_t lanes;
};

template <class T>
Kernels<T> kernels();

template <>
Kernels<float> kernels<float>() {
#ifdef TL_X86
    if (tl::isa() >= tl::avx512) return {f4_avx512::lstm_forward, f4_avx512::lstm_backward, 16};
    if (tl::isa() >= tl::avx2) return {f4_avx2::lstm_forward, f4_avx2::lstm_backward, 8};
#endif
    return {f4_base::lstm_forward, f4_base::lstm_backward, 4};
}

template <>
Kernels<double> kernels<double>() {
#ifdef TL_X86
    if (tl::isa() >= tl::avx512) return {f8_avx512::lstm_forward, f8_avx512::lstm_backward, 8};
    if (tl::isa() >= tl::avx2) return {f8_avx2::lstm_forward, f8_avx2::lstm_backward, 4};
#endif
    return {f8_base::lstm_forward, f8_base::lstm_backward, 2};
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

// w (gates * hidden, inner) as [blocks of hidden units][inner][gates][lanes], and the same of biases; zeros fill up.
template <class T>
void pack_gates(std::int64_t gates, std::int64_t hidden, std::int64_t inner, std::int64_t lanes, const T* w, T* to) {
    in_tasks(gates * hidden * inner, up(hidden, lanes) / lanes, [=](std::int64_t block) {
        const std::int64_t j = block * lanes, n = std::min(lanes, hidden - j);
        T* out = to + j * gates * inner;
        for (std::int64_t g = 0; g < gates; ++g)
            for (std::int64_t k = 0; k < inner; ++k) {
                T* here = out + (k * gates + g) * lanes;
                for (std::int64_t l = 0; l < n; ++l) here[l] = w[(g * hidden + j + l) * inner + k];
                for (std::int64_t l = n; l < lanes; ++l) here[l] = 0;
            }
    });
}

template <class T>
void pack_bias(std::int64_t gates, std::int64_t hidden, std::int64_t lanes, const T* a, const T* b, T* to) {
    for (std::int64_t j = 0; j < up(hidden, lanes); j += lanes)
        for (std::int64_t g = 0; g < gates; ++g)
            for (std::int64_t l = 0; l < lanes; ++l, ++to)
                *to = j + l < hidden ? (a ? a[g * hidden + j + l] : 0) + (b ? b[g * hidden + j + l] : 0) : 0;
}

// w (inner, width) as blocks of columns, a tile of `multiply` wide each: [inner][columns of the block]; zeros fill up.
template <class T>
void pack_columns(std::int64_t inner, std::int64_t width, std::int64_t lanes, const T* w, T* to) {
    for (std::int64_t j = 0; j < width;) {
        const std::int64_t block = tl::vectors_at_once((width - j + lanes - 1) / lanes) * lanes;
        const std::int64_t n = std::min(block, width - j);
        for (std::int64_t k = 0; k < inner; ++k, to += block) {
            std::copy(w + k * width + j, w + k * width + j + n, to);
            std::fill(to + n, to + block, T(0));
        }
        j += block;
    }
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

// Calls f(first row, end) for runs of the batch's rows. Where the weights fill the second-level cache, more rows share
// what is read of them.
template <class F>
void over_rows(std::int64_t batch, std::int64_t weights, std::int64_t work, F f) {
    const std::int64_t most = weights > 1 << 18 ? tl::task_rows : tl::task_rows / 2, tasks = (batch + most - 1) / most;
    in_tasks(work, tasks, [&](std::int64_t k) {
        const NoDenormals quick;
        f(batch * k / tasks, batch * (k + 1) / tasks);
    });
}

struct Sizes {
    std::int64_t steps, batch, hidden;
    bool reverse;
};

template <class T>
const T* given(PyObject* array) {
    return array == Py_None ? nullptr : data<T>(array);
}

// (h0, c0, w_hh, b_ih, b_hh, sizes, y, h_n, c_n, gates, cells); gates come in as w_ih x of all rows.
template <class T>
py::object lstm_of(Sizes s) {
    return tl::bind(11, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        const auto walk = walk_of(s.steps, s.batch, given<std::int64_t>(a[5]), s.reverse);
        const std::int64_t wide = up(s.hidden, chosen.lanes), weights = 4 * wide * s.hidden;
        const T *h0 = data<T>(a[0]), *c0 = data<T>(a[1]), *w_hh = data<T>(a[2]), *b_ih = given<T>(a[3]),
                *b_hh = given<T>(a[4]);
        T *y = data<T>(a[6]), *h_n = data<T>(a[7]), *c_n = data<T>(a[8]), *gates = data<T>(a[9]),
          *cells = data<T>(a[10]);
        const std::int64_t work = weights * s.steps * s.batch;
        tl::Unlock unlock(work / 64);
        T *w = scratch<T>(weights + 4 * wide), *bias = w + weights;
        pack_gates(4, s.hidden, s.hidden, chosen.lanes, w_hh, w);
        pack_bias(4, s.hidden, chosen.lanes, b_ih, b_hh, bias);
        const tl::Lstm<T> f{s.hidden, &walk, h0, c0, w, bias, y, h_n, c_n, gates, cells};
        over_rows(s.batch, weights * sizeof(T), work,
                  [&](std::int64_t from, std::int64_t to) { chosen.lstm(f, from, to); });
    });
}

// (h0, c0, w_hh, gates, cells, sizes, dy, state, cell, d, before); state and cell come in as the gradients of h_n and
// c_n and go out as those of h0 and c0, d gets the gates' gradients, before the hidden state that each row began with.
template <class T>
py::object lstm_dx_of(Sizes s) {
    return tl::bind(11, [s](PyObject* const* a) {
        const Kernels<T> chosen = kernels<T>();
        const auto walk = walk_of(s.steps, s.batch, given<std::int64_t>(a[5]), s.reverse);
        const std::int64_t weights = 4 * s.hidden * up(s.hidden, 4 * chosen.lanes);
        tl::LstmBack<T> f{s.hidden,      &walk,         data<T>(a[0]), data<T>(a[1]),  nullptr,       data<T>(a[3]),
                          data<T>(a[4]), given<T>(a[6]), data<T>(a[7]), data<T>(a[8]), data<T>(a[9]), data<T>(a[10])};
        const T* w_hh = data<T>(a[2]);
        const std::int64_t work = weights * s.steps * s.batch;
        tl::Unlock unlock(work / 64);
        T* w = scratch<T>(weights);
        pack_columns(4 * s.hidden, s.hidden, chosen.lanes, w_hh, w);
        f.w = w;
        over_rows(s.batch, weights * sizeof(T), work,
                  [&](std::int64_t from, std::int64_t to) { chosen.lstm_back(f, from, to); });
    });
}

// Steps, rows of the batch and hidden units, from the specs of x, of the first state and of the sizes of steps.
Sizes sizes_of(py::handle x, py::handle first, py::handle sizes, py::dict constants) {
    const auto state = tl::shape(first);
    const std::int64_t steps = sizes.is_none() ? tl::shape(x)[0] : tl::shape(sizes)[0];
    return {steps, state[0], state[1], constants["reverse"].cast<bool>()};
}

py::object lstm(py::tuple specs, py::tuple outs, py::dict constants) {
    const Sizes s = sizes_of(specs[0], specs[2], specs[8], constants);
    return tl::is_double(outs[0]) ? lstm_of<double>(s) : lstm_of<float>(s);
}

py::object lstm_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Sizes s = sizes_of(specs[0], specs[2], specs[8], constants);
    return tl::is_double(specs[0]) ? lstm_dx_of<double>(s) : lstm_dx_of<float>(s);
}

const tl::Registrar registered[] = {{"lstm_layer", lstm}, {"lstm_layer_dx", lstm_dx}};

}  // namespace
