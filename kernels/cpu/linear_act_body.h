// The loops of linear_act.cpp: what comes after a product, and the gradient of an activation with its column sums.
#include "act_body.h"
#include "reduce_body.h"

template <class T>
TL_INLINE Vec<T> some(const T* p, std::int64_t n) {
    return n >= lanes<T> ? load(p) : load_first(p, n);
}

template <class T>
TL_INLINE void put_some(T* p, std::int64_t n, const Vec<T>& v) {
    n >= lanes<T> ? store(p, v) : store_first(p, n, v);
}

// y = act(y + b) for rows of n numbers; y + b is kept in `pre` where there is one.
template <tl::Act A, class T>
static void finish_as(std::int64_t rows, std::int64_t n, const T* b, T* y, T* pre) {
    for (std::int64_t i = 0; i < rows * n; i += n)
        for (std::int64_t j = 0; j < n; j += lanes<T>) {
            const std::int64_t left = n - j;
            Vec<T> v = some(y + i + j, left);
            if (b) v += some(b + j, left);
            if (pre) put_some(pre + i + j, left, v);
            put_some(y + i + j, left, act<A, T>(v));
        }
}

// dz = the gradient dy of the act's output times its slope, and the sums of its columns, for n columns of some rows:
// as many columns at a time as let eight rows of all three stay near.
template <tl::Act A, class T>
static void act_dx_as(std::int64_t rows, std::int64_t n, std::int64_t step, const T* dy, const T* saved, T* dz,
                      double* sums) {
    constexpr std::int64_t some_columns = 1024 / sizeof(T);
    for (std::int64_t j = 0; j < n; j += some_columns) {
        const std::int64_t count = std::min(some_columns, n - j);
        const auto make = [=](std::int64_t r, int many) __attribute__((always_inline)) {
            for (std::int64_t at = r * step + j; at < (r + many) * step + j; at += step)
                for (std::int64_t k = 0; k < count; k += lanes<T>) {
                    const std::int64_t left = count - k;
                    put_some(dz + at + k, left, settled(act_dx<A, T>(some(dy + at + k, left), some(saved + at + k, left))));
                }
            return dz + r * step + j;
        };
        Reduce<T, Sum>::columns_of(rows, count, step, make, sums + j);
    }
}

template <class T>
static Kernel<T> kernel(Act of) {
    const auto sums = Sums<double>::columns;
    switch (of) {
        case Act::relu: return {finish_as<Act::relu, T>, act_dx_as<Act::relu, T>, sums};
        case Act::gelu: return {finish_as<Act::gelu, T>, act_dx_as<Act::gelu, T>, sums};
        case Act::gelu_tanh: return {finish_as<Act::gelu_tanh, T>, act_dx_as<Act::gelu_tanh, T>, sums};
        case Act::tanh: return {finish_as<Act::tanh, T>, act_dx_as<Act::tanh, T>, sums};
        case Act::sigmoid: return {finish_as<Act::sigmoid, T>, act_dx_as<Act::sigmoid, T>, sums};
        default: return {finish_as<Act::none, T>, act_dx_as<Act::none, T>, sums};
    }
}
