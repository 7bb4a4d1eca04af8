// Cross-entropy of the rows [from, to) from class indices, and its gradient.
#include "lines_body.h"

template <class T>
void losses(const Rows& r, std::int64_t from, std::int64_t to, const T* x, const std::int64_t* t, T* y) {
    const Row<T> row{r.classes};
    for (std::int64_t k = from; k < to; ++k) {
        if (t[k] == r.ignore) {
            y[k] = 0;
            continue;
        }
        const T* a = x + k * r.classes;
        const Vec<T> top = largest<T>(row, a);
        const Vec<T> sum = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
            return exp(take(a + at, width, -std::numeric_limits<T>::infinity()) - top);
        });
        y[k] = log(sum)[0] - (a[t[k]] - top[0]);  // the difference of two large scores is exact where a sum is not
    }
}

// share[k * step] is what row k has of the incoming gradient.
template <class T>
void losses_dx(const Rows& r, std::int64_t from, std::int64_t to, const T* share, std::int64_t step, const T* x,
               const std::int64_t* t, T* dx) {
    const Row<T> row{r.classes};
    for (std::int64_t k = from; k < to; ++k) {
        const T* a = x + k * r.classes;
        T* out = dx + k * r.classes;
        if (t[k] == r.ignore) {
            row.each([&](std::int64_t at, auto width, int) TL_ALWAYS { put(out + at, width, Vec<T>{}); });
            continue;
        }
        const Vec<T> top = largest<T>(row, a);
        const Vec<T> sum = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
            const Vec<T> e = exp(take(a + at, width, -std::numeric_limits<T>::infinity()) - top);
            put(out + at, width, e);
            return e;
        });
        const T own = share[k * step];
        const Vec<T> scale = own / sum;
        to_write(row, out).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
            put(out + at, width, take(out + at, width) * scale);
        });
        out[t[k]] -= own;
    }
}
