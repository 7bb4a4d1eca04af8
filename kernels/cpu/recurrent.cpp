// The recurrent layers, each direction one call: packing the weights, the steps through time forward and back, and what
// is left to products of all rows at once (gemm.h), which are the weights' gradients and, where w_ih is too large to
// be read in every step, the products with it. recurrent_body.h has the loops over time.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "gemm.h"
#include "pool.h"
#include "tl.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace tl {

constexpr std::int64_t task_rows = 16;           // the most rows of the batch that one task has
constexpr std::int64_t nearest_bytes = 1 << 18;  // packed weights that are quickly read for each half as many rows
constexpr std::int64_t near_bytes = 3 << 18;     // packed weights that stay in the second-level cache

// A step's rows: row b of the batch lies at start + b * apart, for b < rows; apart is 1, or the steps where the data of a
// sequence lie together.
struct Step {
    std::int64_t start, rows;
};

// What the steps of a layer read and write; each kind of layer uses some of it.
template <class T>
struct Layer {
    std::int64_t hidden = 0, inputs = 0, apart = 1;
    bool relu = false;
    const std::vector<Step>* walk = nullptr;
    const T *h0 = nullptr, *c0 = nullptr, *w = nullptr, *bias = nullptr, *dy = nullptr;
    const T *x = nullptr, *w_x = nullptr;  // without x, gates (or y) come in as the products of x
    T* dx = nullptr;                       // null: not made by the steps
    T *y = nullptr, *h_n = nullptr, *c_n = nullptr, *gates = nullptr, *cells = nullptr;
    T *state = nullptr, *cell = nullptr, *d = nullptr, *before = nullptr;
};

// How many of the `left` vectors of columns a block takes; packing and multiplying must agree.
inline int vectors_at_once(std::int64_t left) { return left >= 3 ? 4 : left >= 2 ? 2 : 1; }

}  // namespace tl

#define TL_BODY "recurrent_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

enum Kind { lstm_kind, gru_kind, rnn_kind };

// What is known of a layer from its shapes and constants.
struct Sizes {
    Kind kind;
    std::int64_t steps, batch, rows, hidden, inputs, gates;
    bool reverse, relu, batch_first;
    std::vector<bool> want;
    std::int64_t kept() const { return kind == rnn_kind ? hidden : 4 * hidden; }  // numbers of a row's gates
};

template <class T>
using Steps = void (*)(const tl::Layer<T>&, std::int64_t, std::int64_t, T*);

template <class T>
std::int64_t vector_lanes() {
    constexpr std::int64_t bytes[] = {16, 32, 64};
    return bytes[tl::isa()] / static_cast<std::int64_t>(sizeof(T));
}

template <class T>
Steps<T> steps_of(Kind kind, bool back) {
    switch (kind) {
        case lstm_kind: return back ? TL_PICK(lstm_back<T>) : TL_PICK(lstm<T>);
        case gru_kind: return back ? TL_PICK(gru_back<T>) : TL_PICK(gru<T>);
        default: return back ? TL_PICK(rnn_back<T>) : TL_PICK(rnn<T>);
    }
}

std::int64_t up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

// Memory of the calling thread that is kept from call to call, since fresh pages cost more than packing. It is asked
// for all that a call will take, which then takes piece after piece.
template <class T>
class Scratch {
  public:
    explicit Scratch(std::initializer_list<std::int64_t> counts) {
        static thread_local struct Kept {
            void* at = nullptr;
            std::size_t bytes = 0;
            ~Kept() { std::free(at); }
        } kept;
        std::size_t bytes = 0;
        for (std::int64_t n : counts) bytes += static_cast<std::size_t>(up(n, line)) * sizeof(T);
        if (bytes > kept.bytes) {
            std::free(kept.at);
            kept.at = std::aligned_alloc(64, bytes);
            kept.bytes = kept.at ? bytes : 0;
            if (!kept.at) throw std::bad_alloc();
        }
        at_ = static_cast<T*>(kept.at);
    }
    T* take(std::int64_t count) {
        T* piece = at_;
        at_ += up(count, line);
        return piece;
    }

