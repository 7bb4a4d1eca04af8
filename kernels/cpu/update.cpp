// Steps of optimizers over a table of tensors, and the norm and scaling of many tensors: one call for all of them.
//
// Parameters are cut into tasks by their sizes: small ones share a task, large ones make several. A parameter whose
// tensors do not lie alike and densely in memory, or are half types, is left to the plain forward, as the whole table is
// where tensors share memory; the callable says which (None: all is done).
#include "update.h"

#include <cmath>
#include <functional>
#include <memory>
#include <string>

#include "pool.h"
#include "tl.h"

// No products fused into sums: every step has the bits of the plain forward on every processor. It waits for memory.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#define TL_BODY "update_body.h"
#include "each_isa.h"

namespace {

using tl::data;
using tl::How;
using tl::Stretch;
namespace py = pybind11;

constexpr std::int64_t task_size = 1 << 15;    // elements: up to a megabyte of a parameter with its states
constexpr std::int64_t shared_size = 1 << 16;  // fewer elements stay on the caller's thread

struct Piece {
    std::int64_t tensor, begin, n;
};

// Tensors of these sizes cut into pieces, and `ends` of the tasks that they make.
struct Cut {
    std::vector<Piece> pieces;
    std::vector<std::size_t> ends;
    std::int64_t total = 0;

    explicit Cut(const std::vector<std::int64_t>& sizes) {
        std::int64_t room = task_size;
        for (std::size_t k = 0; k < sizes.size(); ++k)
            for (std::int64_t begin = 0; begin < sizes[k];) {
                const std::int64_t n = std::min(room, sizes[k] - begin);
                pieces.push_back({static_cast<std::int64_t>(k), begin, n});
                begin += n, room -= n, total += n;
                if (room < 16) ends.push_back(pieces.size()), room = task_size;
            }
        if (ends.empty() || ends.back() != pieces.size()) ends.push_back(pieces.size());
    }

    template <class F>
    void run(F f) const {
        const auto task = [&](int t) {
            for (std::size_t k = t ? ends[static_cast<std::size_t>(t) - 1] : 0; k < ends[static_cast<std::size_t>(t)]; ++k)
                f(pieces[k], k);
        };
        const int tasks = static_cast<int>(ends.size());
        if (total < shared_size)
            for (int t = 0; t < tasks; ++t) task(t);
        else
            tl::Pool::get().run(tasks, task);
    }
};

int bytes_of(py::handle spec) {  // 0 for what these kernels do not take
    const auto name = spec.attr("dtype").attr("short").cast<std::string>();
    return name == "f4" ? 4 : name == "f8" ? 8 : 0;
}

// Whether arrays of one shape lie in memory alike and without gaps, so that they can be taken as flat.
bool alike(PyObject* const* arrays, std::int64_t step, int count, std::int64_t bytes, std::int64_t size) {
    const auto* first = py::detail::array_proxy(arrays[0]);
    for (int k = 1; k < count; ++k) {
        const auto* other = py::detail::array_proxy(arrays[k * step]);
        for (int d = 0; d < first->nd; ++d)
            if (first->dimensions[d] > 1 && first->strides[d] != other->strides[d]) return false;
    }
    std::int64_t reach = bytes;  // dense: the farthest element is as far as their number says
    for (int d = 0; d < first->nd; ++d) {
        if (first->dimensions[d] > 1 && first->strides[d] <= 0) return false;
        reach += (first->dimensions[d] - 1) * first->strides[d];
    }
    return reach == size * bytes;
}

// Rows of tensors as they come: (one number, then `kinds` rows of n each), the last `single` rows of one element.
struct Table {
    std::int64_t n, kinds, single;
    std::vector<int> bytes;                   // of each parameter's dtype, 0 for what is left to the plain forward
    std::vector<std::int64_t> sizes, given;  // in elements; given: 0 for what is left
    std::vector<bool> flat;                   // known to be contiguous

