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
    Index index;
    unsigned lane, number;  // in its warp, in its block
    Block* block;
    State state;
    const char* what;  // it waits for, or called last
    Where where;
    unsigned mask;   // of the warp's threads that must come
    Finish finish;   // which collective it waits in
    void* data;      // its part of that collective
    const void* flag;  // last polled
    unsigned long long flag_value;
    int polls;
    std::vector<Copy> copies;       // cp.async not yet landed
    std::vector<std::size_t> groups;  // where committed groups of them end
    void* sp;  // of its fiber
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
};

constexpr int most_arrays = 256;  // static shared arrays of a source file
constexpr std::size_t page = 4096, stack_size = 256 << 10, static_limit = 48 << 10, shared_limit = 227 << 10;
constexpr unsigned most_threads = 1024, multiprocessors = 132;
constexpr std::size_t guarded_stacks = 8192;  // a guard page splits a mapping, and a process has only so many

struct Warp {
    unsigned exists, ready, spinning;  // one bit a lane
};

struct Block {
    Index index;
    Thread* threads = nullptr;
    std::size_t room = 0;  // threads that it has stacks for
    Warp warps[most_threads / 32];
    unsigned arrived, votes, result, alive;
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
    std::size_t static_bytes;
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
    if (!t.where.file) return "at its start";
    return std::string(t.what) + " at " + t.where.file + ":" + std::to_string(t.where.line);
}

// Ends the launch from inside a kernel. The fiber is left where it is and made anew for the next launch.
template <class... A>
[[noreturn]] TL_RUNTIME static void fail(const char* format, A... args) {
    say(format, args...);
    for (;;) suspend();
}

// ---- memory
TL_RUNTIME static Area area(std::size_t size) {
    const std::size_t used = (size + 15) / 16 * 16, pages = (used + page - 1) / page * page + page;
    char* map = static_cast<char*>(
        mmap(nullptr, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (map == MAP_FAILED) return {};
    mprotect(map + pages - page, page, PROT_NONE);
    return {map + pages - page - used, size, map, pages};
}

static std::vector<Area> spare;  // areas to use again
static std::size_t stacks;  // that were made so far
static std::vector<Block*> blocks;

// All bytes 0xff: a NaN in every floating-point type, -1 in every integer.
TL_RUNTIME static void poison(void* p, std::size_t size) { std::memset(p, 0xff, size); }

TL_RUNTIME static Area take_area(std::size_t size) {
    for (std::size_t k = 0; k < spare.size(); ++k)
        if (spare[k].size == size) {
            const Area found = spare[k];
            spare[k] = spare.back();
            spare.pop_back();
            poison(found.base, size);
            return found;
        }
    const Area made = area(size);
    if (made.base) poison(made.base, size);
    return made;
}

struct Site {
    int id = -1;
};

TL_RUNTIME static void* shared_array(Site& site, std::size_t size) {
    Thread& me = *current;
    if (site.id < 0) site.id = sites++;
    if (site.id >= most_arrays) fail("shared memory: more than %d static arrays", most_arrays);
    Area& a = me.block->arrays[site.id];
    if (!a.base) {
        a = take_area(size);
        if (!a.base) fail("shared memory: the system gives no %zu bytes", size);
        std::size_t bytes = 0;
        for (int k = 0; k < sites; ++k) bytes += me.block->arrays[k].base ? me.block->arrays[k].size : 0;
        if (bytes > static_limit)
            fail("static shared memory: %zu bytes; wanted at most %zu, or dynamic shared memory", bytes, static_limit);
        if (bytes + launch.shared > shared_limit)
            fail("shared memory: %zu bytes static and %zu dynamic; wanted at most %zu in all", bytes, launch.shared,
                 shared_limit);
    }
    return a.base;
}

// ---- fibers
TL_RUNTIME static void run_fiber() {
    for (;;) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(nullptr, &asan_bottom, &asan_size);
#endif
        launch.invoke(launch.args);
        Thread& me = *current;
        me.state = ended;
        --me.block->alive;
        ++launch.activity;
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&launch);
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
        if (stacks++ < guarded_stacks) mprotect(map, page, PROT_NONE);
        // tops lie at different places in their pages, or they would fight for the same lines of the cache
        threads[k].top = map + stack_size - 128 * (k % 31);
    }
    delete[] b.threads;
    b.threads = threads, b.room = count;
    for (std::size_t k = 0; k < count; ++k) rewind(threads[k]);
    return true;
}

// ---- waiting
TL_RUNTIME static void wake(Thread& t) {
    t.state = ready;
    t.block->warps[t.number / 32].ready |= 1u << t.lane;
}

TL_RUNTIME static void wait(State state, const char* what, Where where) {
    Thread& me = *current;
    me.state = state, me.what = what, me.where = where;
}

TL_RUNTIME static bool same(const Where& a, const Where& b) {
    return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file));
}

