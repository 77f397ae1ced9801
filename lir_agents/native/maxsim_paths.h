/* What a processor does best with packed codes: how tokens are unpacked, multiplied with a query, and the largest
   products of a block found. All sums are integers, so every path gives the same bits. A part of maxsim.c. */

#include "processor.h"

enum { TILE = 16, GROUP = 48 };

typedef struct {
    int bits, planes, width; /* bytes of a stored token */
    int lane;                /* width, rounded up to whole lanes of 64 bytes */
    int depth;               /* bytes of an unpacked token: planes * lane */
    int queries, tiles;      /* query tokens, and tiles of 16 that hold them */
    const int8_t *plain;     /* [queries][depth] */
    const int8_t *tiled;     /* [tiles][depth / 64][16 rows of 4 dimensions][16 queries][4] */
} Plan;

static Plan plan_of(int bits, int width, int queries, const int8_t *plain, const int8_t *tiled) {
    const int planes = 8 / bits;
    return (Plan){bits, planes, width, lanes(width), planes * lanes(width), queries, (queries + TILE - 1) / TILE,
                  plain, tiled};
}

/* Codes that will be wanted next. They are asked for bit by bit while something else is multiplied: a core has few
   places to wait for memory with, and all of them idle meanwhile. */
typedef struct {
    const char *at, *end;
} Ahead;

static inline void ask(Ahead *ahead, int lines) {
    for (; lines > 0 && ahead->at < ahead->end; lines--, ahead->at += LANE) __builtin_prefetch(ahead->at, 0, 2);
}

/* What becomes of a block: its largest product for each query token, as a similarity. */
typedef struct {
    const int32_t *less; /* [tiles * 16], what twice a product is too large by */
    const float *scales; /* [tiles * 16] */
    float *block;        /* [queries], written */
    float *whole;        /* [queries], the largest so far */
    int first;           /* whether nothing stands in whole yet */
} Found;

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

static void products_portable(const Plan *plan, const uint8_t *a, int rows, int32_t *c, Ahead *ahead) {
    for (int r = 0; r < rows; r++) {
        ask(ahead, 3);
        for (int q = 0; q < plan->queries; q++) {
            const uint8_t *token = a + (size_t)r * plan->depth;
            const int8_t *query = plan->plain + (size_t)q * plan->depth;
            int32_t sum = 0;
            for (int k = 0; k < plan->depth; k++) sum += (int32_t)token[k] * query[k];
            c[r * plan->tiles * TILE + q] = sum;
        }
    }
}

static void finish_portable(const Plan *plan, const int32_t *c, int rows, const Found *found) {
    const int line = plan->tiles * TILE;
    for (int q = 0; q < plan->queries; q++) {
        int32_t most = c[q];
        for (int r = 1; r < rows; r++) most = c[r * line + q] > most ? c[r * line + q] : most;
        const float similarity = (float)(2 * most - found->less[q]) * found->scales[q];
        found->block[q] = similarity;
        if (found->first || similarity > found->whole[q]) found->whole[q] = similarity;
    }
}

/* ------------------------------------------------------------------ x86 */

#ifdef X86

__attribute__((target("avx2"))) static void products_avx2(const Plan *plan, const uint8_t *a, int rows, int32_t *c,
                                                           Ahead *ahead) {
    for (int r = 0; r < rows; r++) {
        ask(ahead, 3);
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
}

/* With the number of bits known to the compiler, and nothing read from the plan while bytes are written, which might
   be the plan's for all it knows: unpacking is much of the work. */
__attribute__((target("avx512f,avx512bw"), always_inline)) static inline void unpack_lanes(
    const uint8_t *token, int width, int held, int rows, uint8_t *out, const int bits) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    const int lane = (width + LANE - 1) / LANE * LANE, full = width / LANE * LANE;
    /* Nothing is loaded past a token's end: the next byte may lie behind the end of a mapped file. */
    const __mmask64 some = (1ULL << (width - full)) - 1;
    for (int r = 0; r < rows; r++, out += 8 / bits * lane) {
        for (int j = 0; j < lane; j += LANE) {
            __m512i bytes = j < full ? _mm512_loadu_si512(token + j) : _mm512_maskz_loadu_epi8(some, token + j);
            for (int p = 0; p < 8 / bits; p++) {
                _mm512_store_si512(out + p * lane + j, _mm512_and_si512(bytes, mask));
                if (bits < 8) bytes = _mm512_srli_epi16(bytes, bits < 8 ? bits : 0);
            }
        }
        if (r < held - 1) token += width;
    }
}