    Table(py::tuple specs, std::int64_t kinds, std::int64_t single)
        : n((static_cast<std::int64_t>(specs.size()) - 1) / kinds), kinds(kinds), single(single) {
        for (std::int64_t k = 0; k < n; ++k) {
            int kind = bytes_of(spec(specs, 0, k));
            bool dense = true;
            for (std::int64_t j = 0; j < kinds - single; ++j)
                dense = dense && spec(specs, j, k).attr("format").cast<std::string>() == "contiguous";
            for (std::int64_t j = kinds - single; j < kinds; ++j)
                if (bytes_of(spec(specs, j, k)) != 4) kind = 0;
            bytes.push_back(kind), flat.push_back(dense);
            sizes.push_back(spec(specs, 0, k).attr("size").cast<std::int64_t>());
            given.push_back(kind ? sizes.back() : 0);
        }
    }

    py::handle spec(const py::tuple& specs, std::int64_t row, std::int64_t k) const {
        return specs[static_cast<std::size_t>(1 + row * n + k)];
    }

    // Whether any two of the arrays share memory. Most calls bring the arrays of the call before: `seen` knows those.
    bool overlap(PyObject* const* a, std::vector<char*>& seen) const {
        const auto count = static_cast<std::size_t>(kinds * n);
        bool same = seen.size() == count;
        seen.resize(count);
        for (std::size_t k = 0; k < count; ++k) {
            char* at = data<char>(a[1 + k]);
            same = same && seen[k] == at;
            seen[k] = at;
        }
        if (same) return false;
        std::vector<std::pair<char*, char*>> parts;
        parts.reserve(count);
        for (std::size_t k = 0; k < count; ++k) {
            const auto* array = py::detail::array_proxy(a[1 + k]);
            char *low = array->data, *high = array->data;
            bool any = true;
            for (int d = 0; d < array->nd; ++d) {
                (array->strides[d] < 0 ? low : high) += (array->dimensions[d] - 1) * array->strides[d];
                any = any && array->dimensions[d] > 0;
            }
            if (any) parts.emplace_back(low, high);
        }
        std::sort(parts.begin(), parts.end());
        for (std::size_t k = 1; k < parts.size(); ++k)
            if (parts[k].first <= parts[k - 1].second) {
                seen.clear();
                return true;
            }
        return false;
    }

    // Whether parameter k can be taken as flat arrays.
    bool fits(PyObject* const* a, std::size_t k) const {
        const auto rows = static_cast<int>(kinds - single);
        return bytes[k] && (flat[k] || alike(a + 1 + k, n, rows, bytes[k], sizes[k]));
    }
};

bool flag(const py::dict& constants, const char* name) { return py::bool_(constants[name]); }
double value(const py::dict& constants, const char* name) { return constants[name].cast<double>(); }

double as_number(PyObject* array) {
    const double x = PyFloat_AsDouble(array);
    if (x == -1 && PyErr_Occurred()) throw py::error_already_set();
    return x;
}

// A rule: its constants, what of them depends on the learning rate, a parameter's numbers, the function for each dtype.
struct Rule {
    std::vector<double> constants;
    bool maximize, decay, nesterov = false, first = false, decoupled = false;
    std::function<void(double lr, double t, double* s)> numbers = [](double lr, double, double* s) { s[0] = lr; };
    void (*(*f32)())(const How<float>&, const Stretch<float>&) = nullptr;  // give that of the instruction set in use
    void (*(*f64)())(const How<double>&, const Stretch<double>&) = nullptr;

    Rule(const py::dict& constants_, std::initializer_list<double> c)
        : constants(c), maximize(flag(constants_, "maximize")), decay(value(constants_, "weight_decay") != 0) {}
};

template <class T>
struct Ready {
    How<T> how;
    void (*step)(const How<T>&, const Stretch<T>&);

    Ready(const Rule& r, double lr, void (*step)(const How<T>&, const Stretch<T>&)) : step(step) {
        for (std::size_t k = 0; k < r.constants.size(); ++k) how.c[k] = static_cast<T>(r.constants[k]);
        if (r.decoupled) how.c[3] = static_cast<T>(1 - lr * r.constants[3]);
        how.maximize = r.maximize, how.nesterov = r.nesterov, how.first = r.first, how.decay = r.decay;
        how.decoupled = r.decoupled;
    }

