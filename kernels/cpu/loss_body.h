// Cross-entropy of the rows [from, to) from class indices, and its gradient.
#include "lines_body.h"

// Where there is room for them, each row leaves its largest score and its sum of exp(score - largest) to the gradient.
template <class T>
void losses(const Rows& r, std::int64_t from, std::int64_t to, const T* x, const std::int64_t* t, T* y, T* kept) {
    const Row<T> row{r.classes};
    const auto keep = [&](std::int64_t k, T top, T sum) TL_ALWAYS {
        if (kept) kept[2 * k] = top, kept[2 * k + 1] = sum;
    };
    for (std::int64_t k = from; k < to; ++k) {
        if (t[k] == r.ignore) {
            y[k] = 0;
            keep(k, 0, 1);
            continue;
        }
        const T* a = x + k * r.classes;
        const Vec<T> top = largest<T>(row, a);
        const Vec<T> sum = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
            look_far_ahead(row, a + at);
            return exp_below_top(take(a + at, width, -std::numeric_limits<T>::infinity()) - top);
        });
        y[k] = log(sum)[0] - (a[t[k]] - top[0]);  // the difference of two large scores is exact where a sum is not
        keep(k, top[0], sum[0]);
    }
}

// share[k * step] is what row k has of the incoming gradient; kept is what `losses` left, or null.
template <class T>
void losses_dx(const Rows& r, std::int64_t from, std::int64_t to, const T* share, std::int64_t step, const T* x,
               const std::int64_t* t, const T* kept, T* dx) {
    const Row<T> row{r.classes};
    for (std::int64_t k = from; k < to; ++k) {
        const T* a = x + k * r.classes;
        T* out = dx + k * r.classes;
        if (t[k] == r.ignore) {
            row.each([&](std::int64_t at, auto width, int) TL_ALWAYS { put(out + at, width, Vec<T>{}); });
            continue;
        }
        const T own = share[k * step];
        if (kept) {
            const Vec<T> top = all(kept[2 * k]), scale = own / all(kept[2 * k + 1]);
            to_write(row, out).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                look_far_ahead(row, a + at, out + at);
                put(out + at, width, exp_below_top(take(a + at, width) - top) * scale);
            });
        } else {
            const Vec<T> top = largest<T>(row, a);
            const Vec<T> sum = total<T>(row, [&](std::int64_t at, auto width) TL_ALWAYS {
                const Vec<T> e = exp_below_top(take(a + at, width, -std::numeric_limits<T>::infinity()) - top);
                put(out + at, width, e);
                return e;
            });
            const Vec<T> scale = own / sum;
            to_write(row, out).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
                put(out + at, width, take(out + at, width) * scale);
            });
        }
        out[t[k]] -= own;
    }
}
