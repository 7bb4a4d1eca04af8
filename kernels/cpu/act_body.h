// Activations of vectors and their gradients, each written here once: a kernel that does one in passing gives the bits
// of the op alone. Included by bodies, in the namespace of each instruction set, where "act.h" was included before;
// tanh and sigmoid are in vmath.h.

template <class T>
constexpr T root_half = T(0.70710678118654752440);  // sqrt(1/2)
template <class T>
constexpr T gauss = T(0.79788456080286535588);  // sqrt(2/pi)
template <class T>
constexpr T cubic = T(0.044715);

// `v` as it would come back from memory. Compilers join a product and a sum into one operation, which rounds once: what an
// op of its own would store must not be joined with what comes after it, or a fused kernel would have other bits.
template <class V>
TL_INLINE V settled(V v) {
#if defined(__GNUC__) || defined(__clang__)
    asm volatile("" : "+m"(v));
#endif
    return v;
}

template <class T>
TL_INLINE Vec<T> relu(const Vec<T>& x) {
    return x < 0 ? Vec<T>{} : x;  // nan < 0 is false: nan stays
}

// The normal law's distribution function at x, and the bell exp(-x x / 2). In float32 one division and one exponential
// serve both: the tail beyond a = |x| is bell(a) h(a), and h a polynomial in t = 1 / (1 + 0.35 a), fitted to a relative
// error of 3e-8 for a up to 13 (measured after rounding: 3.2e-7), which the small side keeps.
template <class T>
TL_INLINE Vec<T> normal(const Vec<T>& x, Vec<T>& bell) {
    bell = exp(x * x * T(-0.5));
    if constexpr (sizeof(T) == 4) {
        static constexpr T c[] = {-0.0291089937f, 0.143788517f, -0.255327851f, 0.158722609f, -0.0227911323f,
                                  0.105369344f,   0.119869053f, 0.139856711f,  0.139621705f};
        const Vec<T> t = T(1) / (without_sign(x) * T(0.35) + T(1)), tail = polynomial(t, c) * t * bell;
        return x > 0 ? T(1) - tail : tail;
    }
    return (erf(x * root_half<T>) + T(1)) * T(0.5);
}

template <class T>
TL_INLINE Vec<T> gelu(const Vec<T>& x) {
    Vec<T> bell;
    return x * normal<T>(x, bell);
}

template <class T>
TL_INLINE Vec<T> gelu_tanh(const Vec<T>& x) {
    return (x * T(0.5)) * (tanh((x * x * x * cubic<T> + x) * gauss<T>) + T(1));
}

// ---- gradients: of the incoming one and the output (relu, tanh, sigmoid) or the input (gelu)
template <class T>
TL_INLINE Vec<T> relu_dx(const Vec<T>& dy, const Vec<T>& y) {
    return y <= 0 ? Vec<T>{} : dy;  // where the output is nan dy comes through, as in PyTorch
}

template <class T>
TL_INLINE Vec<T> tanh_dx(const Vec<T>& dy, const Vec<T>& y) {
    return dy * (T(1) - y * y);
}

template <class T>
TL_INLINE Vec<T> sigmoid_dx(const Vec<T>& dy, const Vec<T>& y) {
    return dy * (y * (T(1) - y));
}

template <class T>
TL_INLINE Vec<T> gelu_dx(const Vec<T>& dy, const Vec<T>& x) {
    Vec<T> bell;
    const Vec<T> below = normal<T>(x, bell);
    return dy * (below + x * bell * (T(0.5) * gauss<T>));
}

template <class T>
TL_INLINE Vec<T> gelu_tanh_dx(const Vec<T>& dy, const Vec<T>& x) {
    const Vec<T> square = x * x, t = tanh((square * x * cubic<T> + x) * gauss<T>);
    return dy * ((t + T(1)) * T(0.5) + x * (T(1) - t * t) * (square * (3 * cubic<T>) + T(1)) * (T(0.5) * gauss<T>));
}

// ---- by name
template <tl::Act A, class T>
TL_INLINE Vec<T> act(const Vec<T>& x) {
    if constexpr (A == tl::Act::relu) return relu<T>(x);
    if constexpr (A == tl::Act::gelu) return gelu<T>(x);
    if constexpr (A == tl::Act::gelu_tanh) return gelu_tanh<T>(x);
    if constexpr (A == tl::Act::tanh) return tanh(x);
    if constexpr (A == tl::Act::sigmoid) return sigmoid(x);
    return x;
}

template <tl::Act A, class T>
TL_INLINE Vec<T> act_dx(const Vec<T>& dy, const Vec<T>& saved) {
    if constexpr (A == tl::Act::relu) return relu_dx<T>(dy, saved);
    if constexpr (A == tl::Act::gelu) return gelu_dx<T>(dy, saved);
    if constexpr (A == tl::Act::gelu_tanh) return gelu_tanh_dx<T>(dy, saved);
    if constexpr (A == tl::Act::tanh) return tanh_dx<T>(dy, saved);
    if constexpr (A == tl::Act::sigmoid) return sigmoid_dx<T>(dy, saved);
    return dy;
}