__attribute__((target("avx512f,avx512bw"))) static void unpack_avx512(const Plan *plan, const uint8_t *token,
                                                                       int held, int rows, uint8_t *out) {
    if (plan->bits == 4)
        unpack_lanes(token, plan->width, held, rows, out, 4);
    else if (plan->bits == 2)
        unpack_lanes(token, plan->width, held, rows, out, 2);
    else
        unpack_lanes(token, plan->width, held, rows, out, 8);
}

__attribute__((target("avx512f"))) static void finish_avx512(const Plan *plan, const int32_t *c, int rows,
                                                              const Found *found) {
    const int line = plan->tiles * TILE;
    for (int q = 0; q < plan->queries; q += TILE) {
        const __mmask16 some = plan->queries - q < TILE ? (__mmask16)((1 << (plan->queries - q)) - 1) : 0xffff;
        __m512i most = _mm512_loadu_si512(c + q);
        for (int r = 1; r < rows; r++) most = _mm512_max_epi32(most, _mm512_loadu_si512(c + r * line + q));
        most = _mm512_sub_epi32(_mm512_add_epi32(most, most), _mm512_loadu_si512(found->less + q));
        __m512 similarity = _mm512_mul_ps(_mm512_cvtepi32_ps(most), _mm512_loadu_ps(found->scales + q));
        _mm512_mask_storeu_ps(found->block + q, some, similarity);
        if (!found->first) similarity = _mm512_max_ps(similarity, _mm512_maskz_loadu_ps(some, found->whole + q));
        _mm512_mask_storeu_ps(found->whole + q, some, similarity);
    }
}

/* The largest of eight, number by number. */
__attribute__((target("avx512f"), always_inline)) static inline __m512i largest_of_eight(const __m512i *sums) {
    const __m512i first = _mm512_max_epi32(_mm512_max_epi32(sums[0], sums[1]), _mm512_max_epi32(sums[2], sums[3]));
    const __m512i second = _mm512_max_epi32(_mm512_max_epi32(sums[4], sums[5]), _mm512_max_epi32(sums[6], sums[7]));
    return _mm512_max_epi32(first, second);
}

/* Eight tokens against one or two tiles of 16 query tokens. What is read of a token serves both: where a processor
   multiplies 64 bytes in a cycle, fetching them one by one is what it waits for. Writes the products of each token, or
   of all eight the largest. */
__attribute__((target("avx512f,avx512bw,avx512vnni"), always_inline)) static inline void eight_vnni(
    const uint8_t *a, size_t depth, const int8_t *query, int32_t *c, size_t line, Ahead *ahead, const int two,
    const int largest) {
    const size_t tile = depth * TILE;
    __m512i sums[8], others[8];
    for (int i = 0; i < 8; i++) sums[i] = others[i] = _mm512_setzero_si512();
    for (size_t k = 0; k < depth; k += 4, query += LANE) {
        const __m512i of_query = _mm512_load_si512(query), of_beside = two ? _mm512_load_si512(query + tile) : of_query;
        if (k % LANE == 0) ask(ahead, two ? 8 : 4);
        for (int i = 0; i < 8; i++) {
            int32_t four;
            memcpy(&four, a + i * depth + k, 4);
            const __m512i of_token = _mm512_set1_epi32(four);
            sums[i] = _mm512_dpbusd_epi32(sums[i], of_token, of_query);
            if (two) others[i] = _mm512_dpbusd_epi32(others[i], of_token, of_beside);
        }
    }
    if (largest) {
        _mm512_storeu_si512(c, largest_of_eight(sums));
        if (two) _mm512_storeu_si512(c + TILE, largest_of_eight(others));
        return;
    }
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_si512(c + i * line, sums[i]);
        if (two) _mm512_storeu_si512(c + i * line + TILE, others[i]);
    }
}

