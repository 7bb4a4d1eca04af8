// The threads of the emulator: each CUDA thread is a fiber. A launch runs its blocks one after another (a cooperative
// one all together); within a block each thread runs until it waits for others: at a barrier, at a warp's shuffle, vote
// or product, or on a flag. Errors end the launch with a message that says who waits where.
#pragma once

#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <numeric>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if !(defined(__x86_64__) && defined(__linux__)) && !defined(TL_UCONTEXT)
#define TL_UCONTEXT  // no stack switch of our own for this processor
#endif
#ifdef TL_UCONTEXT
#include <ucontext.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define TL_RUNTIME __attribute__((no_sanitize("thread")))  // the emulator's own state is no business of a race search
#else
#define TL_RUNTIME
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace tl_emu {

// The place of a call, as an argument that the caller never writes: f(Where at = Where::here()).
struct Where {
    const char* file;
    int line;
    static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

struct Index {
    unsigned x, y, z;
};

enum State : unsigned char { ready, at_barrier, at_warp, spinning, ended };

struct Block;
struct Thread;
typedef void (*Finish)(Thread* lanes, unsigned members);  // of a collective: run once, when all members are there

struct Copy {
    void* to;
    const void* from;
    int size, bytes;  // those beyond `bytes` become 0
};

struct Thread {
    void* sp;  // of its fiber; what a wait needs stands first, in one line of the cache
    Finish finish;  // of the collective that it waits in
    void* data;     // its part of that
    const char* what;  // it waits for, or called last
    Where where;
    unsigned mask;  // of the warp's threads that must come
    unsigned lane, number;  // in its warp, in its block
    State state;
    Block* block;
    Index index;
    const void* flag;  // last polled
    unsigned long long flag_value;
    int polls;
    std::vector<Copy> copies;         // cp.async not yet landed
    std::vector<std::size_t> groups;  // where committed groups of them end
    char *stack, *top;
#ifdef TL_UCONTEXT
    ucontext_t context;
#endif
#if defined(__SANITIZE_THREAD__)
    void* tsan;
#endif
};

struct Area {  // memory that ends at a guard page
    char* base;
    std::size_t size;
    char* map;
    std::size_t mapped;
    const char* name;
    unsigned long long block;  // the serial number of the block that it was poisoned for
};

constexpr int most_arrays = 256;  // static shared arrays of a source file
constexpr std::size_t page = 4096, stack_size = 256 << 10, static_limit = 48 << 10, shared_limit = 227 << 10;
constexpr unsigned most_threads = 1024, multiprocessors = 132;
constexpr std::size_t guarded_stacks = 8192;  // a guard page splits a mapping, and a process has only so many

struct Warp {
    unsigned exists, ready, waiting, spinning;  // one bit a lane; waiting: in a collective of the warp
};

struct Block {
    Index index;
    Thread* threads = nullptr;
    std::size_t room = 0;  // threads that it has stacks for
    Warp warps[most_threads / 32];
    unsigned arrived, votes, result, alive;
    const Thread* first;  // at the barrier
    bool mixed;           // others are at another one
    unsigned long long serial;
    std::size_t static_bytes;
    Area dynamic = {}, arrays[most_arrays] = {};
};

struct Launch {
    Index grid, size;
    unsigned threads;
    std::size_t blocks, shared;
    bool cooperative;
    int order;
    void (*invoke)(const char*);
    const char* args;
    char* error;
    std::size_t error_size;
    bool failed;
    unsigned long long activity;  // everything that can end somebody's wait
    unsigned char lanes[32];
    std::vector<unsigned> warps;  // their order
};

static Launch launch;
static Thread* current;  // null outside of kernels
static int sites;        // static shared arrays that were met so far

// ---- switching stacks
#ifdef TL_UCONTEXT
static ucontext_t scheduler;
#else
static void* scheduler;
extern "C" __attribute__((visibility("hidden"))) void tl_emu_switch(void** save, void* to);
asm(R"(
    .text
    .p2align 4
    .globl tl_emu_switch
    .hidden tl_emu_switch
    .type tl_emu_switch, @function
tl_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size tl_emu_switch, .-tl_emu_switch
)");
#endif

#if defined(__SANITIZE_THREAD__)
static void* tsan_scheduler;
#endif
#if defined(__SANITIZE_ADDRESS__)
static const void* asan_bottom;
static std::size_t asan_size;
#endif

// From a fiber to the scheduler; comes back when the scheduler resumes the fiber.
TL_RUNTIME static inline void suspend() {
    Thread& me = *current;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(tsan_scheduler, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake;
    __sanitizer_start_switch_fiber(&fake, asan_bottom, asan_size);
#endif
#ifdef TL_UCONTEXT
    swapcontext(&me.context, &scheduler);
#else
    tl_emu_switch(&me.sp, scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &asan_bottom, &asan_size);
#endif
}

TL_RUNTIME static inline void resume(Thread& t) {
    current = &t;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(t.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake;
    __sanitizer_start_switch_fiber(&fake, t.stack, static_cast<std::size_t>(t.top - t.stack));
#endif
#ifdef TL_UCONTEXT
    swapcontext(&scheduler, &t.context);
#else
    tl_emu_switch(&scheduler, t.sp);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    current = nullptr;
}

// ---- errors
__attribute__((format(printf, 1, 2))) TL_RUNTIME static void say(const char* format, ...) {
    if (launch.failed) return;  // the first one counts
    launch.failed = true;
    std::va_list list;
    va_start(list, format);
    std::vsnprintf(launch.error, launch.error_size, format, list);
    va_end(list);
}

TL_RUNTIME static std::string name_of(const Thread& t) {
    char text[160];
    const Index &i = t.index, &b = t.block->index;
    std::snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", i.x, i.y, i.z, b.x, b.y, b.z);
    return text;
}

TL_RUNTIME static std::string place_of(const Thread& t) {
    if (!t.where.file) return "before the first wait";
    return (t.state == ready ? "after " : "") + std::string(t.what) + " at " + t.where.file + ":" + std::to_string(t.where.line);
}

// Ends the launch from inside a kernel. The fiber is left where it is and made anew for the next launch.
template <class... A>
[[noreturn]] TL_RUNTIME static void fail(const char* format, A... args) {
    say(format, args...);
    for (;;) suspend();
}

// ---- memory
// All bytes 0xff: a NaN in every floating-point type, -1 in every integer.
TL_RUNTIME static void poison(void* p, std::size_t size) {
#if defined(__SANITIZE_THREAD__)  // memset would count as a write by this thread
    for (std::size_t k = 0; k < size; ++k) static_cast<volatile unsigned char*>(p)[k] = 0xff;
#else
    std::memset(p, 0xff, size);
#endif
}

constexpr std::size_t edge = 64;  // bytes of a pattern before an area, and those that fill its last 16 up
constexpr unsigned char pattern = 0xa5;

TL_RUNTIME static std::size_t filled(std::size_t size) { return (size + 15) / 16 * 16; }

// Stacks and shared memory, which all libraries of a process use in turn: a process has only so many mappings.
struct Pool {
    std::vector<Area> spare;  // to use again
    std::size_t stacks = 0;   // that were made so far
    std::vector<Block*> blocks;
    unsigned long long serial = 0;  // of the last block
    const void* user = nullptr;     // the library whose kernels ran last
};
static Pool own_pool;
static Pool* pool = &own_pool;

TL_RUNTIME static Area take_area(std::size_t size, const char* name) {
    for (std::size_t k = 0; k < pool->spare.size(); ++k)
        if (pool->spare[k].size == size) {
            Area found = pool->spare[k];
            pool->spare[k] = pool->spare.back();
            pool->spare.pop_back();
            found.name = name;
            return found;
        }
    const std::size_t used = filled(size), mapped = (used + edge + page - 1) / page * page + page;
    void* map = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return {};
    char* const start = static_cast<char*>(map);
    char* const base = start + mapped - page - used;
    mprotect(start + mapped - page, page, PROT_NONE);
    std::memset(base - edge, pattern, edge);
    std::memset(base + size, pattern, used - size);
    return {base, size, start, mapped, name, 0};
}

// At the end of a block: did somebody write just before or after the area?
TL_RUNTIME static void check_edges(const Block& b, Area& a) {
    const auto intact = [&](char* p, std::size_t n) {
        bool good = true;
        for (std::size_t k = 0; k < n; ++k) good &= static_cast<unsigned char>(p[k]) == pattern;
        if (!good) std::memset(p, pattern, n);
        return good;
    };
    if (!intact(a.base - edge, edge))
        say("block (%u, %u, %u) writes before the start of %s, %zu bytes of shared memory", b.index.x, b.index.y,
            b.index.z, a.name, a.size);
    if (!intact(a.base + a.size, filled(a.size) - a.size))
        say("block (%u, %u, %u) writes beyond the end of %s, %zu bytes of shared memory", b.index.x, b.index.y,
            b.index.z, a.name, a.size);
}

struct Site {  // a static shared array in the source
    const char* name;
    int id = -1;
};

TL_RUNTIME static void* shared_array(Site& site, std::size_t size) {
    Block& b = *current->block;
    if (site.id < 0) {
        if (sites == most_arrays) fail("shared memory: more than %d static arrays in a file", most_arrays);
        site.id = sites++;
    }
    Area& a = b.arrays[site.id];
    if (a.block == b.serial) return a.base;
    if (!a.base) a = take_area(size, site.name);
    if (!a.base) fail("shared memory: the system gives no %zu bytes", size);
    a.block = b.serial;  // its first use in this block
    poison(a.base, size);
    b.static_bytes += filled(size);
    if (b.static_bytes > static_limit)
        fail("static shared memory: %zu bytes; wanted at most %zu, or dynamic shared memory", b.static_bytes,
             static_limit);
    if (b.static_bytes + launch.shared > shared_limit)
        fail("shared memory: %zu bytes static and %zu dynamic; wanted at most %zu in all", b.static_bytes,
             launch.shared, shared_limit);
    return a.base;
}

TL_RUNTIME static void* dynamic_shared() {
    char* base = current->block->dynamic.base;
    if (!base) fail("dynamic shared memory: the launch asks for none; wanted shared=the bytes of it");
    return base;
}

// ---- fibers
TL_RUNTIME static void run_fiber() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &asan_bottom, &asan_size);
#endif
    for (;;) {
#if defined(__SANITIZE_THREAD__)
        __tsan_acquire(&launch);
#endif
        launch.invoke(launch.args);
        Thread& me = *current;
        me.state = ended;
        --me.block->alive;
        ++launch.activity;
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&own_pool);  // which the end of the launch acquires, but no other block
#endif
        suspend();
    }
}

// The fiber starts its kernel from the beginning when it is resumed.
TL_RUNTIME static void rewind(Thread& t) {
#ifdef TL_UCONTEXT
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack;
    t.context.uc_stack.ss_size = static_cast<std::size_t>(t.top - t.stack);
    t.context.uc_link = nullptr;
    makecontext(&t.context, run_fiber, 0);
#else
    void** sp = reinterpret_cast<void**>(t.top);
    *--sp = nullptr;
    *--sp = reinterpret_cast<void*>(run_fiber);
    for (int k = 0; k < 6; ++k) *--sp = nullptr;
    t.sp = sp;
#endif
}

// Room for `count` threads in the block. Their stacks stay for later launches.
TL_RUNTIME static bool more_threads(Block& b, std::size_t count) {
    if (b.room >= count) return true;
    Thread* threads = new Thread[count]();
    for (std::size_t k = 0; k < b.room; ++k) threads[k].stack = b.threads[k].stack, threads[k].top = b.threads[k].top;
    const std::size_t size = (count - b.room) * stack_size;
    char* map = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0));
    if (map == MAP_FAILED) {
        delete[] threads;
        return false;
    }
    for (std::size_t k = b.room; k < count; ++k, map += stack_size) {
        threads[k].stack = map + page;
        if (pool->stacks++ < guarded_stacks) mprotect(map, page, PROT_NONE);
        // tops lie at different places in their pages, or they would fight for the same lines of the cache
        threads[k].top = map + stack_size - 128 * (k % 31);
    }
    delete[] b.threads;
    b.threads = threads, b.room = count;
    for (std::size_t k = 0; k < count; ++k) rewind(threads[k]);
    return true;
}