    // A piece of the parameter whose arrays are a[0], a[step], ...
    void run(PyObject* const* a, std::int64_t step_, std::int64_t rows, const Piece& piece, const double* s) const {
        Stretch<T> row;
        for (std::int64_t j = 0; j < rows; ++j) row.at[j] = data<T>(a[j * step_]) + piece.begin;
        row.n = piece.n;
        row.s[0] = static_cast<T>(s[0]), row.s[1] = static_cast<T>(s[1]);
        step(how, row);
    }
};

// What a call keeps for the next one of its kind; calls hold the interpreter's lock while they look at it.
struct Kept {
    std::vector<char*> seen;
};

// The callable of a rule for tables of these specs, one number before them: it gives the numbers of the parameters that
// are left, or None.
py::object stepper(py::tuple specs, std::int64_t kinds, std::int64_t single, const Rule& rule) {
    const Table table(specs, kinds, single);
    const int lr_bytes = bytes_of(specs[0]);
    return tl::bind(
        1 + kinds * table.n,
        [table, rule, lr_bytes, cut = Cut(table.given), kept = std::make_shared<Kept>()](PyObject* const* a) {
            const double lr = lr_bytes == 8 ? *data<double>(a[0]) : lr_bytes == 4 ? *data<float>(a[0]) : as_number(a[0]);
            const bool together = table.overlap(a, kept->seen);
            std::vector<char> skip(table.sizes.size());
            std::vector<double> s(2 * table.sizes.size());
            py::object left = py::none();
            double before = -1;  // the step count that the numbers in s were last worked out for
            const double* last = nullptr;
            for (std::size_t k = 0; k < skip.size(); ++k) {
                if (together || !table.fits(a, k)) {
                    skip[k] = 1;
                    if (left.is_none()) left = py::list();
                    left.cast<py::list>().append(k);
                    continue;
                }
                double t = 0;
                if (table.single) t = *data<float>(a[1 + (table.kinds - 1) * table.n + k]) += 1;
                if (last && t == before)
                    s[2 * k] = last[0], s[2 * k + 1] = last[1];
                else
                    rule.numbers(lr, t, &s[2 * k]);
                before = t, last = &s[2 * k];
            }
            const Ready<float> f32(rule, lr, rule.f32());
            const Ready<double> f64(rule, lr, rule.f64());
            {
                tl::Unlock unlock(cut.total);
                cut.run([&](const Piece& piece, std::size_t) {
                    const auto k = piece.tensor;
                    if (skip[static_cast<std::size_t>(k)]) return;
                    const std::int64_t rows = table.kinds - table.single;
                    if (table.bytes[static_cast<std::size_t>(k)] == 4)
                        f32.run(a + 1 + k, table.n, rows, piece, &s[2 * k]);
                    else
                        f64.run(a + 1 + k, table.n, rows, piece, &s[2 * k]);
                });
            }
            return left.release().ptr();
        });
}

// Sets rule's functions to NAME<T> or NAME<T, ...>.
#define TL_RULE(rule, NAME, ...)                                      \
    ((rule).f32 = [] { return TL_PICK(NAME<float __VA_ARGS__>); }, \
     (rule).f64 = [] { return TL_PICK(NAME<double __VA_ARGS__>); })
#define TL_AND ,

py::object sgd(py::tuple specs, py::tuple, py::dict c) {
    const double momentum = value(c, "momentum");
    Rule rule(c, {momentum, 1 - value(c, "dampening"), value(c, "weight_decay")});
    rule.nesterov = flag(c, "nesterov"), rule.first = flag(c, "first");
    if (momentum != 0)
        TL_RULE(rule, sgd, TL_AND true);
    else
        TL_RULE(rule, sgd, TL_AND false);
    return stepper(specs, momentum != 0 ? 3 : 2, 0, rule);
}

py::object adam(py::tuple specs, py::tuple, py::dict c) {
    const py::tuple betas = c["betas"];
    const double beta1 = betas[0].cast<double>(), beta2 = betas[1].cast<double>(), eps = value(c, "eps");
    Rule rule(c, {1 - beta1, beta2, 1 - beta2, value(c, "weight_decay")});
    rule.decoupled = rule.decay && flag(c, "decoupled");
    rule.numbers = [=](double lr, double t, double* s) {
        const double root = std::pow(1 - std::pow(beta2, t), 0.5);  // as the plain forward has it: one division less
        s[0] = eps * root, s[1] = lr * root / (1 - std::pow(beta1, t));
    };
    const bool amsgrad = flag(c, "amsgrad");
    if (amsgrad)
        TL_RULE(rule, adam, TL_AND true);
    else
        TL_RULE(rule, adam, TL_AND false);
    return stepper(specs, 5 + amsgrad, 1, rule);
}

py::object rmsprop(py::tuple specs, py::tuple, py::dict c) {
    const double alpha = value(c, "alpha"), momentum = value(c, "momentum");
    const bool centered = flag(c, "centered"), moves = momentum != 0;
    Rule rule(c, {alpha, 1 - alpha, value(c, "eps"), value(c, "weight_decay"), momentum});
    if (centered && moves)
        TL_RULE(rule, rmsprop, TL_AND true TL_AND true);
    else if (centered)
        TL_RULE(rule, rmsprop, TL_AND true TL_AND false);
    else if (moves)
        TL_RULE(rule, rmsprop, TL_AND false TL_AND true);
    else
        TL_RULE(rule, rmsprop, TL_AND false TL_AND false);
    return stepper(specs, 4 + centered + moves, 1, rule);
}

py::object adagrad(py::tuple specs, py::tuple, py::dict c) {
    const double lr_decay = value(c, "lr_decay");
    Rule rule(c, {value(c, "eps"), value(c, "weight_decay")});
    rule.numbers = [=](double lr, double t, double* s) { s[0] = lr / (1 + (t - 1) * lr_decay); };
    TL_RULE(rule, adagrad, );
    return stepper(specs, 4, 1, rule);
}

// (factor, tensors): they are multiplied by it, in place.
py::object scale(py::tuple specs, py::tuple, py::dict) {
    const py::dict constants = py::dict(py::arg("maximize") = false, py::arg("weight_decay") = 0.0);
    Rule rule(constants, {});
    TL_RULE(rule, scale, );
    return stepper(specs, 1, 0, rule);
}

// (tensors, out): the norm of all elements; each piece is summed in double, then the pieces in their order.
py::object total_norm(py::tuple specs, py::tuple, py::dict constants) {
    const double power = value(constants, "kind");
    const int kind = power == 1 ? 1 : power == 2 ? 2 : 0;
    std::vector<std::int64_t> sizes;
    for (py::handle s : specs) sizes.push_back(s.attr("size").cast<std::int64_t>());
    const bool wide = tl::is_double(specs[0]);
    return tl::bind(static_cast<Py_ssize_t>(specs.size()) + 1, [=, cut = Cut(sizes)](PyObject* const* a) {
        std::vector<double> parts(cut.pieces.size());
        {
            tl::Unlock unlock(cut.total);
            const auto f32 = kind == 1 ? TL_PICK(total<float, 1>) : kind == 2 ? TL_PICK(total<float, 2>)
                                                                              : TL_PICK(total<float, 0>);
            const auto f64 = kind == 1 ? TL_PICK(total<double, 1>) : kind == 2 ? TL_PICK(total<double, 2>)
                                                                               : TL_PICK(total<double, 0>);
            cut.run([&](const Piece& piece, std::size_t k) {
                parts[k] = wide ? f64(data<double>(a[piece.tensor]) + piece.begin, piece.n)
                                : f32(data<float>(a[piece.tensor]) + piece.begin, piece.n);
            });
        }
        double all = 0;
        for (const double part : parts) all = kind ? all + part : part != part || part > all ? part : all;
        if (kind == 2) all = std::sqrt(all);
        PyObject* out = a[sizes.size()];
        if (wide)
            *data<double>(out) = all;
        else
            *data<float>(out) = static_cast<float>(all);
    });
}

const tl::Registrar kernels[] = {{"sgd", sgd}, {"adam", adam}, {"rmsprop", rmsprop}, {"adagrad", adagrad},
                                 {"scale", scale}, {"total_norm", total_norm}};

}  // namespace
