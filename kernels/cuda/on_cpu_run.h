// How the emulator runs a launch: threads wait at barriers, for their warp and on flags; blocks are started, run until
// nobody can go on, and ended; what cannot go on, and what the processor refuses, becomes an error.
#pragma once

#include "on_cpu_shared.h"

namespace tl_emu {

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
    sanitize_release(&b.arrived);
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
    sanitize_acquire(&b.arrived);
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
    sanitize_release(lanes);
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
        sanitize_acquire(lanes);
        finish(lanes, mask);
        sanitize_release(lanes);
        warp.waiting &= ~mask;
        warp.ready |= mask;
        ++launch.activity;
    }
    suspend();
    sanitize_acquire(lanes);
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
                        if (!resume(t)) say("the system gives no memory for the stacks of threads");
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
    static unsigned long long serial;
    b.serial = ++serial, b.static_bytes = 0;
    b.arrived = b.votes = 0, b.alive = launch.threads, b.mixed = false;
    renew(b.dynamic);
    if (b.dynamic.base) poison(b.dynamic.base, b.dynamic.size);
    for (unsigned k = 0; k < launch.threads; ++k) {
        Thread& t = b.threads[k];
        const unsigned x = launch.size.x, y = launch.size.y;
        t.index = {k % x, k / x % y, k / x / y};
        t.number = k, t.lane = k % 32, t.block = &b, t.state = ready, t.what = "", t.where = {};
        t.flag = nullptr, t.polls = 0, t.fenced = false;
        t.copies.clear(), t.groups.clear();
    }
    for (unsigned w = 0; w < (launch.threads + 31) / 32; ++w) {
        const unsigned n = launch.threads - 32 * w;
        b.warps[w].exists = b.warps[w].ready = n >= 32 ? ~0u : (1u << n) - 1;
        b.warps[w].waiting = b.warps[w].spinning = 0;
    }
    sanitize_release(&launch);
}

TL_RUNTIME static void end_block(Block& b) {
    if (b.dynamic.base) check_edges(b, b.dynamic);
    for (int k = 0; k < sites; ++k)
        if (b.arrays[k].base && b.arrays[k].block == b.serial) check_edges(b, b.arrays[k]);
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
    int quiet = 0;  // rounds in which nothing happened
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
        if (ran && launch.activity != seen) quiet = 0;
        seen = launch.activity;
        if (polls && (quiet++ == 0)) since = seconds();
        if (polls && (quiet < 1000 || seconds() - since < 0.5)) continue;
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
    const bool ours = pthread_equal(pthread_self(), launch.owner);
    if (number == SIGINT) {  // Ctrl-C ends a kernel too
        if (!ours) pthread_kill(launch.owner, SIGINT);
        else if (!current) say("interrupted");
        else fail("interrupted: %s (%s)", name_of(*current).c_str(), place_of(*current).c_str());
        return;
    }
    if (!ours || !current) {  // then the next fault, at the same place, is the system's
        std::signal(number, SIG_DFL);
        return;
    }
    const Thread& me = *current;
    const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
    char what[200];
    std::snprintf(what, sizeof what, "reads or writes memory that is not there, at %p", info->si_addr);
    if (number == SIGFPE) std::snprintf(what, sizeof what, "divides an integer by zero");
    else if (at < page)
        std::snprintf(what, sizeof what, "reads or writes through a null pointer (+%zu)", std::size_t{at});
    else if (const auto end = reinterpret_cast<std::uintptr_t>(me.fiber->stack); at < end && at + page >= end)
        std::snprintf(what, sizeof what, "has no stack left; wanted less than %zu bytes of variables", stack_size);
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
    static constexpr int signals[4] = {SIGSEGV, SIGBUS, SIGFPE, SIGINT};
    struct sigaction before_[4];
    stack_t stack_before_;

public:
    TL_RUNTIME Handlers() {
#ifndef TL_SANITIZED
        static char stack[64 << 10];
        stack_t own = {};
        own.ss_sp = stack, own.ss_size = sizeof stack;
        sigaltstack(&own, &stack_before_);
        struct sigaction ours = {};
        ours.sa_sigaction = on_signal;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int k = 0; k < 4; ++k) sigaction(signals[k], &ours, &before_[k]);
#endif
    }
    TL_RUNTIME ~Handlers() {
#ifndef TL_SANITIZED
        for (int k = 0; k < 4; ++k) sigaction(signals[k], &before_[k], nullptr);
        sigaltstack(&stack_before_, nullptr);
#endif
    }
};

TL_RUNTIME static void run_all() {
    if (pool->user != &launch) {  // another library's fibers wait in its code
        for (Fiber* f : pool->idle) rewind(*f);
        pool->user = &launch;
    }
    const std::size_t together = launch.cooperative ? launch.blocks : 1;
    while (blocks.size() < together) blocks.push_back(new Block());
    for (std::size_t k = 0; k < together; ++k) {
        Block& b = *blocks[k];
        if (b.room < launch.threads) {
            delete[] b.threads;
            b.threads = new Thread[launch.threads]();
            b.room = launch.threads;
        }
        if (b.dynamic.size != launch.shared) {
            if (b.dynamic.base) spare.push_back(b.dynamic);
            b.dynamic = launch.shared ? take_area(launch.shared, "the dynamic array") : Area{};
            if (launch.shared && !b.dynamic.base) return say("the system gives no memory for shared memory");
        }
    }
    for (unsigned k = 0; k < 32; ++k) launch.lanes[k] = static_cast<unsigned char>(permuted(k, 32, launch.order));
    launch.warps.resize((launch.threads + 31) / 32);
    for (std::size_t k = 0; k < launch.warps.size(); ++k)
        launch.warps[k] = static_cast<unsigned>(permuted(k, launch.warps.size(), launch.order));
    launch.owner = pthread_self();
    Handlers handlers;
    sanitize_scheduler();
    for (std::size_t first = 0; first < launch.blocks && !launch.failed; first += together) {
        for (std::size_t k = 0; k < together; ++k)
            start_block(*blocks[k], together > 1 ? k : permuted(first, launch.blocks, launch.order));
        run_blocks(blocks.data(), together);
        for (std::size_t k = 0; k < together; ++k) end_block(*blocks[k]);
    }
    sanitize_acquire(&blocks);
    if (launch.failed)  // some fibers are left in the midst of their work
        for (std::size_t k = 0; k < together; ++k)
            for (unsigned t = 0; t < launch.threads; ++t)
                if (Fiber*& f = blocks[k]->threads[t].fiber) {
                    rewind(*f);
                    pool->idle.push_back(f);
                    f = nullptr;
                }
}

}  // namespace tl_emu
