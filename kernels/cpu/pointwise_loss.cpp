// Losses of pairs of numbers (squared, absolute, Huber's, binary cross-entropy of logits) and their gradient, each in
// one pass. A sum is that of parts of the pairs, cut by their number alone and added up in order.
#include <string>

#include "spread.h"
#include "tl.h"

namespace {

enum class Kind { squared, absolute, huber, logits };

struct Pairs {
    std::int64_t count;
    Kind kind;
    double bound, steep;
    bool mean, none;
};

}  // namespace

#define TL_BODY "pointwise_loss_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

Pairs pairs(py::handle x, py::dict constants) {
    std::int64_t n = 1;
    for (const auto size : tl::shape(x)) n *= size;
    const auto kind = constants["kind"].cast<std::string>(), reduction = constants["reduction"].cast<std::string>();
    return {n,
            kind == "squared"    ? Kind::squared
            : kind == "absolute" ? Kind::absolute
            : kind == "huber"    ? Kind::huber
                                 : Kind::logits,
            constants["bound"].cast<double>(),
            constants["steep"].cast<double>(),
            reduction == "mean",
            reduction == "none"};
}

template <class T>
py::object forward(const Pairs& p) {
    return tl::bind(3, [p](PyObject* const* a) {
        const T *x = data<T>(a[0]), *t = data<T>(a[1]);
        T* y = data<T>(a[2]);
        tl::Unlock unlock(p.count);
        const auto kernel = TL_PICK(pair_losses<T>);
        const std::int64_t part = tl::rows_of_task(p.count, 1);
        double* sums = p.none ? nullptr : tl::scratch<double>((p.count + part - 1) / part);
        tl::spread(p.count, 1, [&](std::int64_t from, std::int64_t to) {
            const double made = kernel(p, to - from, x + from, t + from, p.none ? y + from : nullptr);
            if (sums) sums[from / part] = made;
        });
        if (!sums) return;
        double total = 0;
        for (std::int64_t k = 0; k * part < p.count; ++k) total += sums[k];
        *y = static_cast<T>(total);  // inf where the sum is, even if a mean would not be: as in PyTorch
        if (p.mean) *y /= static_cast<T>(p.count);
    });
}

template <class T>
py::object backward(const Pairs& p) {
    return tl::bind(4, [p](PyObject* const* a) {
        const T *dy = data<T>(a[0]), *x = data<T>(a[1]), *t = data<T>(a[2]);
        T* dx = data<T>(a[3]);
        tl::Unlock unlock(p.count);
        const auto kernel = TL_PICK(pair_losses_dx<T>);
        const bool shared = p.mean && p.kind != Kind::squared;  // its slope has the share already
        const T one = p.none ? T(1) : shared ? *dy / static_cast<T>(p.count) : *dy;
        tl::spread(p.count, 1, [&](std::int64_t from, std::int64_t to) {
            kernel(p, to - from, p.none ? dy + from : nullptr, one, x + from, t + from, dx + from);
        });
    });
}

py::object pointwise_loss(py::tuple specs, py::tuple, py::dict constants) {
    const Pairs p = pairs(specs[0], constants);
    return tl::is_double(specs[0]) ? forward<double>(p) : forward<float>(p);
}

py::object pointwise_loss_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Pairs p = pairs(specs[1], constants);
    return tl::is_double(specs[1]) ? backward<double>(p) : backward<float>(p);
}

const tl::Registrar kernels[] = {{"pointwise_loss", pointwise_loss}, {"pointwise_loss_dx", pointwise_loss_dx}};

}  // namespace
