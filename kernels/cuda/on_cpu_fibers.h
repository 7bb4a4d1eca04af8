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
#include <pthread.h>
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
#include "on_cpu_sanitize.h"

namespace tl_emu {

// The place of a call, as an argument that the caller never writes: f(Where at = Where::here()).
struct Where {
    const char* file;
    int line;
    static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
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

struct Fiber {
    void* sp;  // where it stands between two threads
    char *stack, *top;
    void* tsan;  // as a race search sees it
#ifdef TL_UCONTEXT
    ucontext_t context;
#endif
};

struct Thread {
    void* sp;       // where its fiber stands; what a wait needs comes first, in one line of the cache
    Finish finish;  // of the collective that it waits in
    void* data;     // its part of that
    const char* what;  // it waits for, or called last
    Where where;
    unsigned mask;          // of the warp's threads that must come
    unsigned lane, number;  // in its warp, in its block
    State state;
    Block* block;
    Index index;
    const void* flag;  // last polled
    unsigned long long flag_value;
    int polls;
    bool fenced;                      // has called __threadfence
    Fiber* fiber;                     // from its start to its end
    std::vector<Copy> copies;         // cp.async not yet landed
    std::vector<std::size_t> groups;  // where committed groups of them end
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
constexpr unsigned most_threads = 1024;
constexpr std::size_t guarded_stacks = 8192;  // a guard page splits a mapping, and a process has only so many

struct Warp {
    unsigned exists, ready, waiting, spinning;  // one bit a lane; waiting: in a collective of the warp
};

struct Block {
    Index index;
    Thread* threads = nullptr;
    std::size_t room = 0;  // for so many
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
    pthread_t owner;  // the thread of the host that runs it
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

// From a fiber to the scheduler; comes back when the scheduler resumes the fiber.
TL_RUNTIME static inline void suspend() {
    Thread& me = *current;
    Leaving leaving;
#ifdef TL_UCONTEXT
    swapcontext(&me.fiber->context, &scheduler);
#else
    tl_emu_switch(&me.sp, scheduler);
#endif
    leaving.back();
}

TL_RUNTIME static inline void enter(Thread& t) {
    Entering entering(t.fiber);
#ifdef TL_UCONTEXT
    swapcontext(&scheduler, &t.fiber->context);
#else
    tl_emu_switch(&scheduler, t.sp);
#endif
    entering.back();
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
    const std::string place = std::string(t.what) + " at " + t.where.file + ":" + std::to_string(t.where.line);
    return t.state == ready ? "after " + place : place;
}

// Ends the launch from inside a kernel. The fiber is left where it is and made anew for the next launch.
template <class... A>
[[noreturn]] TL_RUNTIME static void fail(const char* format, A... args) {
    say(format, args...);
    for (;;) suspend();
}

// ---- fibers
static std::vector<Block*> blocks;

// Fibers, which all libraries of a process use in turn: a process has only so many mappings.
struct Pool {
    std::vector<Fiber*> idle;    // the last one was used last: its stack is warm
    std::size_t fibers = 0;      // that were made so far
    const void* user = nullptr;  // the library whose kernels ran last
};
static Pool own_pool;
static Pool* pool = &own_pool;

// A fiber runs one thread after another.
TL_RUNTIME static void run_fiber() {
    sanitize_start();
    for (;;) {
        sanitize_acquire(&launch);
        launch.invoke(launch.args);
        Thread& me = *current;
        me.state = ended;
        --me.block->alive;
        ++launch.activity;
        sanitize_release(&blocks);  // which the end of the launch acquires, but no other block
        suspend();
    }
}

TL_RUNTIME static void rewind(Fiber& f) {
#ifdef TL_UCONTEXT
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = static_cast<std::size_t>(f.top - f.stack);
    f.context.uc_link = nullptr;
    makecontext(&f.context, run_fiber, 0);
#else
    void** sp = reinterpret_cast<void**>(f.top);
    *--sp = nullptr;
    *--sp = reinterpret_cast<void*>(run_fiber);
    for (int k = 0; k < 6; ++k) *--sp = nullptr;
    f.sp = sp;
#endif
}

TL_RUNTIME static bool more_fibers() {
    constexpr std::size_t count = 61;
    void* got = mmap(nullptr, count * stack_size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (got == MAP_FAILED) return false;
    for (std::size_t k = 0; k < count; ++k) {
        char* map = static_cast<char*>(got) + k * stack_size;
        Fiber* f = new Fiber();
        f->stack = map + page;
        if (pool->fibers++ < guarded_stacks) mprotect(map, page, PROT_NONE);
        // tops lie at different places in their pages, or they would fight for the same lines of the cache
        f->top = map + stack_size - 128 * (k % 31);
        f->tsan = sanitize_fiber();
        rewind(*f);
        pool->idle.push_back(f);
    }
    return true;
}

// Starts a thread, or goes on with it. False if there is no memory for its stack.
TL_RUNTIME static bool resume(Thread& t) {
    if (!t.fiber) {
        // threads of a block, and thread 0 of one block and of the next, must not look like one to a race search
        if (sanitize_races ? pool->idle.size() <= launch.threads : pool->idle.empty())
            if (!more_fibers()) return false;
        auto& idle = pool->idle;
        const auto next = sanitize_races ? idle.begin() : idle.end() - 1;
        t.fiber = *next, t.sp = t.fiber->sp;
        idle.erase(next);
    }
    current = &t;
    enter(t);
    current = nullptr;
    if (t.state == ended) {
        t.fiber->sp = t.sp;
        pool->idle.push_back(t.fiber);
        t.fiber = nullptr;
    }
    return true;
}

}  // namespace tl_emu
