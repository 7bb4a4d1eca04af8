// Softmax, log-softmax and their gradients of the lines [from, to): see lines_body.h and activation.cpp.
#include "lines_body.h"

template <class T>
struct Softmax {
    template <class Line>
    static TL_ALWAYS void of(const Line& line, const T* x, const T*, T* y) {
        const T least = -std::numeric_limits<T>::infinity();
        const Vec<T> top = largest<T>(line, x);
        const Vec<T> sum = total<T>(line, [&](std::int64_t at, auto width) TL_ALWAYS {
            const Vec<T> e = exp(take(x + at, width, least) - top);
            put(y + at, width, e);
            return e;
        });
        const Vec<T> scale = T(1) / sum;
        to_write(line, y).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
            put(y + at, width, take(y + at, width) * scale);
        });
    }
};

template <class T>
struct SoftmaxDx {
    template <class Line>
    static TL_ALWAYS void of(const Line& line, const T* dy, const T* y, T* dx) {
        const Vec<T> dot = total<T>(
            line, [&](std::int64_t at, auto width) TL_ALWAYS { return take(dy + at, width) * take(y + at, width); });
        to_write(line, dx).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
            put(dx + at, width, take(y + at, width) * (take(dy + at, width) - dot));
        });
    }
};

template <class T>
struct LogSoftmax {
    template <class Line>
    static TL_ALWAYS void of(const Line& line, const T* x, const T*, T* y) {
        const T least = -std::numeric_limits<T>::infinity();
        const Vec<T> top = largest<T>(line, x);
        const Vec<T> sum = total<T>(line, [&](std::int64_t at, auto width) TL_ALWAYS {
            return exp_below_top(take(x + at, width, least) - top);
        });
        const Vec<T> log_sum = log(sum);  // subtracted last: top may be large beside it
        to_write(line, y).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
            put(y + at, width, (take(x + at, width) - top) - log_sum);
        });
    }
};

template <class T>
struct LogSoftmaxDx {
    template <class Line>
    static TL_ALWAYS void of(const Line& line, const T* dy, const T* y, T* dx) {
        const Vec<T> sum = total<T>(line, [&](std::int64_t at, auto width) TL_ALWAYS { return take(dy + at, width); });
        to_write(line, dx).each([&](std::int64_t at, auto width, int) TL_ALWAYS {
            put(dx + at, width, take(dy + at, width) - exp(take(y + at, width)) * sum);
        });
    }
};

// Kernel::of for the lines [from, to) of a tensor (outer, n, inner), where lines are counted by vectors of columns.
template <class Kernel, class T>
void along(const Lines& l, std::int64_t from, std::int64_t to, const T* a, const T* b, T* y) {
    if (l.inner == 1) {
        for (std::int64_t o = from; o < to; ++o) Kernel::of(Row<T>{l.n}, a + o * l.n, b + o * l.n, y + o * l.n);
        return;
    }
    const std::int64_t vectors = (l.inner + lanes<T> - 1) / lanes<T>;
    for (std::int64_t k = from; k < to; ++k) {
        const std::int64_t column = k % vectors * lanes<T>, at = k / vectors * l.n * l.inner + column;
        const std::int64_t width = std::min<std::int64_t>(lanes<T>, l.inner - column);
        if (width == lanes<T>)
            Kernel::of(Columns<T, Whole<T>>{l.n, l.inner, {}}, a + at, b + at, y + at);
        else
            Kernel::of(Columns<T, Part>{l.n, l.inner, {width}}, a + at, b + at, y + at);
    }
}

template <class Kernel, class T>
void softmax_family(const Lines& l, const T* a, const T* b, T* y) {
    if (l.inner == 1)
        return tl::spread(l.outer, l.n, [&](std::int64_t from, std::int64_t to) {
            along<Kernel>(l, from, to, a, b, y);
        });
    const std::int64_t vectors = (l.inner + lanes<T> - 1) / lanes<T>;
    tl::spread(l.outer * vectors, l.n * lanes<T>, [&](std::int64_t from, std::int64_t to) {
        along<Kernel>(l, from, to, a, b, y);
    });
}

template <class T>
void softmax(const Lines& l, const T* x, const T*, T* y) {
    softmax_family<Softmax<T>>(l, x, x, y);
}
template <class T>
void softmax_dx(const Lines& l, const T* dy, const T* s, T* dx) {
    softmax_family<SoftmaxDx<T>>(l, dy, s, dx);
}
template <class T>
void log_softmax(const Lines& l, const T* x, const T*, T* y) {
    softmax_family<LogSoftmax<T>>(l, x, x, y);
}
template <class T>
void log_softmax_dx(const Lines& l, const T* dy, const T* s, T* dx) {
    softmax_family<LogSoftmaxDx<T>>(l, dy, s, dx);
}