// ---- waiting
TL_RUNTIME static void wait(State state, const char* what, Where where) {
    Thread& me = *current;
    me.state = state, me.what = what, me.where = where;
}

TL_RUNTIME static bool same(const Where& a, const Where& b) {
    return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file));
}

TL_RUNTIME static std::string state_of(const Thread& t, bool many) {
    if (t.state == ended) return many ? " have ended" : " has ended";
    if (t.state == ready) return std::string(many ? " go on " : " goes on ") + place_of(t);
    return (many ? " wait: " : " waits: ") + place_of(t);
}

// Who waits where, those in a row who wait at the same place together.
TL_RUNTIME static std::string list_of(const Block& b) {
    std::string text;
    int groups = 0;
    for (unsigned first = 0, k = 1; k <= launch.threads; ++k) {
        const bool many = k - first > 1;
        const std::string state = state_of(b.threads[first], many);
        if (k < launch.threads && state_of(b.threads[k], many) == state) continue;
        if (++groups > 12) return text + "\n  ... and others";
        text += many ? "\n  threads " + std::to_string(first) + " to " + std::to_string(k - 1)
                     : "\n  thread " + std::to_string(first);
        text += state;
        first = k;
    }
    return text;
}

TL_RUNTIME static const char* block_text(const Block& b) {
    static char text[64];
    std::snprintf(text, sizeof text, "block (%u, %u, %u)", b.index.x, b.index.y, b.index.z);
    return text;
}

