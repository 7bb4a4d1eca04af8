// Sums of each channel over pixels. Included for each instruction set.

// V vectors of channels, U pixels at a time, so that additions do not wait for each other.
template <int U, int V, class T>
static void add_columns(const T* x, std::int64_t count, std::int64_t step, std::int64_t channels, T* to) {
    constexpr std::int64_t L = lanes<T>;
    Vec<T> acc[U][V] = {};
    std::int64_t p = 0;
    if (channels == V * L) {
        for (; p + U <= count; p += U, x += U * step)
            for (int u = 0; u < U; ++u)
                for (int v = 0; v < V; ++v) acc[u][v] += load(x + u * step + v * L);
        for (; p < count; ++p, x += step)
            for (int v = 0; v < V; ++v) acc[0][v] += load(x + v * L);
    } else {
        for (; p < count; ++p, x += step) acc[0][0] += load_first(x, channels);
    }
    for (int v = 0; v < V; ++v) {
        for (int u = 1; u < U; ++u) acc[0][v] += acc[u][v];
        store_first(to + v * L, std::min(channels - v * L, L), acc[0][v]);
    }
}

// to[c] = the sum of x[p][c] over `count` pixels.
template <class T>
static void add_pixels(const T* x, std::int64_t count, std::int64_t channels, T* to) {
    constexpr std::int64_t L = lanes<T>;
    std::int64_t c = 0;
    for (; c + 4 * L <= channels; c += 4 * L) add_columns<2, 4>(x + c, count, channels, 4 * L, to + c);
    for (; c + 2 * L <= channels; c += 2 * L) add_columns<4, 2>(x + c, count, channels, 2 * L, to + c);
    for (; c + L <= channels; c += L) add_columns<8, 1>(x + c, count, channels, L, to + c);
    if (c < channels) add_columns<1, 1>(x + c, count, channels, channels - c, to + c);
}

// to[c] = the sum of x[n][c][p] over images and pixels.
template <class T>
static void add_planes(const T* x, std::int64_t images, std::int64_t channels, std::int64_t pixels, T* to) {
    constexpr std::int64_t L = lanes<T>;
    for (std::int64_t c = 0; c < channels; ++c) {
        Vec<T> acc[8] = {};
        for (std::int64_t n = 0; n < images; ++n) {
            const T* from = x + (n * channels + c) * pixels;
            std::int64_t p = 0;
            for (; p + 8 * L <= pixels; p += 8 * L)
                for (int u = 0; u < 8; ++u) acc[u] += load(from + p + u * L);
            for (int u = 0; p + L <= pixels; p += L, ++u) acc[u] += load(from + p);
            if (p < pixels) acc[7] += load_first(from + p, pixels - p);
        }
        for (int half = 4; half; half /= 2)
            for (int u = 0; u < half; ++u) acc[u] += acc[u + half];
        to[c] = sum<T>(acc[0]);
    }
}
