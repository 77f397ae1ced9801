/* Block maxima of late interaction over packed codes: the loop that touches every token vector.

   For every passage and each of its blocks of `block` tokens, the largest inner product of each query token with the
   block's tokens. Tokens are read where they lie, unpacked into a few kilobytes that stay in the first cache, and
   multiplied as unsigned bytes with the query's signed ones; all sums are integers, so every path gives the same bits.

   Codes: see lir_agents/codes.py. A token is `width` bytes; a byte holds 8 / bits codes, the lowest bits that of
   dimension j, the next ones that of dimension width + j, and so on ("planes"). A code c stands for
   (2 c - (2^bits - 1)) times half a step, which is why products are doubled and corrected at the end.

   Called through ctypes, which gives the interpreter's lock away. No allocation outlives a call, no state is kept. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

enum { PORTABLE = 0, AVX2 = 1, VNNI = 2, AMX = 3 };
enum { LANE = 64, TILE = 16, GROUP = 48 };

typedef struct {
    int bits, planes, width; /* bytes of a stored token */
    int lane;                /* width, rounded up to whole lanes of 64 bytes */
    int depth;               /* bytes of an unpacked token: planes * lane */
    int queries, tiles;      /* query tokens, and tiles of 16 that hold them */
    const int8_t *plain;     /* [queries][depth] */
    const int8_t *tiled;     /* [depth / 64][tiles][16 rows of 4 dimensions][16 queries][4] */
} Plan;

/* ------------------------------------------------------------------ portable */

/* `held` tokens from `token` on, side by side, into `rows` rows: a short block repeats its last token, which changes no
   maximum. */
static void unpack_portable(const Plan *plan, const uint8_t *token, int held, int rows, uint8_t *out) {
    const uint8_t mask = (uint8_t)((1 << plan->bits) - 1);
    for (int r = 0; r < rows; r++, out += plan->depth) {
        const uint8_t *one = token + (size_t)(r < held ? r : held - 1) * plan->width;
        for (int p = 0; p < plan->planes; p++)
            for (int j = 0; j < plan->width; j++)
                out[p * plan->lane + j] = (uint8_t)(one[j] >> (p * plan->bits)) & mask;
    }
}

static void products_portable(const Plan *plan, const uint8_t *a, int rows, int32_t *c) {
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < plan->queries; q++) {
            const uint8_t *token = a + (size_t)r * plan->depth;
            const int8_t *query = plan->plain + (size_t)q * plan->depth;
            int32_t sum = 0;
            for (int k = 0; k < plan->depth; k++) sum += (int32_t)token[k] * query[k];
            c[r * plan->tiles * TILE + q] = sum;
        }
}

static void largest_portable(const Plan *plan, const int32_t *c, int rows, int32_t *out) {
    const int line = plan->tiles * TILE;
    memcpy(out, c, sizeof(int32_t) * line);
    for (int r = 1; r < rows; r++)
        for (int q = 0; q < line; q++) out[q] = c[r * line + q] > out[q] ? c[r * line + q] : out[q];
}

/* ------------------------------------------------------------------ x86 */

#ifdef X86

__attribute__((target("avx2"))) static void products_avx2(const Plan *plan, const uint8_t *a, int rows, int32_t *c) {
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < plan->queries; q++) {
            const uint8_t *token = a + (size_t)r * plan->depth;
            const int8_t *query = plan->plain + (size_t)q * plan->depth;
            __m256i sum = _mm256_setzero_si256();
            for (int k = 0; k < plan->depth; k += 16) {
                const __m256i of_token = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(token + k)));
                const __m256i of_query = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(query + k)));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(of_token, of_query));
            }
            int32_t parts[8];
            _mm256_storeu_si256((__m256i *)parts, sum);
            c[r * plan->tiles * TILE + q] =
                parts[0] + parts[1] + parts[2] + parts[3] + parts[4] + parts[5] + parts[6] + parts[7];
        }
}

/* With the number of bits known to the compiler: unpacking is most of the work. */
__attribute__((target("avx512f,avx512bw"), always_inline)) static inline void unpack_lanes(
    const Plan *plan, const uint8_t *token, int held, int rows, uint8_t *out, const int bits) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    /* Tokens are read from a file that is mapped: what comes 16 tokens later is asked for in time. Nothing is loaded
       past a token's end, because the next byte may lie behind the end of the file; asking for it does no harm. */
    const int last = plan->lane - LANE;
    const __mmask64 some = ~0ULL >> (plan->lane - plan->width);
    for (int r = 0; r < rows; r++, out += plan->depth) {
        const uint8_t *one = token + (size_t)(r < held ? r : held - 1) * plan->width;
        for (int j = 0; j <= last; j += LANE) {
            _mm_prefetch((const char *)one + 16 * plan->width + j, _MM_HINT_T0);
            __m512i bytes = j < last ? _mm512_loadu_si512(one + j) : _mm512_maskz_loadu_epi8(some, one + j);
            for (int p = 0; p < 8 / bits; p++) {
                _mm512_store_si512(out + p * plan->lane + j, _mm512_and_si512(bytes, mask));
                if (bits < 8) bytes = _mm512_srli_epi16(bytes, bits < 8 ? bits : 0);
            }
        }
    }
}