// Waits for the whole block; how many threads of it brought a true p.
TL_RUNTIME static unsigned block_wait(const char* what, bool p, Where where) {
    Thread& me = *current;
    Block& b = *me.block;
    b.votes += p;
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&b.arrived);
#endif
    wait(at_barrier, what, where);
    if (!b.arrived) b.first = &me;
    else b.mixed |= what != b.first->what || !same(where, b.first->where);
    if (++b.arrived == launch.threads) {
        if (b.mixed) fail("%s: its threads meet at different barriers:%s", block_text(b), list_of(b).c_str());
        b.result = b.votes, b.votes = 0, b.arrived = 0;
        for (unsigned w = 0; w < (launch.threads + 31) / 32; ++w) b.warps[w].ready = b.warps[w].exists;
        ++launch.activity;
    }
    suspend();
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&b.arrived);
#endif
    return b.result;
}

// Waits for the warp's threads of the mask; the last one runs finish on the data of all.
TL_RUNTIME static void warp_wait(const char* what, unsigned mask, Finish finish, void* data, Where where) {
    Thread& me = *current;
    Warp& warp = me.block->warps[me.number / 32];
    Thread* lanes = &me - me.lane;
    mask &= warp.exists;
    if (!(mask >> me.lane & 1))
        fail("%s at %s:%d: %s is not in its own mask", what, where.file, where.line, name_of(me).c_str());
#if defined(__SANITIZE_THREAD__)
    __tsan_release(lanes);
#endif
    me.mask = mask, me.finish = finish, me.data = data;
    wait(at_warp, what, where);
    warp.waiting |= 1u << me.lane;
    if ((warp.waiting & mask) == mask) {
        for (unsigned left = mask; left; left &= left - 1) {
            const Thread& t = lanes[__builtin_ctz(left)];
            if (t.finish != finish || t.mask != mask || !same(t.where, where))
                fail("%s: a warp's threads meet at different places:%s", block_text(*me.block),
                     list_of(*me.block).c_str());
        }
#if defined(__SANITIZE_THREAD__)
        __tsan_acquire(lanes);
#endif
        finish(lanes, mask);
#if defined(__SANITIZE_THREAD__)
        __tsan_release(lanes);
#endif
        warp.waiting &= ~mask;
        warp.ready |= mask;
        ++launch.activity;
    }
    suspend();
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(lanes);
#endif
}

