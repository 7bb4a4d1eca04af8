// Batch normalisation: mean and variance of each channel over a batch, the same taken away, and the gradients; and
// x * scale + shift of each channel, which is what is left of it in evaluation.
//
// Each has two further forms: with `relu` the output is 0 where it would be negative, with `residual` a tensor of x's shape
// is added before that. Their arrays are then
//     batch_norm (x, w, b, running_mean, running_var, [residual], y, mean, var)
//     batch_norm_dx (dy, x, mean, var, w, [y if relu], dx, dw, db, [d_residual])
#include <cmath>
#include <string>

#include "pool.h"
#include "scratch.h"
#include "tl.h"

namespace {

namespace py = pybind11;
using tl::data;

// x is (outer, channels, inner) in memory, or where inner is 1 (outer, channels).
struct BatchNorm {
    std::int64_t outer, channels, inner, size;
    double count, eps, momentum;  // count: numbers of a channel, at least 1
    bool relu, residual;
    // What is read twice while it is in the cache: `group` planes or `run` elements of one, `block` rows of channels.
    std::int64_t group, run, runs, parts, block;
};

template <class T>
struct Forward {
    const T *x, *w, *b, *residual;
    T *running_mean, *running_var, *y, *mean, *var;
};

template <class T>
struct Backward {
    const T *dy, *x, *mean, *var, *w, *y;
    T *dx, *dw, *db, *d_residual;
};

// y = (x - mean) * scale + shift of a channel.
template <class T>
struct Affine {
    T mean, scale, shift;
};

// dx = dy * this.dy + (x - mean) * this.x + this.one of a channel.
template <class T>
struct Slope {
    T dy, x, one;
};

// What follows from a channel's statistics; writes them, and moves the running ones.
template <class T>
Affine<T> settle(const BatchNorm& b, const Forward<T>& a, std::int64_t c, double mean, double var) {
    a.mean[c] = static_cast<T>(mean), a.var[c] = static_cast<T>(var);
    if (b.size) {
        const double of_n_1 = var * (b.count / std::max(b.count - 1, 1.0));
        const auto move = [&](T* running, double to) {
            if (running) running[c] = static_cast<T>(static_cast<double>(running[c]) * (1 - b.momentum) + to * b.momentum);
        };
        move(a.running_mean, mean);
        move(a.running_var, of_n_1);
    }
    const double scale = (a.w ? static_cast<double>(a.w[c]) : 1.0) / std::sqrt(var + b.eps);
    return {static_cast<T>(mean), static_cast<T>(scale), a.b ? a.b[c] : T(0)};
}

// total and inner: the sums of dy and of dy (x - mean).
template <class T>
Slope<T> settle(const BatchNorm& b, const Backward<T>& a, std::int64_t c, double total, double inner) {
    const double r = 1 / std::sqrt(static_cast<double>(a.var[c]) + b.eps);
    a.dw[c] = static_cast<T>(inner * r), a.db[c] = static_cast<T>(total);
    const double scale = (a.w ? static_cast<double>(a.w[c]) : 1.0) * r;
    return {static_cast<T>(scale), static_cast<T>(-scale * r * r * inner / b.count),
            static_cast<T>(-scale * total / b.count)};
}

}  // namespace

#define TL_BODY "batch_norm_body.h"
#include "each_isa.h"

