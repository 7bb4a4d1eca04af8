// Memory for large arrays that is kept when they die and given to the next of about that size.
//
// The system takes every large buffer back at once and hands out fresh pages that fault one by one: up to half of a
// training step. NumPy lets a handler stand in for malloc (NEP 49); this one is set in the contexts in which our
// kernels and outputs allocate, never in the user's. An array frees through the handler that made it, wherever it dies.
// All calls come with the interpreter's lock held, so there is no lock here.
#include "memory.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "tl.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

namespace py = pybind11;

constexpr std::size_t header = 64;           // before the data, which so stays on a cache line of its own
constexpr std::size_t smallest = 1 << 15;    // smaller buffers are malloc's business: it keeps them itself
constexpr std::size_t huge_page = 2 << 20;   // the system maps larger buffers by such pages where it is asked to
constexpr int steps = 4, classes = 48 * steps;  // sizes are rounded up to 4 in an octave: at most a quarter is lost

struct Block {
    std::int32_t size_class;  // -1: malloc's
    std::size_t bytes;        // of data
    Block* next;
};
static_assert(sizeof(Block) <= header, "a block's header has room for its fields");

struct Kept {
    std::array<Block*, classes> free{};
    std::size_t bytes = 0, limit = 0;
};

Kept& kept() {
    static Kept k;
    return k;
}

std::size_t size_of(int c) { return (smallest / steps * (steps + c % steps)) << (c / steps); }

int class_of(std::size_t bytes) {
    int c = 0;
    while (size_of(c) < bytes) ++c;
    return c;
}

void* data_of(Block* b) { return reinterpret_cast<char*>(b) + header; }
Block* block_of(void* p) { return reinterpret_cast<Block*>(static_cast<char*>(p) - header); }

std::size_t share_of_machine() {
#if defined(__linux__)
    return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE)) / 8;
#else
    return std::size_t{1} << 30;
#endif
}

void give_back_all() {
    for (Block*& list : kept().free)
        while (Block* b = list) {
            list = b->next;
            std::free(b);
        }
    kept().bytes = 0;
}

Block* fresh(std::size_t bytes) {
    const std::size_t total = bytes + header, line = total >= huge_page ? huge_page : header;
    void* p = std::aligned_alloc(line, (total + line - 1) / line * line);
#if defined(__linux__)
    if (p && line == huge_page) madvise(p, total, MADV_HUGEPAGE);
#endif
    return static_cast<Block*>(p);
}

void* allocate(void*, std::size_t bytes) {
    if (bytes < smallest || bytes > size_of(classes - 1)) {
        Block* b = bytes + header < bytes ? nullptr : static_cast<Block*>(std::malloc(bytes + header));
        if (!b && kept().bytes) {
            give_back_all();
            b = static_cast<Block*>(std::malloc(bytes + header));
        }
        if (!b) return nullptr;
        b->size_class = -1, b->bytes = bytes;
        return data_of(b);
    }
    const int c = class_of(bytes);
    Block* b = kept().free[c];
    if (b) {
        kept().free[c] = b->next;
        kept().bytes -= size_of(c);
    } else {
        b = fresh(size_of(c));
        if (!b && kept().bytes) {
            give_back_all();
            b = fresh(size_of(c));
        }
        if (!b) return nullptr;
        b->size_class = c;
    }
    b->bytes = bytes;
    return data_of(b);
}

void release(void*, void* p, std::size_t) {
    if (!p) return;
    Block* b = block_of(p);
    const int c = b->size_class;
    if (c < 0) return std::free(b);
    // sizes that nobody asks for any more must not stay for ever: over the limit, everything goes
    if (kept().bytes + size_of(c) > kept().limit) give_back_all();
    if (size_of(c) > kept().limit) return std::free(b);
    b->next = kept().free[c];
    kept().free[c] = b;
    kept().bytes += size_of(c);
}

void* zeros(void* context, std::size_t count, std::size_t each) {
    if (each && count > static_cast<std::size_t>(-1) / each) return nullptr;
    void* p = allocate(context, count * each);
    if (p) std::memset(p, 0, count * each);
    return p;
}

void* resize(void* context, void* p, std::size_t bytes) {
    void* other = allocate(context, bytes);
    if (other && p) {
        std::memcpy(other, p, std::min(bytes, block_of(p)->bytes));
        release(context, p, 0);
    }
    return other;
}

// NumPy's PyDataMem_Handler, version 1.
struct Handler {
    char name[127];
    std::uint8_t version;
    struct {
        void* context;
        void* (*malloc)(void*, std::size_t);
        void* (*calloc)(void*, std::size_t, std::size_t);
        void* (*realloc)(void*, void*, std::size_t);
        void (*free)(void*, void*, std::size_t);
    } allocator;
};

Handler handler{"tensorlite", 1, {nullptr, allocate, zeros, resize, release}};

}  // namespace

void tl::register_memory(py::module_& m) {
    kept().limit = share_of_machine();
    m.def("_keep_memory", [] {  // in this context, from now on
        constexpr int set_handler = 304;  // PyDataMem_SetHandler in NumPy's table of functions
        auto table = py::module_::import("numpy._core.multiarray").attr("_ARRAY_API");
        auto** functions = static_cast<void**>(PyCapsule_GetPointer(table.ptr(), nullptr));
        if (!functions) throw py::error_already_set();
        auto set = reinterpret_cast<PyObject* (*)(PyObject*)>(functions[set_handler]);
        py::object capsule = py::reinterpret_steal<py::object>(PyCapsule_New(&handler, "mem_handler", nullptr));
        PyObject* before = set(capsule.ptr());
        if (!before) throw py::error_already_set();
        Py_DECREF(before);
    });
    m.def("_memory_kept", [] { return kept().bytes; });
    m.def("_limit_memory", [](std::int64_t bytes) {  // negative: as much as a process may keep by default
        kept().limit = bytes < 0 ? share_of_machine() : static_cast<std::size_t>(bytes);
        if (kept().bytes > kept().limit) give_back_all();
    });
    m.def("_give_back_memory", give_back_all);
}