// A thread that looks at a flag again and again lets the others go on.
// Whether it did.
TL_RUNTIME static bool poll(const char* what, const void* flag, unsigned long long value, Where where) {
    Thread& me = *current;
    const bool again = me.flag == flag && me.flag_value == value;
    me.flag = flag, me.flag_value = value;
    if (!again && ++me.polls % 16) return false;
    wait(spinning, what, where);
    me.block->warps[me.number / 32].spinning |= 1u << me.lane;
    suspend();
    return true;
}

// ---- running
TL_RUNTIME static std::size_t permuted(std::size_t i, std::size_t n, int order) {
    if (order == 0 || n < 2) return i;
    if (order == 1) return n - 1 - i;
    std::size_t step = order == 2 ? 7 : 19;
    while (std::gcd(step, n) != 1) step += 2;
    return (i * step + (order == 2 ? 3 : 11)) % n;
}

// Runs the block's threads until none can go on; whether any could.
TL_RUNTIME static bool run_block(Block& b) {
    bool ran = false;
    for (bool more = true; more && b.alive;) {
        more = false;
        for (unsigned w : launch.warps) {
            Warp& warp = b.warps[w];
            while (warp.ready) {
                more = ran = true;
                const unsigned now = warp.ready;
                for (unsigned lane : launch.lanes)
                    if (now >> lane & 1) {
                        warp.ready &= ~(1u << lane);
                        Thread& t = b.threads[32 * w + lane];
                        t.state = ready;
                        resume(t);
                        if (launch.failed) return true;
                    }
                if (launch.order >= 2) break;  // the other warps' turn
            }
        }
    }
    return ran;
}