  private:
    static constexpr std::int64_t line = 64 / sizeof(T);
    T* at_;
};

// Work that is worth waking the helpers for is cut into tasks, by shape alone.
template <class F>
void in_tasks(std::int64_t work, std::int64_t tasks, F f) {
    if (work < 1 << 17)
        for (std::int64_t k = 0; k < tasks; ++k) f(k);
    else
        tl::Pool::get().run(static_cast<int>(tasks), [&](int k) { f(k); });
}

// w (gates * hidden, inner) as [blocks of hidden units][inner][gates][lanes], beginning with gate `first`; zeros fill
// up.
template <class T>
void pack_gates(const Sizes& s, std::int64_t inner, std::int64_t first, const T* w, T* to) {
    const std::int64_t lanes = vector_lanes<T>(), gates = s.gates, hidden = s.hidden;
    in_tasks(gates * hidden * inner, up(hidden, lanes) / lanes, [=](std::int64_t block) {
        const std::int64_t j = block * lanes, n = std::min(lanes, hidden - j);
        T* out = to + j * gates * inner;
        for (std::int64_t g = 0; g < gates; ++g) {
            const T* from = w + ((g + first) % gates * hidden + j) * inner;
            for (std::int64_t k = 0; k < inner; ++k) {
                T* here = out + (k * gates + g) * lanes;
                for (std::int64_t l = 0; l < n; ++l) here[l] = from[l * inner + k];
                for (std::int64_t l = n; l < lanes; ++l) here[l] = 0;
            }
        }
    });
}

// Sums of two biases each, or of one or none where null, as [blocks of hidden units][count][lanes]; zeros fill up.
template <class T>
void pack_bias(std::int64_t hidden, int count, const T* const (*b)[2], T* to) {
    const std::int64_t lanes = vector_lanes<T>();
    for (std::int64_t j = 0; j < hidden; j += lanes)
        for (int g = 0; g < count; ++g)
            for (std::int64_t l = j; l < j + lanes; ++l, ++to) {
                *to = 0;
                for (int k = 0; k < 2; ++k) *to += l < hidden && b[g][k] ? b[g][k][l] : T(0);
            }
}

