// Words written to device memory by a launch: they come as its arguments, so nothing is copied from the host, and a
// stream that is being captured takes it too. Floor: a launch. 64 words at a time, in eights; `to` has room for all.
#include "device.cuh"

#define TAKES(r) Word r##0, Word r##1, Word r##2, Word r##3, Word r##4, Word r##5, Word r##6, Word r##7
#define PUTS(r, at)                                                               \
    to[at] = r##0, to[at + 1] = r##1, to[at + 2] = r##2, to[at + 3] = r##3,      \
    to[at + 4] = r##4, to[at + 5] = r##5, to[at + 6] = r##6, to[at + 7] = r##7

typedef long long Word;

// One thread.
extern "C" __global__ void write_words(Word* to, TAKES(a), TAKES(b), TAKES(c), TAKES(d), TAKES(e), TAKES(f), TAKES(g),
                                       TAKES(h)) {
    PUTS(a, 0), PUTS(b, 8), PUTS(c, 16), PUTS(d, 24), PUTS(e, 32), PUTS(f, 40), PUTS(g, 48), PUTS(h, 56);
}