__attribute__((target("avx512f,avx512bw"))) static void unpack_avx512(const Plan *plan, const uint8_t *token,
                                                                       int held, int rows, uint8_t *out) {
    if (plan->bits == 4)
        unpack_lanes(plan, token, held, rows, out, 4);
    else if (plan->bits == 2)
        unpack_lanes(plan, token, held, rows, out, 2);
    else
        unpack_lanes(plan, token, held, rows, out, 8);
}

__attribute__((target("avx512f"))) static void largest_avx512(const Plan *plan, const int32_t *c, int rows,
                                                               int32_t *out) {
    const int line = plan->tiles * TILE;
    for (int q = 0; q < line; q += TILE) {
        __m512i most = _mm512_loadu_si512(c + q);
        for (int r = 1; r < rows; r++) most = _mm512_max_epi32(most, _mm512_loadu_si512(c + r * line + q));
        _mm512_storeu_si512(out + q, most);
    }
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void products_vnni(const Plan *plan, const uint8_t *a,
                                                                                  int rows, int32_t *c) {
    const size_t depth = (size_t)plan->depth, line = (size_t)plan->tiles * TILE;
    for (int t = 0; t < plan->tiles; t++)
        for (int r = 0; r < rows; r += 8) { /* rows are a multiple of 8 */
            __m512i sums[8];
            for (int i = 0; i < 8; i++) sums[i] = _mm512_setzero_si512();
            for (size_t k = 0; k < depth; k += 4) {
                const int8_t *tile = plan->tiled + ((k / LANE) * plan->tiles + t) * 1024;
                const __m512i query = _mm512_load_si512(tile + (k % LANE) / 4 * LANE);
                for (int i = 0; i < 8; i++) {
                    int32_t four;
                    memcpy(&four, a + (r + i) * depth + k, 4);
                    sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_set1_epi32(four), query);
                }
            }
            for (int i = 0; i < 8; i++) _mm512_storeu_si512(c + (r + i) * line + t * TILE, sums[i]);
        }
}

/* Three tiles of 16 tokens against one or two tiles of 16 query tokens: six sums, one token tile, one query tile. */
__attribute__((target("amx-tile,amx-int8"))) static void products_amx(const Plan *plan, const uint8_t *a, int rows,
                                                                       int32_t *c) {
    const size_t depth = (size_t)plan->depth, line = (size_t)plan->tiles * TILE;
    __asm__ volatile("" ::: "memory"); /* GCC 12's tile intrinsics do not say that they read and write memory */
    for (int t = 0; t < plan->tiles; t += 2) {
        const int two = t + 1 < plan->tiles, third = rows > 32;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_zero(4);
        _tile_zero(5);
        for (size_t k = 0; k < depth; k += LANE) {
            const int8_t *query = plan->tiled + ((k / LANE) * plan->tiles + t) * 1024;
            _tile_loadd(7, query, LANE);
            _tile_loadd(6, a + k, depth);
            _tile_dpbusd(0, 6, 7);
            if (third) {
                _tile_loadd(6, a + 32 * depth + k, depth);
                _tile_dpbusd(2, 6, 7);
            }
            _tile_loadd(6, a + 16 * depth + k, depth);
            _tile_dpbusd(1, 6, 7);
            if (!two) continue;
            _tile_loadd(7, query + 1024, LANE);
            _tile_dpbusd(4, 6, 7);
            if (third) {
                _tile_loadd(6, a + 32 * depth + k, depth);
                _tile_dpbusd(5, 6, 7);
            }
            _tile_loadd(6, a + k, depth);
            _tile_dpbusd(3, 6, 7);
        }
        int32_t *at = c + t * TILE;
        _tile_stored(0, at, line * 4);
        _tile_stored(1, at + 16 * line, line * 4);
        _tile_stored(2, at + 32 * line, line * 4);
        if (!two) continue;
        _tile_stored(3, at + TILE, line * 4);
        _tile_stored(4, at + TILE + 16 * line, line * 4);
        _tile_stored(5, at + TILE + 32 * line, line * 4);
    }
    __asm__ volatile("" ::: "memory");
}

typedef struct {
    uint8_t bytes[64];
} TileConfig;

/* Other libraries of the process use the tiles, too, and may rely on the shapes that they set. Spelled out, because
   GCC 12's intrinsics name only the first 8 of these 64 bytes to the optimiser. */
__attribute__((target("amx-tile"))) static void take_tiles(TileConfig *before) {
    TileConfig ours;
    memset(&ours, 0, sizeof ours);
    ours.bytes[0] = 1;
    for (int i = 0; i < 8; i++) ours.bytes[16 + 2 * i] = 64, ours.bytes[48 + i] = 16;
    __asm__ volatile("sttilecfg %0" : "=m"(*before));
    __asm__ volatile("ldtilecfg %0" ::"m"(ours));
}