namespace {

constexpr std::int64_t task = 1 << 15;  // elements that make a task

BatchNorm sizes(py::handle x, py::dict constants) {
    const auto shape = tl::shape(x);
    BatchNorm b{};
    b.outer = shape[0], b.channels = shape[1], b.inner = 1;
    for (std::size_t k = 2; k < shape.size(); ++k) b.inner *= shape[k];
    b.size = b.outer * b.channels * b.inner;
    b.count = static_cast<double>(std::max<std::int64_t>(b.outer * b.inner, 1));
    if (x.attr("format").cast<std::string>() == "channels_last") b.outer *= b.inner, b.inner = 1;
    const auto number = [&](const char* name) {
        return constants.contains(name) ? constants[name].cast<double>() : 0.0;
    };
    const auto flag = [&](const char* name) { return constants.contains(name) && constants[name].cast<bool>(); };
    b.eps = number("eps"), b.momentum = number("momentum"), b.relu = flag("relu"), b.residual = flag("residual");
    const std::int64_t most = 4096;
    b.run = std::min(most, std::max<std::int64_t>(b.inner, 1)), b.runs = (b.inner + b.run - 1) / b.run;
    b.group = b.runs > 1 ? 1 : most / b.run, b.parts = (b.outer + b.group - 1) / b.group * b.runs;
    b.block = std::min<std::int64_t>(512, std::max<std::int64_t>(1, task / std::max<std::int64_t>(b.channels, 1)));
    return b;
}

// Calls f(first, last) for parts of `count` things, each of `each` elements, that are tasks.
template <class F>
void in_tasks(std::int64_t count, std::int64_t each, F f) {
    const std::int64_t step = std::max<std::int64_t>(1, task / std::max<std::int64_t>(each, 1));
    tl::Pool::get().run(static_cast<int>((count + step - 1) / step),
                        [&](int k) { f(k * step, std::min(count, (k + 1) * step)); });
}

// Calls f(k, first, last) for the blocks of rows; `back` begins with the last, which may still be in the cache.
template <class F>
void each_block(const BatchNorm& b, bool back, F f) {
    const std::int64_t blocks = (b.outer + b.block - 1) / b.block;
    in_tasks(blocks, b.block * b.channels, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            const std::int64_t k = back ? blocks - 1 - i : i;
            f(k, k * b.block, std::min(b.outer, (k + 1) * b.block));
        }
    });
}

struct Parts;
struct Coefficients;

template <class T>
void forward(const BatchNorm& b, const Forward<T>& a) {
    tl::Unlock unlock(b.size);
    if (b.inner != 1 && b.size) {
        in_tasks(b.channels, b.outer * b.inner, [&](std::int64_t first, std::int64_t last) {
            TL_PICK(forward_planes<T>)(b, a, first, last, tl::scratch<Parts, double>(2 * b.parts));
        });
        return;
    }
    const std::int64_t C = b.channels, rows = b.outer, blocks = (rows + b.block - 1) / b.block;
    T* part = tl::scratch<Parts, T>(3 * blocks * C);
    each_block(b, false, [&](std::int64_t k, std::int64_t first, std::int64_t last) {
        T* to = part + 3 * k * C;
        TL_PICK(row_moments<T>)(C, a.x + first * C, last - first, to, to + C, to + 2 * C);
    });
    double* total = tl::scratch<Coefficients, double>(5 * C);  // then three of T for each channel
    double* squares = total + C;
    std::fill(total, total + 2 * C, 0.0);
    const auto weight = [&](std::int64_t k) { return static_cast<double>(std::min(b.block, rows - k * b.block)); };
    const auto mean_of = [&](std::int64_t k, std::int64_t c) {
        return static_cast<double>(part[3 * k * C + c]) + static_cast<double>(part[(3 * k + 1) * C + c]);
    };
    for (std::int64_t k = 0; k < blocks; ++k)
        for (std::int64_t c = 0; c < C; ++c) total[c] += mean_of(k, c) * weight(k);
    for (std::int64_t c = 0; c < C; ++c) total[c] /= b.count;
    for (std::int64_t k = 0; k < blocks; ++k)
        for (std::int64_t c = 0; c < C; ++c) {
            const double d = mean_of(k, c) - total[c];
            squares[c] += static_cast<double>(part[(3 * k + 2) * C + c]) + d * d * weight(k);
        }
    T* mean = reinterpret_cast<T*>(total + 2 * C);
    T *scale = mean + C, *shift = scale + C;
    for (std::int64_t c = 0; c < C; ++c) {
        const Affine<T> f = settle(b, a, c, total[c], squares[c] / b.count);
        mean[c] = f.mean, scale[c] = f.scale, shift[c] = f.shift;
    }
    each_block(b, true, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        TL_PICK(forward_rows<T>)(b, a, mean, scale, shift, first, last);
    });
}

