// The largest of a window and its place there, for vectors of windows. Included by the body of a kernel for each
// instruction set, after simd.h and vmath.h; no include guard.

// Ints (vmath.h) are what comparisons give, and places in a window while they are in registers.
template <class T>
TL_INLINE Ints<T> everywhere(std::int64_t k) {
    return Ints<T>{} + static_cast<std::remove_reference_t<decltype(Ints<T>{}[0])>>(k);
}

template <class T, class P>
struct Narrow {
    typedef P type __attribute__((vector_size(lanes<T> * sizeof(P))));
};

template <class T, class P>
TL_INLINE Ints<T> widen(const typename Narrow<T, P>::type& v) {
#if TL_LEVEL > 0  // GCC would take bytes one by one
    if constexpr (sizeof(P) == 1) {
        __m128i bytes = _mm_setzero_si128();
        std::memcpy(&bytes, &v, sizeof v);
#if TL_LEVEL == 2
        // the masked kind, since GCC warns of its own header in the other
        return (Ints<T>)(sizeof(T) == 4 ? _mm512_maskz_cvtepu8_epi32(-1, bytes) : _mm512_maskz_cvtepu8_epi64(-1, bytes));
#else
        return (Ints<T>)(sizeof(T) == 4 ? _mm256_cvtepu8_epi32(bytes) : _mm256_cvtepu8_epi64(bytes));
#endif
    }
#endif
    return __builtin_convertvector(v, Ints<T>);
}

template <class T, class P>
TL_INLINE Ints<T> load_places(const P* p, std::int64_t n) {
    typename Narrow<T, P>::type v = {};
    if (n == lanes<T>)
        std::memcpy(&v, p, sizeof v);
    else
        for (std::int64_t l = 0; l < n; ++l) v[l] = p[l];
    return widen<T, P>(v);
}

template <class T, class P>
TL_INLINE void store_places(P* p, std::int64_t n, const Ints<T>& places) {
    const auto v = __builtin_convertvector(places, typename Narrow<T, P>::type);
    if (n == lanes<T>)
        std::memcpy(p, &v, sizeof v);
    else
        for (std::int64_t l = 0; l < n; ++l) p[l] = v[l];
}

// The winners so far of as many windows as a vector holds. A later one must be larger, or nan.
template <class T>
struct Best {
    Vec<T> value;
    Ints<T> place;
};

template <class T>
TL_INLINE void meet(Best<T>& best, const Vec<T>& v, std::int64_t place) {
    const Ints<T> wins = (v > best.value) | (v != v);
    best.value = wins ? v : best.value;
    best.place = wins ? everywhere<T>(place) : best.place;
}
