/* Bounds on the inner products of vectors with many int8 codes, and the k-th largest of the lower ones: the loop that
   reads every code of a scan. See lir_agents/stores/scan.py for what becomes of them.

   A vector comes in two digits, so each product is two sums of integers, which every path gives alike; what is done in
   float32 after it is done number by number, and hatch_build.py forbids to fuse products with sums. Codes are read once
   for all vectors: a block of them stays in the nearest caches. No allocation outlives a call. */

#include "helper.h"
#include "processor.h"

#define INLINE __attribute__((always_inline)) static inline

/* Codes that lie anywhere among others. */
typedef struct {
    const int8_t *codes;   /* int8 [][dim] */
    const float *scales;   /* float32 [], what a code is worth */
    const float *errors;   /* float32 [], the length of what rounding lost of a vector */
    const int32_t *places; /* int32 [count], which of them */
    int64_t count;
    int32_t dim;
} Codes;

typedef struct {
    const int8_t *digits; /* int8 [2][lanes(dim)], zero beyond dim: the first, and 254ths of it */
    float unit;           /* what a first digit is worth */
    float lost;           /* the length of what both digits lose */
} Vector;

/* Codes that are looked at together, that a thread takes at a time, and how many codes early one is asked for. */
enum { BLOCK = 48, TAKEN = 32 * BLOCK, AHEAD = 24 };
enum { UNKNOWN = -1 };
enum { WORTH_HELP = 8 << 20 }; /* bytes, for each vector, that take longer than waking somebody up */

/* ------------------------------------------------------------------ two products of each code */

typedef struct {
    const Codes *codes;
    const int32_t *places; /* [rows], and as many as are left behind them */
    int rows;              /* <= BLOCK */
    int64_t left;          /* places that will be wanted, these included; 0: their codes are here already */
    const int8_t *digits[2];
    int32_t *sums[2]; /* [BLOCK], written */
} Products;

static inline const int8_t *code(const Codes *codes, int32_t place) { return codes->codes + (size_t)place * codes->dim; }

/* A code that will be wanted soon, to be asked for; at the end, one that is there already. */
static inline const int8_t *ahead(const Products *p, int r) {
    return code(p->codes, p->places[r + AHEAD < p->left ? r + AHEAD : 0]);
}

static void multiply_portable(const Products *p) {
    for (int r = 0; r < p->rows; r++) {
        const int8_t *one = code(p->codes, p->places[r]);
        int32_t first = 0, second = 0;
        const int8_t *next = ahead(p, r);
        for (int k = 0; k < p->codes->dim; k += LANE) __builtin_prefetch(next + k, 0, 2);
        for (int k = 0; k < p->codes->dim; k++) {
            first += (int32_t)one[k] * p->digits[0][k];
            second += (int32_t)one[k] * p->digits[1][k];
        }
        p->sums[0][r] = first, p->sums[1][r] = second;
    }
}

#ifdef X86

__attribute__((target("avx2"), always_inline)) static inline int32_t sum_avx2(__m256i sums) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

__attribute__((target("avx2"))) static void multiply_avx2(const Products *p) {
    const int dim = p->codes->dim, whole = dim / 16 * 16;
    for (int r = 0; r < p->rows; r++) {
        const int8_t *one = code(p->codes, p->places[r]);
        __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        const int8_t *next = ahead(p, r);
        for (int k = 0; k < p->codes->dim; k += LANE) __builtin_prefetch(next + k, 0, 2);
        for (int k = 0; k < whole; k += 16) {
            const __m256i of_code = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(one + k)));
            for (int d = 0; d < 2; d++) {
                const __m256i digits = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p->digits[d] + k)));
                sums[d] = _mm256_add_epi32(sums[d], _mm256_madd_epi16(of_code, digits));
            }
        }
        for (int d = 0; d < 2; d++) {
            int32_t sum = sum_avx2(sums[d]);
            for (int k = whole; k < dim; k++) sum += (int32_t)one[k] * p->digits[d][k];
            p->sums[d][r] = sum;
        }
    }
}