template <class T>
void backward(const BatchNorm& b, const Backward<T>& a) {
    tl::Unlock unlock(b.size);
    if (b.inner != 1 && b.size) {
        in_tasks(b.channels, b.outer * b.inner, [&](std::int64_t first, std::int64_t last) {
            TL_PICK(backward_planes<T>)(b, a, first, last);
        });
        return;
    }
    const std::int64_t C = b.channels, blocks = (b.outer + b.block - 1) / b.block;
    T* part = tl::scratch<Parts, T>(2 * blocks * C);
    each_block(b, false, [&](std::int64_t k, std::int64_t first, std::int64_t last) {
        TL_PICK(backward_sums<T>)(b, a, first, last, part + 2 * k * C, part + (2 * k + 1) * C);
    });
    double* total = tl::scratch<Coefficients, double>(5 * C);
    double* inner = total + C;
    std::fill(total, total + 2 * C, 0.0);
    for (std::int64_t k = 0; k < blocks; ++k)
        for (std::int64_t c = 0; c < C; ++c) {
            total[c] += static_cast<double>(part[2 * k * C + c]);
            inner[c] += static_cast<double>(part[(2 * k + 1) * C + c]);
        }
    T* of_dy = reinterpret_cast<T*>(total + 2 * C);
    T *of_x = of_dy + C, *of_one = of_x + C;
    for (std::int64_t c = 0; c < C; ++c) {
        const Slope<T> f = settle(b, a, c, total[c], inner[c]);
        of_dy[c] = f.dy, of_x[c] = f.x, of_one[c] = f.one;
    }
    each_block(b, true, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        TL_PICK(backward_rows<T>)(b, a, of_dy, of_x, of_one, first, last);
    });
}

template <class T>
T* given(PyObject* array) {
    return array == Py_None ? nullptr : data<T>(array);
}

template <class T>
py::object make_forward(const BatchNorm& b) {
    return tl::bind(b.residual ? 9 : 8, [b](PyObject* const* a) {
        PyObject* const* out = a + (b.residual ? 6 : 5);
        forward<T>(b, {data<T>(a[0]), given<T>(a[1]), given<T>(a[2]), b.residual ? data<T>(a[5]) : nullptr,
                       given<T>(a[3]), given<T>(a[4]), data<T>(out[0]), data<T>(out[1]), data<T>(out[2])});
    });
}

template <class T>
py::object make_backward(const BatchNorm& b) {
    return tl::bind(8 + b.relu + b.residual, [b](PyObject* const* a) {
        PyObject* const* out = a + (b.relu ? 6 : 5);
        backward<T>(b, {data<T>(a[0]), data<T>(a[1]), data<T>(a[2]), data<T>(a[3]), given<T>(a[4]),
                        b.relu ? data<T>(a[5]) : nullptr, data<T>(out[0]), data<T>(out[1]), data<T>(out[2]),
                        b.residual ? data<T>(out[3]) : nullptr});
    });
}

template <class T>
py::object make_scale(const BatchNorm& b) {
    return tl::bind(4, [b](PyObject* const* a) {
        const T *x = data<T>(a[0]), *scale = data<T>(a[1]), *shift = given<T>(a[2]);
        T* y = data<T>(a[3]);
        tl::Unlock unlock(b.size);
        if (b.inner != 1)
            in_tasks(b.outer * b.channels, b.inner, [&](std::int64_t first, std::int64_t last) {
                TL_PICK(scale_planes<T>)(b, x, scale, shift, y, first, last);
            });
        else
            in_tasks(b.outer, b.channels, [&](std::int64_t first, std::int64_t last) {
                TL_PICK(scale_rows<T>)(b, x, scale, shift, y, first, last);
            });
    });
}

py::object batch_norm(py::tuple specs, py::tuple, py::dict constants) {
    const BatchNorm b = sizes(specs[0], constants);
    return tl::is_double(specs[0]) ? make_forward<double>(b) : make_forward<float>(b);
}

py::object batch_norm_dx(py::tuple specs, py::tuple, py::dict constants) {
    const BatchNorm b = sizes(specs[1], constants);
    return tl::is_double(specs[1]) ? make_backward<double>(b) : make_backward<float>(b);
}

py::object scale_shift(py::tuple specs, py::tuple, py::dict constants) {
    const BatchNorm b = sizes(specs[0], constants);
    return tl::is_double(specs[0]) ? make_scale<double>(b) : make_scale<float>(b);
}

// A factory whose constants say what comes behind the norm.
template <tl::Factory make, bool residual>
py::object with_relu(py::tuple specs, py::tuple outs, py::dict constants) {
    py::dict more = constants.attr("copy")();
    more["relu"] = true, more["residual"] = residual;
    return make(specs, outs, more);
}

const tl::Registrar kernels[] = {{"batch_norm", batch_norm},
                                 {"batch_norm_dx", batch_norm_dx},
                                 {"batch_norm_relu", with_relu<batch_norm, false>},
                                 {"batch_norm_relu_dx", with_relu<batch_norm_dx, false>},
                                 {"batch_norm_add_relu", with_relu<batch_norm, true>},
                                 {"batch_norm_add_relu_dx", with_relu<batch_norm_dx, true>},
                                 {"scale_shift", scale_shift}};

}  // namespace