TL_RUNTIME static void start_block(Block& b, std::size_t number) {
    const Index& g = launch.grid;
    b.index = {static_cast<unsigned>(number % g.x), static_cast<unsigned>(number / g.x % g.y),
               static_cast<unsigned>(number / g.x / g.y)};
    b.serial = ++pool->serial, b.static_bytes = 0;
    b.arrived = b.votes = 0, b.alive = launch.threads, b.mixed = false;
    if (b.dynamic.base) poison(b.dynamic.base, b.dynamic.size);
    for (unsigned k = 0; k < launch.threads; ++k) {
        Thread& t = b.threads[k];
        const unsigned x = launch.size.x, y = launch.size.y;
        t.index = {k % x, k / x % y, k / x / y};
        t.number = k, t.lane = k % 32, t.block = &b, t.state = ready, t.what = "", t.where = {};
        t.flag = nullptr, t.polls = 0;
        t.copies.clear(), t.groups.clear();
#if defined(__SANITIZE_THREAD__)
        t.tsan = __tsan_create_fiber(0);
#endif
    }
    for (unsigned w = 0; w < (launch.threads + 31) / 32; ++w) {
        const unsigned n = launch.threads - 32 * w;
        b.warps[w].exists = b.warps[w].ready = n >= 32 ? ~0u : (1u << n) - 1;
        b.warps[w].waiting = b.warps[w].spinning = 0;
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&launch);
#endif
}

TL_RUNTIME static void end_block(Block& b) {
    if (b.dynamic.base) check_edges(b, b.dynamic);
    for (int k = 0; k < sites; ++k)
        if (b.arrays[k].base && b.arrays[k].block == b.serial) check_edges(b, b.arrays[k]);
#if defined(__SANITIZE_THREAD__)
    for (unsigned k = 0; k < launch.threads; ++k) __tsan_destroy_fiber(b.threads[k].tsan);
#endif
}

TL_RUNTIME static double seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Blocks live[0] .. live[n - 1] together, to their ends.
TL_RUNTIME static void run_blocks(Block** live, std::size_t n) {
    unsigned long long seen = launch.activity;
    double since = 0;
    int idle = 0;
    for (;;) {
        bool ran = false, alive = false, polls = false;
        for (std::size_t k = 0; k < n && !launch.failed; ++k) {
            Block& b = *live[permuted(k, n, launch.order)];
            if (b.alive) ran |= run_block(b);
            alive |= b.alive != 0;
        }
        if (launch.failed || !alive) return;
        for (std::size_t k = 0; k < n; ++k)
            for (unsigned w : launch.warps) {
                Warp& warp = live[k]->warps[w];
                polls |= warp.spinning != 0;
                warp.ready |= warp.spinning;
                warp.spinning = 0;
            }
        if (ran && launch.activity != seen) idle = 0;
        seen = launch.activity;
        if (polls && (idle++ == 0)) since = seconds();
        if (polls && (idle < 1000 || seconds() - since < 0.5)) continue;
        std::string text = polls ? "deadlock: flags are polled that nobody sets" : "deadlock: threads wait for others";
        if (polls && !launch.cooperative && launch.blocks > 1)
            text += " (blocks of an ordinary launch do not run together: wanted cooperative=True)";
        int told = 0;
        for (std::size_t k = 0; k < n && told < 4; ++k)
            if (live[k]->alive) {
                text += std::string("\n ") + block_text(*live[k]) + ":";
                text += list_of(*live[k]);
                ++told;
            }
        say("%s", text.c_str());
        return;
    }
}

