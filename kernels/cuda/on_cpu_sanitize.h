// What g++'s sanitizers must be told of the emulator: that fibers are threads, which waits order them, and which writes
// are none of the kernel's. Without a sanitizer all of it is empty.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define TL_SANITIZED  // and then the processor's faults are the sanitizer's to tell
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define TL_RUNTIME __attribute__((no_sanitize("thread")))  // the emulator's own state is no business of a race search
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#else
#define TL_RUNTIME
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace tl_emu {

#if defined(__SANITIZE_THREAD__)
constexpr bool sanitize_races = true;
static void* tsan_scheduler;

// What a thread did before it released p comes before what others do after they acquired p.
TL_RUNTIME static void sanitize_release(void* p) { __tsan_release(p); }
TL_RUNTIME static void sanitize_acquire(void* p) { __tsan_acquire(p); }
TL_RUNTIME static void* sanitize_fiber() { return __tsan_create_fiber(0); }
static void sanitize_start() {}  // the first words of a fiber
TL_RUNTIME static void sanitize_scheduler() { tsan_scheduler = __tsan_get_current_fiber(); }

struct Unseen {  // what is written meanwhile (by memset, mmap) is no write of this thread
    TL_RUNTIME Unseen() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
    TL_RUNTIME ~Unseen() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
};

struct Leaving {  // a fiber, for the scheduler
    TL_RUNTIME Leaving() { __tsan_switch_to_fiber(tsan_scheduler, __tsan_switch_to_fiber_no_sync); }
    TL_RUNTIME void back() {}
};

struct Entering {  // a fiber, from the scheduler
    template <class Fiber>
    TL_RUNTIME Entering(Fiber* f) {
        __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
    }
    TL_RUNTIME void back() {}
};
#else
constexpr bool sanitize_races = false;
static void sanitize_release(void*) {}
static void sanitize_acquire(void*) {}
static void* sanitize_fiber() { return nullptr; }
static void sanitize_scheduler() {}

struct Unseen {
    Unseen() {}
};

#if defined(__SANITIZE_ADDRESS__)
static const void* asan_bottom;  // of the scheduler's stack
static std::size_t asan_size;

static void sanitize_start() { __sanitizer_finish_switch_fiber(nullptr, &asan_bottom, &asan_size); }

struct Leaving {
    void* fake;
    Leaving() { __sanitizer_start_switch_fiber(&fake, asan_bottom, asan_size); }
    void back() { __sanitizer_finish_switch_fiber(fake, &asan_bottom, &asan_size); }
};

struct Entering {
    void* fake;
    template <class Fiber>
    Entering(Fiber* f) {
        __sanitizer_start_switch_fiber(&fake, f->stack, static_cast<std::size_t>(f->top - f->stack));
    }
    void back() { __sanitizer_finish_switch_fiber(fake, nullptr, nullptr); }
};
#else
static void sanitize_start() {}

struct Leaving {
    void back() {}
};

struct Entering {
    Entering(void*) {}
    void back() {}
};
#endif
#endif

}  // namespace tl_emu