// The matrix whose element (k, j) is w[k * row + j * column] as blocks of columns, each as wide as the steps take them:
// [inner][columns of the block], beginning with row `first`; zeros fill up.
template <class T>
void pack_columns(std::int64_t inner, std::int64_t width, std::int64_t row, std::int64_t column, std::int64_t first,
                  const T* w, T* to) {
    const std::int64_t lanes = vector_lanes<T>();
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
std::vector<tl::Step> walk_of(const Sizes& s, const std::int64_t* sizes) {
    std::vector<tl::Step> walk(s.steps);
    std::int64_t start = 0;
    for (std::int64_t t = 0; t < s.steps; ++t) {
        walk[t] = {s.batch_first ? t : start, sizes ? sizes[t] : s.batch};
        start += walk[t].rows;
    }
    if (s.reverse) std::reverse(walk.begin(), walk.end());
    return walk;
}

// Whether the steps multiply with w_ih themselves, in the same breath as with w_hh: the memory between goes away, and
// w_ih is read again for every step.
template <class T>
bool in_steps(const Sizes& s) {
    const std::int64_t bytes = s.gates * s.hidden * (s.hidden + s.inputs) * static_cast<std::int64_t>(sizeof(T));
    return bytes <= tl::near_bytes || 2 * s.inputs <= s.hidden;
}

template <class T>
std::int64_t weight_bytes(const Sizes& s) {
    return s.gates * s.hidden * (s.hidden + (in_steps<T>(s) ? s.inputs : 0)) * static_cast<std::int64_t>(sizeof(T));
}

// How many tasks the rows of the batch are cut into. Where the weights are large, more rows share what is read of them.
template <class T>
std::int64_t tasks_of(const Sizes& s) {
    const std::int64_t most = weight_bytes<T>(s) > tl::nearest_bytes ? tl::task_rows : tl::task_rows / 2;
    return (s.batch + most - 1) / most;
}

// Sends the rows of the batch through the steps. Where `sums` is given, each task gets its own `width` zeros to add to.
template <class T>
void go(const Sizes& s, const tl::Layer<T>& f, Steps<T> steps, T* sums = nullptr, std::int64_t width = 0) {
    const std::int64_t tasks = tasks_of<T>(s);
    if (sums) std::fill(sums, sums + tasks * width, T(0));
    in_tasks(s.gates * s.hidden * (s.hidden + s.inputs) * s.rows, tasks, [&](std::int64_t k) {
        const NoDenormals quick;
        steps(f, s.batch * k / tasks, s.batch * (k + 1) / tasks, sums + k * width);
    });
}

// A kernel's arrays, one after the other; null for None.
struct Arrays {
    PyObject* const* at;
    template <class T>
    T* next() {
        PyObject* array = *at++;
        return array == Py_None ? nullptr : data<T>(array);
    }
};

template <class T>
const T* part(const T* bias, std::int64_t offset) {
    return bias ? bias + offset : nullptr;
}

// Arrays as the op has them: lstm (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, y, h_n, c_n, gates, cells), gru
// without what only an LSTM has, rnn without gates as well.
template <class T>
void forward(const Sizes& s, PyObject* const* arrays) {
    Arrays a{arrays};
    const bool is_lstm = s.kind == lstm_kind;
    tl::Layer<T> f;
    const T* x = a.next<T>();
    f.h0 = a.next<T>();
    if (is_lstm) f.c0 = a.next<T>();
    const T *w_ih = a.next<T>(), *w_hh = a.next<T>(), *b_ih = a.next<T>(), *b_hh = a.next<T>();
    if (is_lstm) a.next<T>();
    const auto walk = walk_of(s, a.next<std::int64_t>());
    f.y = a.next<T>(), f.h_n = a.next<T>();
    if (is_lstm) f.c_n = a.next<T>();
    if (s.kind != rnn_kind) f.gates = a.next<T>();
    if (is_lstm) f.cells = a.next<T>();

    const std::int64_t n = s.hidden, lanes = vector_lanes<T>(), columns = s.gates * n;
    const bool own = in_steps<T>(s);
    const std::int64_t wide = s.kind == rnn_kind ? up(n, 4 * lanes) : s.gates * up(n, lanes);
    tl::Unlock unlock(columns * (n + s.inputs) * s.rows / 64);
    Scratch<T> scratch{wide * n, own ? wide * s.inputs : 0, 4 * up(n, lanes)};
    T *w = scratch.take(wide * n), *w_x = scratch.take(own ? wide * s.inputs : 0), *bias = scratch.take(4 * up(n, lanes));
    if (s.kind == lstm_kind) {
        const T* b[4][2];
        for (int k = 0; k < 4; ++k) b[k][0] = part(b_ih, k * n), b[k][1] = part(b_hh, k * n);
        pack_gates(s, n, 0, w_hh, w);
        if (own) pack_gates(s, s.inputs, 0, w_ih, w_x);
        pack_bias(n, 4, b, bias);
    } else if (s.kind == gru_kind) {
        const T* const b[4][2] = {{part(b_hh, 2 * n), nullptr},
                                  {b_ih, b_hh},
                                  {part(b_ih, n), part(b_hh, n)},
                                  {part(b_ih, 2 * n), nullptr}};
        pack_gates(s, n, 2, w_hh, w);
        if (own) pack_gates(s, s.inputs, 0, w_ih, w_x);
        pack_bias(n, 4, b, bias);
    } else {
        const T* const b[1][2] = {{b_ih, b_hh}};
        pack_columns(n, n, 1, n, 0, w_hh, w);
        if (own) pack_columns(s.inputs, n, 1, s.inputs, 0, w_ih, w_x);
        pack_bias(n, 1, b, bias);
    }
    if (own) {
        f.x = x, f.w_x = w_x;
    } else {
        T* to = s.kind == rnn_kind ? f.y : f.gates + s.kept() - columns;
        tl::gemm<T>(s.rows, columns, s.inputs, {x, s.inputs, 1}, {w_ih, 1, s.inputs}, to, s.kept());
    }
    f.hidden = n, f.inputs = s.inputs, f.apart = s.batch_first ? s.steps : 1, f.relu = s.relu;
    f.walk = &walk, f.w = w, f.bias = bias;
    go<T>(s, f, steps_of<T>(s.kind, false));
}

// Arrays as the op has them: lstm (x, h0, c0, w_ih, w_hh, gates, cells, w_hr, sizes, dy, dh, dc) and the gradients of x,
// h0, c0, w_ih, w_hh, either bias, w_hr; gru (x, h0, w_ih, w_hh, gates, y, sizes, dy, dh) and those of x, h0, w_ih, w_hh,
// b_ih, b_hh; rnn (x, h0, w_ih, w_hh, y, sizes, dy, dh) and those of x, h0, w_ih, w_hh, either bias.
template <class T>
void backward(const Sizes& s, PyObject* const* arrays) {
    Arrays a{arrays};
    const bool is_lstm = s.kind == lstm_kind;
    tl::Layer<T> f;
    const T* x = a.next<T>();
    f.h0 = a.next<T>();
    if (is_lstm) f.c0 = a.next<T>();
    const T *w_ih = a.next<T>(), *w_hh = a.next<T>();
    if (s.kind != rnn_kind) f.gates = a.next<T>();
    if (is_lstm)
        f.cells = a.next<T>(), a.next<T>();
    else
        f.y = a.next<T>();
    const auto walk = walk_of(s, a.next<std::int64_t>());
    f.dy = a.next<T>();
    const T *dh = a.next<T>(), *dc = is_lstm ? a.next<T>() : nullptr;
    std::vector<T*> out;
    for (bool wanted : s.want) {
        T* array = a.next<T>();
        out.push_back(wanted ? array : nullptr);
    }
    std::size_t next = 0;
    T *dx = out[next++], *dh0 = out[next++], *dc0 = is_lstm ? out[next++] : nullptr;
    T *dw_ih = out[next++], *dw_hh = out[next++], *db_ih = out[next++];
    T* db_hh = s.kind == gru_kind ? out[next] : nullptr;

    const std::int64_t n = s.hidden, rows_of_w = s.gates * n, kept = s.kept(), lanes = vector_lanes<T>();
    const std::int64_t states = s.batch * n, tasks = tasks_of<T>(s);
    const bool own = dx && in_steps<T>(s);
    const std::int64_t packed = rows_of_w * up(n, 4 * lanes), more = own ? rows_of_w * up(s.inputs, 4 * lanes) : 0;
    tl::Unlock unlock(rows_of_w * (n + s.inputs) * s.rows / 32);
    Scratch<T> scratch{packed, more, s.rows * kept, s.rows * n, states, states, tasks * kept};
    T *w = scratch.take(packed), *w_x = scratch.take(more);
    f.d = scratch.take(s.rows * kept), f.before = scratch.take(s.rows * n);
    T *state = scratch.take(states), *cell = scratch.take(states), *sums = scratch.take(tasks * kept);
    const auto begin = [&](const T* g, T* to) { g ? std::copy_n(g, states, to) : std::fill_n(to, states, T(0)); };
    f.state = dh0 ? dh0 : state, f.cell = dc0 ? dc0 : cell;
    begin(dh, f.state);
    if (is_lstm) begin(dc, f.cell);
    pack_columns(rows_of_w, n, n, 1, s.kind == gru_kind ? 2 * n : 0, w_hh, w);
    if (own) pack_columns(rows_of_w, s.inputs, s.inputs, 1, 0, w_ih, w_x);
    f.hidden = n, f.inputs = s.inputs, f.apart = s.batch_first ? s.steps : 1, f.relu = s.relu;
    f.walk = &walk, f.w = w, f.w_x = w_x, f.dx = own ? dx : nullptr;
    go<T>(s, f, steps_of<T>(s.kind, true), sums, kept);

    const T* to_x = f.d + kept - rows_of_w;  // the gradients of what w_ih made
    if (dx && !own)
        tl::gemm<T>(s.rows, s.inputs, rows_of_w, {to_x, kept, 1}, {w_ih, s.inputs, 1}, dx, s.inputs);
    if (dw_ih) tl::gemm<T>(rows_of_w, s.inputs, s.rows, {to_x, 1, kept}, {x, s.inputs, 1}, dw_ih, s.inputs);
    const auto to_w_hh = [&](const T* d, std::int64_t count, T* to) {
        tl::gemm<T>(count, n, s.rows, {d, 1, kept}, {f.before, n, 1}, to, n);
    };
    for (std::int64_t k = 1; k < tasks; ++k)
        for (std::int64_t j = 0; j < kept; ++j) sums[j] += sums[k * kept + j];
    if (db_ih) std::copy_n(sums + kept - rows_of_w, rows_of_w, db_ih);
    if (s.kind == gru_kind) {  // d holds (q, reset, update, new), where w_hh made (reset, update, q)
        if (dw_hh) to_w_hh(f.d + n, 2 * n, dw_hh), to_w_hh(f.d, n, dw_hh + 2 * n * n);
        if (db_hh) std::copy_n(sums + n, 2 * n, db_hh), std::copy_n(sums, n, db_hh + 2 * n);
    } else if (dw_hh) {
        to_w_hh(f.d, rows_of_w, dw_hh);
    }
}

// A factory of one of these. Its ops take x first and the first hidden state second, w_hh at W_HH and `sizes` at SIZES;
// what is to be made is said by the constant `want`.
template <Kind kind, bool back, int W_HH, int SIZES>
py::object layer(py::tuple specs, py::tuple outs, py::dict constants) {
    const auto x = tl::shape(specs[0]), state = tl::shape(specs[1]);
    const py::object sizes = specs[SIZES];
    Sizes s;
    s.kind = kind;
    s.batch_first = constants["batch_first"].cast<bool>();
    s.steps = !sizes.is_none() ? tl::shape(sizes)[0] : x[s.batch_first ? 1 : 0];
    s.batch = state[0], s.hidden = state[1], s.inputs = x.back();
    s.rows = sizes.is_none() ? x[0] * x[1] : x[0];
    s.gates = tl::shape(specs[W_HH])[0] / state[1];
    s.reverse = constants["reverse"].cast<bool>();
    s.relu = kind == rnn_kind && constants["nonlinearity"].cast<std::string>() == "relu";
    if (back)
        for (py::handle wanted : constants["want"]) s.want.push_back(wanted.cast<bool>());
    const bool wide = tl::is_double(specs[0]);
    return tl::bind(static_cast<Py_ssize_t>(specs.size() + outs.size()), [s, wide](PyObject* const* a) {
        if (wide)
            back ? backward<double>(s, a) : forward<double>(s, a);
        else
            back ? backward<float>(s, a) : forward<float>(s, a);
    });
}

const tl::Registrar registered[] = {
    {"lstm_layer", layer<lstm_kind, false, 4, 8>}, {"lstm_layer_dx", layer<lstm_kind, true, 4, 8>},
    {"gru_layer", layer<gru_kind, false, 3, 6>},   {"gru_layer_dx", layer<gru_kind, true, 3, 6>},
    {"rnn_layer", layer<rnn_kind, false, 3, 6>},   {"rnn_layer_dx", layer<rnn_kind, true, 3, 5>},
};

}  // namespace