TL_RUNTIME static std::string list_of(const Block& b) {
    std::string text;
    int groups = 0;
    for (unsigned first = 0, k = 1; k <= launch.threads; ++k) {
        const Thread &t = b.threads[first], &next = b.threads[k < launch.threads ? k : first];
        if (k < launch.threads && next.state == t.state &&
            (t.state == ended || (next.where.file && t.where.file && same(t.where, next.where) && t.what == next.what)))
            continue;
        if (++groups > 12) return text + "\n  ... and others";
        text += "\n  thread" + (k - first > 1 ? "s " + std::to_string(first) + " to " + std::to_string(k - 1)
                                              : " " + std::to_string(first));
        text += k - first > 1 ? (t.state == ended ? " have ended" : " wait: ") : (t.state == ended ? " has ended" : " waits: ");
        if (t.state != ended) text += place_of(t);
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
    if (++b.arrived == launch.threads) {
        for (unsigned k = 0; k < launch.threads; ++k)
            if (b.threads[k].what != b.threads[0].what || !same(b.threads[k].where, b.threads[0].where))
                fail("%s: its threads meet at different barriers:%s", block_text(b), list_of(b).c_str());
        b.result = b.votes, b.votes = 0, b.arrived = 0;
        for (unsigned k = 0; k < launch.threads; ++k) wake(b.threads[k]);
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
    Block& b = *me.block;
    Thread* lanes = b.threads + (me.number - me.lane);
    mask &= b.warps[me.number / 32].exists;
    if (!(mask >> me.lane & 1))
        fail("%s at %s:%d: %s is not in its own mask", what, where.file, where.line, name_of(me).c_str());
#if defined(__SANITIZE_THREAD__)
    __tsan_release(lanes);
#endif
    me.mask = mask, me.finish = finish, me.data = data;
    wait(at_warp, what, where);
    bool all = true;
    for (unsigned left = mask; left && all; left &= left - 1) all = lanes[__builtin_ctz(left)].state == at_warp;
    if (all) {
        for (unsigned left = mask; left; left &= left - 1) {
            const Thread& t = lanes[__builtin_ctz(left)];
            if (t.finish != finish || t.mask != mask || !same(t.where, where))
                fail("%s: a warp's threads meet at different places:%s", block_text(b), list_of(b).c_str());
        }
        finish(lanes, mask);
        for (unsigned left = mask; left; left &= left - 1) wake(lanes[__builtin_ctz(left)]);
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
                        resume(b.threads[32 * w + lane]);
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
    b.arrived = b.votes = 0, b.alive = launch.threads;
    if (b.dynamic.base) poison(b.dynamic.base, b.dynamic.size);
    for (int k = 0; k < sites && k < most_arrays; ++k)
        if (b.arrays[k].base) poison(b.arrays[k].base, b.arrays[k].size);
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
        b.warps[w].spinning = 0;
    }
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
                for (unsigned left = warp.spinning; left; left &= left - 1)
                    wake(live[k]->threads[32 * w + static_cast<unsigned>(__builtin_ctz(left))]);
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
                for (unsigned t = 0; t < launch.threads; ++t)
                    if (live[k]->threads[t].state == ready) live[k]->threads[t].state = spinning;
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
    else if (at - reinterpret_cast<std::uintptr_t>(me.stack) + page < page)
        std::snprintf(what, sizeof what, "has no stack left: more than %zu bytes of local variables", stack_size);
    const auto beyond = [&](const Area& a, const char* which) {
        const auto end = reinterpret_cast<std::uintptr_t>(a.map) + a.mapped;
        if (a.base && at >= end - page && at < end)
            std::snprintf(what, sizeof what, "goes %zu bytes beyond %s shared memory of %zu bytes",
                          static_cast<std::size_t>(at - reinterpret_cast<std::uintptr_t>(a.base) - a.size), which, a.size);
    };
    beyond(me.block->dynamic, "dynamic");
    for (int k = 0; k < sites && k < most_arrays; ++k) beyond(me.block->arrays[k], "a static array of");
    fail("%s %s, after %s", name_of(me).c_str(), what, place_of(me).c_str());
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

TL_RUNTIME static void run_all() {
    const std::size_t together = launch.cooperative ? launch.blocks : 1;
    while (blocks.size() < together) blocks.push_back(new Block());
    for (std::size_t k = 0; k < together; ++k) {
        Block& b = *blocks[k];
        if (!more_threads(b, launch.threads)) return say("the system gives no memory for the stacks of threads");
        if (b.dynamic.size != launch.shared) {
            if (b.dynamic.base) spare.push_back(b.dynamic);
            b.dynamic = launch.shared ? take_area(launch.shared) : Area{};
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
    }
    if (launch.failed)  // some fibers are left in the midst of their work
        for (std::size_t k = 0; k < together; ++k)
            for (std::size_t t = 0; t < blocks[k]->room; ++t) rewind(blocks[k]->threads[t]);
}

}  // namespace tl_emu