__attribute__((target("amx-tile"))) static void return_tiles(const TileConfig *before) {
    if (before->bytes[0])
        __asm__ volatile("ldtilecfg %0" ::"m"(*before));
    else
        _tile_release();
}

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
    const int vnni = (b >> 16 & 1) && (b >> 30 & 1) && (c >> 11 & 1); /* AVX-512 F, BW, VNNI */
    if ((low & 0xe6) != 0xe6 || !vnni) return AVX2;
    const int amx = (d >> 24 & 1) && (d >> 25 & 1) && (low >> 17 & 3) == 3;
    return amx && tiles_permitted() ? AMX : VNNI;
}

#else
static int best_path(void) { return PORTABLE; }
#endif

/* ------------------------------------------------------------------ all paths */

static int8_t *tiled_queries(const Plan *plan, int8_t *out) {
    memset(out, 0, (size_t)plan->depth * plan->tiles * TILE);
    for (int q = 0; q < plan->queries; q++)
        for (int k = 0; k < plan->depth; k += 4) {
            int8_t *tile = out + ((size_t)(k / LANE) * plan->tiles + q / TILE) * 1024;
            memcpy(tile + (k % LANE) / 4 * LANE + q % TILE * 4, plan->plain + (size_t)q * plan->depth + k, 4);
        }
    return out;
}

/* What a processor does best: how tokens are unpacked, multiplied, and the largest products found. */
typedef struct {
    void (*unpack)(const Plan *, const uint8_t *, int, int, uint8_t *);
    void (*products)(const Plan *, const uint8_t *, int, int32_t *);
    void (*largest)(const Plan *, const int32_t *, int, int32_t *);
} Path;

static const Path paths[] = {
    {unpack_portable, products_portable, largest_portable},
#ifdef X86
    {unpack_portable, products_avx2, largest_portable},
    {unpack_avx512, products_vnni, largest_avx512},
    {unpack_avx512, products_amx, largest_avx512},
#endif
};

/* The last of the paths above that runs here. */
PUBLIC int lir_best_path(void) { return best_path(); }

/* Bytes of an unpacked token: what a row of `digits` has. */
PUBLIC int64_t lir_depth(int64_t bits, int64_t width) { return 8 / bits * ((width + LANE - 1) / LANE * LANE); }

/* passages: the address of the first token of each; lengths: tokens of each, 0 is allowed.
   digits: int8 [queries][lir_depth], zero where a plane is wider than the token; scales: float32 [queries].
   out: float32 [sum of ceil(length / block)][queries], a block's largest (2 c - levels) . digits * scale.
   whole: float32 [count][queries], the largest of a passage's blocks; what stood there where it has none.
   path: 0 to lir_best_path. block: a multiple of 8 that divides 48. Returns 0, or -1 where there is no memory. */
PUBLIC int lir_block_maxima(int path, const uint8_t *const *passages, const int64_t *lengths, int64_t count, int bits,
                            int width, const int8_t *digits, const float *scales, int queries, int block, float *out,
                            float *whole) {
    Plan plan = {bits, 8 / bits, width, 0, (int)lir_depth(bits, width), queries, (queries + TILE - 1) / TILE, digits, 0};
    plan.lane = plan.depth / plan.planes;
    const size_t line = (size_t)plan.tiles * TILE, unpacked = (size_t)GROUP * plan.depth;
    uint8_t *memory = calloc(unpacked + line * plan.depth + line * 4 * (GROUP + 2) + LANE, 1);
    if (!memory) return -1;
    uint8_t *a = (uint8_t *)(((uintptr_t)memory + LANE - 1) / LANE * LANE);
    plan.tiled = tiled_queries(&plan, (int8_t *)a + unpacked);
    int32_t *c = (int32_t *)(a + unpacked + line * plan.depth), *best = c + line * GROUP, *less = best + line;
    for (int q = 0; q < queries; q++)
        for (int k = 0; k < plan.depth; k++) less[q] += digits[(size_t)q * plan.depth + k] * ((1 << bits) - 1);
#ifdef X86
    TileConfig before;
    if (path == AMX) take_tiles(&before);
#endif
    for (int64_t i = 0; i < count; i++, whole += queries)
        for (int64_t from = 0; from < lengths[i]; from += GROUP) {
            const int held = (int)(lengths[i] - from < GROUP ? lengths[i] - from : GROUP);
            const int rows = (held + block - 1) / block * block;
            const uint8_t *token = passages[i] + (size_t)from * width;
            paths[path].unpack(&plan, token, held, rows, a);
            paths[path].products(&plan, a, rows, c);
            for (int r = 0; r < rows; r += block) {
                paths[path].largest(&plan, c + r * line, block, best);
                const int first = from + r == 0;
                for (int q = 0; q < queries; q++, out++) {
                    *out = (float)(2 * best[q] - less[q]) * scales[q];
                    whole[q] = first || *out > whole[q] ? *out : whole[q];
                }
            }
        }
#ifdef X86
    if (path == AMX) return_tiles(&before);
#endif
    free(memory);
    return 0;
}