// ---- faults that the processor reports
TL_RUNTIME static void on_signal(int number, siginfo_t* info, void*) {
    if (!current) {  // not ours
        std::signal(number, SIG_DFL);
        return;
    }
    const Thread& me = *current;
    const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
    char what[200];
    std::snprintf(what, sizeof what, "reads or writes memory that is not there, at %p", info->si_addr);
    if (number == SIGFPE) std::snprintf(what, sizeof what, "divides an integer by zero");
    else if (at < page) std::snprintf(what, sizeof what, "reads or writes through a null pointer (+%zu)", std::size_t(at));
    else if (at < reinterpret_cast<std::uintptr_t>(me.stack) && at + page >= reinterpret_cast<std::uintptr_t>(me.stack))
        std::snprintf(what, sizeof what, "has no stack left; wanted less than %zu bytes of local variables", stack_size);
    const auto beyond = [&](const Area& a) {
        const auto end = reinterpret_cast<std::uintptr_t>(a.map) + a.mapped;
        if (a.base && at >= end - page && at < end)
            std::snprintf(what, sizeof what, "goes %zu bytes beyond the end of %s, %zu bytes of shared memory",
                          static_cast<std::size_t>(at - reinterpret_cast<std::uintptr_t>(a.base) - a.size), a.name,
                          a.size);
    };
    beyond(me.block->dynamic);
    for (int k = 0; k < sites; ++k) beyond(me.block->arrays[k]);
    fail("%s %s (%s)", name_of(me).c_str(), what, place_of(me).c_str());
}

class Handlers {  // only while a kernel runs
    static constexpr int signals[3] = {SIGSEGV, SIGBUS, SIGFPE};
    struct sigaction before_[3];
    stack_t stack_before_;

public:
    TL_RUNTIME Handlers() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        static char stack[64 << 10];
        stack_t own = {};
        own.ss_sp = stack, own.ss_size = sizeof stack;
        sigaltstack(&own, &stack_before_);
        struct sigaction ours = {};
        ours.sa_sigaction = on_signal;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int k = 0; k < 3; ++k) sigaction(signals[k], &ours, &before_[k]);
#endif
    }
    TL_RUNTIME ~Handlers() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        for (int k = 0; k < 3; ++k) sigaction(signals[k], &before_[k], nullptr);
        sigaltstack(&stack_before_, nullptr);
#endif
    }
};

// What another library left behind: fibers in its code, arrays of its kernels.
TL_RUNTIME static void take_over() {
    if (pool->user == &launch) return;
    pool->user = &launch;
    for (Block* b : pool->blocks) {
        for (std::size_t k = 0; k < b->room; ++k) rewind(b->threads[k]);
        for (Area& a : b->arrays) {
            if (a.base) pool->spare.push_back(a);
            a = {};
        }
    }
}

TL_RUNTIME static void run_all() {
    take_over();
    auto& blocks = pool->blocks;
    const std::size_t together = launch.cooperative ? launch.blocks : 1;
    while (blocks.size() < together) blocks.push_back(new Block());
    for (std::size_t k = 0; k < together; ++k) {
        Block& b = *blocks[k];
        if (!more_threads(b, launch.threads)) return say("the system gives no memory for the stacks of threads");
        if (b.dynamic.size != launch.shared) {
            if (b.dynamic.base) pool->spare.push_back(b.dynamic);
            b.dynamic = launch.shared ? take_area(launch.shared, "the dynamic array") : Area{};
            if (launch.shared && !b.dynamic.base) return say("the system gives no memory for shared memory");
        }
    }
    for (unsigned k = 0; k < 32; ++k) launch.lanes[k] = static_cast<unsigned char>(permuted(k, 32, launch.order));
    launch.warps.resize((launch.threads + 31) / 32);
    for (std::size_t k = 0; k < launch.warps.size(); ++k)
        launch.warps[k] = static_cast<unsigned>(permuted(k, launch.warps.size(), launch.order));
    Handlers handlers;
#if defined(__SANITIZE_THREAD__)
    tsan_scheduler = __tsan_get_current_fiber();
#endif
    for (std::size_t first = 0; first < launch.blocks && !launch.failed; first += together) {
        for (std::size_t k = 0; k < together; ++k)
            start_block(*blocks[k], together > 1 ? k : permuted(first, launch.blocks, launch.order));
        run_blocks(blocks.data(), together);
        for (std::size_t k = 0; k < together; ++k) end_block(*blocks[k]);
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&own_pool);
#endif
    if (launch.failed)  // some fibers are left in the midst of their work
        for (std::size_t k = 0; k < together; ++k)
            for (std::size_t t = 0; t < blocks[k]->room; ++t) rewind(blocks[k]->threads[t]);
}

}  // namespace tl_emu
