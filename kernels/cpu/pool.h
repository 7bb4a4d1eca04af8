// The threads that kernels share: run(tasks, f) calls f(0) .. f(tasks - 1), each once, on the caller and its helpers.
//
// Tasks are cut by shape, never by the number of threads, and no two write the same element: results have the same
// bits for every number of threads. A helper that has nothing to do spins for two milliseconds, which is what lies
// between two kernels of a training step, lending its core to whoever wants it; then it sleeps (waking it again costs
// more than most kernels take). A kernel called inside a task runs on that thread alone. After a fork the child starts
// helpers of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#endif

namespace tl {

class Pool {
  public:
    static Pool& get() {
        Pool*& pool = instance();
        if (!pool) {
            pool = new Pool;  // never deleted: its threads may outlive every static
#if defined(__unix__) || defined(__APPLE__)
            static const int once = pthread_atfork(nullptr, nullptr, [] { instance() = nullptr; });
            (void)once;
#endif
        }
        return *pool;
    }

    static std::atomic<int>& threads() {
        static std::atomic<int> n{initial()};
        return n;
    }

    // Whether a kernel called now would run on this thread alone.
    static bool alone() { return inside() || threads().load(std::memory_order_relaxed) < 2; }

    template <class F>
    void run(int tasks, F f) {
        const int wanted = inside() ? 1 : std::min(threads().load(), tasks);
        std::unique_lock<std::mutex> mine(busy_, std::defer_lock);
        if (wanted < 2 || !mine.try_lock()) {  // too little, or somebody else's work is under way: do this alone
            for (int k = 0; k < tasks; ++k) f(k);
            return;
        }
        start_helpers(wanted - 1);
        call_ = [](void* body, int k) { (*static_cast<F*>(body))(k); };
        body_ = &f;
        left_.store(tasks, std::memory_order_relaxed);
        const std::uint64_t round = (turn_.load(std::memory_order_relaxed) >> 32) + 1;
        tasks_.store(tasks, std::memory_order_relaxed);
        helping_.store(wanted - 1, std::memory_order_relaxed);
        turn_.store(round << 32 | static_cast<std::uint32_t>(tasks));
        if (asleep_.load() > 0) {
            std::lock_guard<std::mutex> lock(sleep_);
            wake_.notify_all();
        }
        inside() = true;
        work(round);
        inside() = false;
        for (int spins = 0; left_.load(std::memory_order_acquire) > 0; ++spins) relax(spins);
    }

  private:
    static constexpr std::chrono::microseconds patience{2000};

    // Whether this thread is at work on a task.
    static bool& inside() {
        static thread_local bool in = false;
        return in;
    }

    static Pool*& instance() {
        static Pool* pool = nullptr;
        return pool;
    }

    static int initial() {
        int n = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
        cpu_set_t set;
        if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
#endif
        if (const char* text = std::getenv("OMP_NUM_THREADS")) {
            const int asked = std::atoi(text);
            if (asked > 0) n = std::min(n, asked);
        }
        return std::max(n, 1);
    }

    static void relax(int spins) {
#if defined(__x86_64__) || defined(__i386__)
        if (spins % 64 != 63) return __builtin_ia32_pause();
#else
        (void)spins;
#endif
        std::this_thread::yield();
    }

    // Takes tasks of this round until none is left. The round and what is left of it are one number, so a helper that
    // comes late to a round that is over can take nothing of the next one by mistake. Until it has taken a task, tasks_
    // may be the next round's already.
    void work(std::uint64_t round) {
        std::uint64_t turn = turn_.load(std::memory_order_acquire);
        for (;;) {
            const auto free = static_cast<int>(static_cast<std::uint32_t>(turn));
            if (turn >> 32 != round || free == 0) return;
            if (!turn_.compare_exchange_weak(turn, turn - 1, std::memory_order_acq_rel)) continue;
            call_(body_, tasks_.load(std::memory_order_relaxed) - free);
            left_.fetch_sub(1, std::memory_order_acq_rel);
            turn = turn_.load(std::memory_order_acquire);
        }
    }

    void help(int id) {
        inside() = true;
        std::uint64_t seen = 0;
        for (;;) {
            std::uint64_t round = turn_.load(std::memory_order_acquire) >> 32;
            const auto end = std::chrono::steady_clock::now() + patience;
            for (int spins = 1; round == seen; ++spins) {
                relax(spins);
                round = turn_.load(std::memory_order_acquire) >> 32;
                if (spins % 64 == 0 && std::chrono::steady_clock::now() > end) break;
            }
            if (round == seen) {
                std::unique_lock<std::mutex> lock(sleep_);
                ++asleep_;
                wake_.wait(lock, [&] { return turn_.load() >> 32 != seen; });
                --asleep_;
                continue;
            }
            seen = round;
            if (id < helping_.load(std::memory_order_relaxed)) work(round);
        }
    }

    void start_helpers(int n) {
        for (; helpers_ < n; ++helpers_) std::thread([this, id = helpers_] { help(id); }).detach();
    }

    std::mutex busy_, sleep_;
    std::condition_variable wake_;
    std::atomic<int> asleep_{0}, left_{0}, tasks_{0}, helping_{0};
    std::atomic<std::uint64_t> turn_{0};  // the round in the upper half, how many of its tasks nobody took in the lower
    void (*call_)(void*, int) = nullptr;
    void* body_ = nullptr;
    int helpers_ = 0;
};

}  // namespace tl