__attribute__((target("avx512f,avx512bw,avx512vnni"), always_inline)) static inline void all_vnni(
    const Plan *plan, const uint8_t *a, int rows, int32_t *c, Ahead *ahead, const int largest) {
    const size_t depth = (size_t)plan->depth, line = (size_t)plan->tiles * TILE;
    for (int t = 0; t < plan->tiles; t += 2) {
        const int8_t *query = plan->tiled + t * depth * TILE;
        for (int r = 0; r < rows; r += 8) { /* rows are a multiple of 8 */
            int32_t *at = c + (largest ? r / 8 : r) * line + t * TILE;
            if (t + 1 < plan->tiles)
                eight_vnni(a + r * depth, depth, query, at, line, ahead, 1, largest);
            else
                eight_vnni(a + r * depth, depth, query, at, line, ahead, 0, largest);
        }
    }
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void products_vnni(const Plan *plan, const uint8_t *a,
                                                                                  int rows, int32_t *c, Ahead *ahead) {
    all_vnni(plan, a, rows, c, ahead, 0);
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void eighths_vnni(const Plan *plan, const uint8_t *a,
                                                                                 int rows, int32_t *c, Ahead *ahead) {
    all_vnni(plan, a, rows, c, ahead, 1);
}

/* Three tiles of 16 tokens against one or two tiles of 16 query tokens: six sums, one token tile, one query tile. */
__attribute__((target("amx-tile,amx-int8"))) static void products_amx(const Plan *plan, const uint8_t *a, int rows,
                                                                       int32_t *c, Ahead *ahead) {
    const size_t depth = (size_t)plan->depth, line = (size_t)plan->tiles * TILE;
    __asm__ volatile("" ::: "memory"); /* GCC 12's tile intrinsics do not say that they read and write memory */
    for (int t = 0; t < plan->tiles; t += 2) {
        const int two = t + 1 < plan->tiles, third = rows > 32;
        const int8_t *query = plan->tiled + t * depth * TILE;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_zero(4);
        _tile_zero(5);
        for (size_t k = 0; k < depth; k += LANE, query += LANE * TILE) {
            _tile_loadd(7, query, LANE);
            _tile_loadd(6, a + k, depth);
            _tile_dpbusd(0, 6, 7);
            ask(ahead, 4);
            if (third) {
                _tile_loadd(6, a + 32 * depth + k, depth);
                _tile_dpbusd(2, 6, 7);
                ask(ahead, 4);
            }
            _tile_loadd(6, a + 16 * depth + k, depth);
            _tile_dpbusd(1, 6, 7);
            ask(ahead, 4);
            if (!two) continue;
            _tile_loadd(7, query + depth * TILE, LANE);
            _tile_dpbusd(4, 6, 7);
            ask(ahead, 4);
            if (third) {
                _tile_loadd(6, a + 32 * depth + k, depth);
                _tile_dpbusd(5, 6, 7);
                ask(ahead, 4);
            }
            _tile_loadd(6, a + k, depth);
            _tile_dpbusd(3, 6, 7);
            ask(ahead, 4);
        }
        int32_t *at = c + t * TILE;
        _tile_stored(0, at, line * 4);
        _tile_stored(1, at + 16 * line, line * 4);
        if (third) _tile_stored(2, at + 32 * line, line * 4);
        if (!two) continue;
        _tile_stored(3, at + TILE, line * 4);
        _tile_stored(4, at + TILE + 16 * line, line * 4);
        if (third) _tile_stored(5, at + TILE + 32 * line, line * 4);
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

#else
typedef char TileConfig;
static void take_tiles(TileConfig *before) { (void)before; }
static void return_tiles(const TileConfig *before) { (void)before; }
#endif

/* ------------------------------------------------------------------ all of them */

typedef struct {
    void (*unpack)(const Plan *, const uint8_t *token, int held, int rows, uint8_t *out);
    void (*products)(const Plan *, const uint8_t *a, int rows, int32_t *c, Ahead *);
    void (*largest)(const Plan *, const uint8_t *a, int rows, int32_t *c, Ahead *); /* of each `of` tokens, 1 or 8 */
    int of;
    void (*finish)(const Plan *, const int32_t *c, int rows, const Found *);
} Path;

static const Path paths[] = {
    {unpack_portable, products_portable, products_portable, 1, finish_portable},
#ifdef X86
    {unpack_portable, products_avx2, products_avx2, 1, finish_portable},
    {unpack_avx512, products_vnni, eighths_vnni, 8, finish_avx512},
    {unpack_avx512, products_amx, products_amx, 1, finish_avx512},
#endif
};