/* The sum of each of four registers. */
__attribute__((target("avx512f"), always_inline)) static inline __m128i four_sums(const __m512i *sums) {
    __m256i half[4];
    for (int i = 0; i < 4; i++)
        half[i] = _mm256_add_epi32(_mm512_castsi512_si256(sums[i]), _mm512_extracti64x4_epi64(sums[i], 1));
    const __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(half[0], half[1]), _mm256_hadd_epi32(half[2], half[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

/* Four codes at a time. The instruction wants one side unsigned: codes with 128 added, taken off again at the end. */
__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void multiply_vnni(const Products *p) {
    const int dim = p->codes->dim, whole = dim / LANE * LANE;
    /* Nothing is loaded past a code's end: the next byte may be nobody's. */
    const __mmask64 some = (1ULL << (dim - whole)) - 1;
    const __m512i flip = _mm512_set1_epi8((char)0x80), none = _mm512_setzero_si512();
    __m512i more[4] = {none, none, none, none};
    for (int d = 0; d < 2; d++)
        for (int k = 0; k < dim; k += LANE)
            more[d] = _mm512_dpbusd_epi32(more[d], flip, _mm512_loadu_si512(p->digits[d] + k));
    int32_t less[4];
    _mm_storeu_si128((__m128i *)less, four_sums(more));
    for (int r = 0; r < p->rows; r += 4) {
        const int8_t *one[4], *next[4];
        __m512i sums[2][4];
        for (int i = 0; i < 4; i++) {
            one[i] = code(p->codes, p->places[r + i < p->rows ? r + i : p->rows - 1]);
            next[i] = ahead(p, r + i);
            sums[0][i] = sums[1][i] = none;
        }
        for (int k = 0; k < dim; k += LANE) {
            const __m512i digits[2] = {_mm512_loadu_si512(p->digits[0] + k), _mm512_loadu_si512(p->digits[1] + k)};
            for (int i = 0; i < 4; i++) {
                __m512i bytes = k < whole ? _mm512_loadu_si512(one[i] + k) : _mm512_maskz_loadu_epi8(some, one[i] + k);
                bytes = _mm512_xor_si512(bytes, flip);
                __builtin_prefetch(next[i] + k, 0, 2);
                sums[0][i] = _mm512_dpbusd_epi32(sums[0][i], bytes, digits[0]);
                sums[1][i] = _mm512_dpbusd_epi32(sums[1][i], bytes, digits[1]);
            }
        }
        for (int d = 0; d < 2; d++) /* there is room for the last one's repetitions */
            _mm_storeu_si128((__m128i *)(p->sums[d] + r), _mm_sub_epi32(four_sums(sums[d]), _mm_set1_epi32(less[d])));
    }
}

#endif

/* ------------------------------------------------------------------ the largest */

/* The k largest of what came, the least of them on top. */
typedef struct {
    float *values; /* [k], a heap */
    int64_t held, most;
} Largest;

static void push(Largest *largest, float value) {
    float *heap = largest->values;
    int64_t at;
    if (largest->held < largest->most) {
        for (at = largest->held++; at && heap[(at - 1) / 2] > value; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    } else {
        if (!(value > heap[0])) return;
        for (at = 0;;) {
            int64_t child = 2 * at + 1;
            if (child >= largest->held) break;
            if (child + 1 < largest->held && heap[child + 1] < heap[child]) child++;
            if (heap[child] >= value) break;
            heap[at] = heap[child], at = child;
        }
    }
    heap[at] = value;
}

/* ------------------------------------------------------------------ the scan */

typedef struct {
    Work work;
    void (*multiply)(const Products *);
    const Codes *codes;
    const Vector *vectors;
    int count; /* of vectors */
    float rounding;
    float *upper;        /* [count][codes->count], written */
    Largest *largest[2]; /* [count] each, of whose work it is and of the helper */
    int64_t next;        /* the first place that nobody has taken */
} Scan;

/* Number by number, so that compilers may take many at once. */
INLINE void bound(const Scan *scan, const Products *products, const Vector *vector, float *restrict upper,
                  float *restrict lower) {
    const Codes *codes = scan->codes;
    const float unit = vector->unit, lost = vector->lost, rounding = scan->rounding;
    for (int r = 0; r < products->rows; r++) {
        const int32_t place = products->places[r];
        float score = (float)products->sums[1][r] * (1 / 254.0f);
        score = score + (float)products->sums[0][r];
        score = score * codes->scales[place];
        score = score * unit;
        const float error = codes->errors[place], most = error + lost * (1 + error) + rounding;
        lower[r] = score - most, upper[r] = score + most;
    }
}

INLINE void look_at(const Scan *scan, int64_t from, int rows, int i, Largest *largest) {
    const Codes *codes = scan->codes;
    const Vector *vector = scan->vectors + i;
    int32_t sums[2][BLOCK];
    float lower[BLOCK];
    const Products products = {codes, codes->places + from, rows, i ? 0 : codes->count - from,
                               {vector->digits, vector->digits + lanes(codes->dim)}, {sums[0], sums[1]}};
    scan->multiply(&products);
    bound(scan, &products, vector, scan->upper + i * codes->count + from, lower);
    int more = largest->held < largest->most;
    const float top = more ? 0 : largest->values[0];
    for (int r = 0; r < rows; r++) more |= lower[r] > top;
    for (int r = 0; more && r < rows; r++) push(largest, lower[r]);
}

INLINE void look_through(Work *work, int helping) {
    Scan *scan = (Scan *)work;
    for (;;) {
        const int64_t start = __atomic_fetch_add(&scan->next, TAKEN, __ATOMIC_RELAXED);
        if (start >= scan->codes->count) break;
        const int64_t left = scan->codes->count - start, end = start + (left < TAKEN ? left : TAKEN);
        for (int64_t from = start; from < end; from += BLOCK)
            for (int i = 0; i < scan->count; i++)
                look_at(scan, from, (int)(end - from < BLOCK ? end - from : BLOCK), i, scan->largest[helping] + i);
    }
}

/* The same lines for wider registers. */
static void look_portable(Work *work, int helping) { look_through(work, helping); }
#ifdef X86
__attribute__((target("avx2"))) static void look_avx2(Work *work, int helping) { look_through(work, helping); }
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static void look_avx512(Work *work, int helping) {
    look_through(work, helping);
}
#endif

/* places: int32 [rows + 1], written: of the allowed rows, ascending, those that lie somewhere.
   position: int32 [rows], where each row lies, or UNKNOWN, or less where it is known to lie nowhere.
   Returns how many, or -1 where an allowed row is unknown. */
PUBLIC int64_t lir_places(const uint8_t *allowed, const int32_t *position, int64_t rows, int32_t *places) {
    int64_t count = 0;
    int unknown = 0;
    for (int64_t row = 0; row < rows; row++) { /* without branches: masks are as random as any */
        places[count] = position[row];
        count += (allowed[row] != 0) & (position[row] >= 0);
        unknown |= (allowed[row] != 0) & (position[row] == UNKNOWN);
    }
    return unknown ? -1 : count;
}

/* upper: float32 [count][codes->count], the largest that each product can be.
   least: float32 [count], the k-th largest of the least that each can be, for every vector.
   k: at least 1 and at most codes->count. path: 0 to lir_best_path. helped: whether a second thread may help.
   Returns 0, or -1 where there is no memory. */
PUBLIC int lir_product_bounds(int path, int helped, const Codes *codes, const Vector *vectors, int count, int64_t k,
                              float rounding, float *upper, float *least) {
    const size_t heads = (size_t)2 * count;
    Largest *largest = malloc(heads * sizeof *largest + heads * (size_t)k * sizeof(float) + 1);
    if (!largest) return -1;
    float *values = (float *)(largest + heads);
    for (size_t i = 0; i < heads; i++) largest[i] = (Largest){values + i * (size_t)k, 0, k};
    Scan scan = {{look_portable}, multiply_portable, codes, vectors, count, rounding, upper, {largest, largest + count}, 0};
    (void)path; /* elsewhere there is but one */
#ifdef X86
    if (path >= AVX2) scan.multiply = multiply_avx2, scan.work.share = look_avx2;
    if (path >= VNNI) scan.multiply = multiply_vnni, scan.work.share = look_avx512;
#endif
    work_through(&scan.work, helped && codes->count * codes->dim * count >= WORTH_HELP);
    for (int i = 0; i < count; i++) {
        const Largest *of_helper = largest + count + i;
        for (int64_t j = 0; j < of_helper->held; j++) push(largest + i, of_helper->values[j]);
        least[i] = largest[i].values[0];
    }
    free(largest);
    return 0;
}
