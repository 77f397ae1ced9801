/* What the processor can do, and what is padded to how much. All paths give the same bits. */

#ifndef LIR_PROCESSOR_H
#define LIR_PROCESSOR_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

enum { PORTABLE = 0, AVX2 = 1, VNNI = 2, AMX = 3 };
enum { LANE = 64 };

static inline int lanes(int bytes) { return (bytes + LANE - 1) / LANE * LANE; }

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

#endif
