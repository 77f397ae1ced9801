/* Which path is the fastest that runs here. */

#include "processor.h"

#ifdef X86

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
static int tiles_permitted(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0; }
#else
static int tiles_permitted(void) { return 0; }
#endif

static int best_path(void) {
    uint32_t a, b, c, d, low, high;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c & (1u << 27))) return PORTABLE; /* OSXSAVE */
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b >> 5 & 1)) return PORTABLE;
    const int wide = (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1); /* AVX-512 F, DQ, BW, VL */
    const int vnni = wide && (c >> 11 & 1);
    if ((low & 0xe6) != 0xe6 || !vnni) return AVX2;
    const int amx = (d >> 24 & 1) && (d >> 25 & 1) && (low >> 17 & 3) == 3;
    return amx && tiles_permitted() ? AMX : VNNI;
}

#else

static int best_path(void) { return PORTABLE; }

#endif

/* Goes up with every change of what is passed: `_LAYOUT` in library.py. */
enum { LAYOUT = 3 };

PUBLIC int lir_layout(void) { return LAYOUT; }

/* The last of the paths that runs here. */
PUBLIC int lir_best_path(void) { return best_path(); }
