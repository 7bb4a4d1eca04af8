// A stand-in of libcuda.so for tests: it runs nothing and writes what it was asked to the file that STUB_LOG names.
// Its one kernel has the arguments T*, T*, long long, int, float, double.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int sizes[] = {8, 8, 8, 4, 4, 8};
constexpr int ok = 0, invalid_value = 1, not_supported = 801;
int kernel, library;

std::FILE* log_file() {
    static std::FILE* file = std::fopen(std::getenv("STUB_LOG"), "w");
    return file;
}

template <class... A>
void say(const char* form, A... given) {
    std::fprintf(log_file(), form, given...);
    std::fflush(log_file());
}

int launched(const char* how, const unsigned* n, void* stream, void** args) {
    static int count = 0;
    if (n[3] * n[4] * n[5] > 1024) return invalid_value;
    if (++count > 2) return ok;
    say("%s %u %u %u %u %u %u %u", how, n[0], n[1], n[2], n[3], n[4], n[5], n[6]);
    say(" stream %llu:", (unsigned long long)stream);
    for (int k = 0; k < 6; ++k) {
        std::uint64_t bits = 0;
        std::memcpy(&bits, args[k], sizes[k]);
        say(" %0*llx", 2 * sizes[k], (unsigned long long)bits);
    }
    say("\n");
    return ok;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return ok; }

int cuDriverGetVersion(int* version) {
    *version = 13000;
    return ok;
}

int cuCtxGetDevice(int* device) {
    *device = 0;
    return ok;
}

int cuGetErrorString(int, const char** text) {
    *text = "the stub's words";
    return ok;
}

int cuLibraryLoadData(void** made, const void* image, void*, void*, unsigned, void*, void*, unsigned) {
    say("load %.3s\n", static_cast<const char*>(image) + 1);
    *made = &library;
    return ok;
}

int cuLibraryGetKernel(void** found, void* from, const char* name) {
    if (from != &library) return invalid_value;
    say("get %s\n", name);
    *found = &kernel;
    return ok;
}

int cuKernelGetParamInfo(void* of, std::size_t index, std::size_t* offset, std::size_t* size) {
    if (of != &kernel || index >= 6) return invalid_value;
    *offset = 0;
    *size = sizes[index];
    return ok;
}

int cuKernelSetAttribute(int attribute, int value, void* of, int) {
    if (of != &kernel || attribute != 8) return invalid_value;  // 8: MAX_DYNAMIC_SHARED_SIZE_BYTES of cuda.h
    say("shared %d\n", value);
    return ok;
}

int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** args, void** extra) {
    if (f != &kernel || extra) return invalid_value;
    const unsigned n[] = {gx, gy, gz, bx, by, bz, shared};
    return launched("launch", n, stream, args);
}

int cuLaunchCooperativeKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                              unsigned shared, void* stream, void** args) {
    if (f != &kernel) return invalid_value;
    const unsigned n[] = {gx, gy, gz, bx, by, bz, shared};
    return launched("cooperative", n, stream, args);
}

int other() { return not_supported; }

int cuGetProcAddress_v2(const char* name, void** found, int, std::uint64_t, int* status) {
    const struct {
        const char* name;
        void* function;
    } known[] = {
#define TL_KNOWN(f) {#f, reinterpret_cast<void*>(f)}
        TL_KNOWN(cuInit),
        TL_KNOWN(cuDriverGetVersion),
        TL_KNOWN(cuCtxGetDevice),
        TL_KNOWN(cuGetErrorString),
        TL_KNOWN(cuLibraryLoadData),
        TL_KNOWN(cuLibraryGetKernel),
        TL_KNOWN(cuKernelGetParamInfo),
        TL_KNOWN(cuKernelSetAttribute),
        TL_KNOWN(cuLaunchKernel),
        TL_KNOWN(cuLaunchCooperativeKernel),
#undef TL_KNOWN
        {"cuGetProcAddress", reinterpret_cast<void*>(cuGetProcAddress_v2)},
    };
    *found = reinterpret_cast<void*>(other);
    for (const auto& one : known)
        if (!std::strcmp(one.name, name)) *found = one.function;
    if (status) *status = 0;
    return ok;
}

int cuGetProcAddress(const char* name, void** found, int version, std::uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, nullptr);
}
}
