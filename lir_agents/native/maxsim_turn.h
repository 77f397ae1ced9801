/* The query, turned as codes are and rounded to bytes. A part of maxsim.c.

   Every product of two 16-bit numbers is taken apart into four of bytes, by the same loop that compares tokens. What is
   done in float32 before and after it is done number by number, or a maximum, and hatch_build.py forbids to fuse products
   with sums: so every processor makes the same digits of the same query. The rotation takes half the memory it would in
   float32, and all of it has to be read for every query.

   Rows are meant to be of length 1. Those below 1e-35 count as zero. */

#define INLINE __attribute__((always_inline)) inline

enum { TURNED = 16, SHARE = 96, LARGEST = 32767, OFFSET = 128 };

/* The rotation's columns in 16 bits, as a high and a low signed byte each: what the query is turned by. Matrices are
   padded with zeros: columns to whole shares of 96, rows to `lanes(dim)`. */
typedef struct {
    const int8_t *plain[2]; /* [columns][lanes(dim)] */
    const int8_t *tiled[2]; /* the same as Plan.tiled */
    const int32_t *sums[2]; /* [columns], of a column's bytes */
    float worth;            /* of one unit */
} Rotation;

/* Adding it leaves no room behind the point: what is added to it comes out rounded, to even where it is half. */
static const float ROUNDER = 12582912.0f;

INLINE static int32_t rounded(float value) {
    const float sum = value + ROUNDER;
    int32_t bits;
    memcpy(&bits, &sum, 4);
    return bits - 0x4b400000;
}

/* Without their signs, numbers are ordered as their bits are: a maximum that compilers know how to take in any order. */
INLINE static float largest_of(const float *values, int count) {
    int32_t most = 0;
    for (int k = 0; k < count; k++) {
        int32_t bits;
        memcpy(&bits, values + k, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float found;
    memcpy(&found, &most, 4);
    return found;
}

INLINE static void digits_of(const float *restrict values, int count, float per_unit, int8_t *restrict out) {
    for (int j = 0; j < count; j++) out[j] = (int8_t)rounded(values[j] * per_unit);
}

/* Bytes that `turn` works in. */
static size_t turning_bytes(int dim) {
    return (size_t)2 * TURNED * (lanes(dim) + 2 * SHARE * 4) + TURNED * 4 * (size_t)(dim + SHARE);
}

/* query: float32 [queries][dim]. digits: [queries][depth], zeroed before. scales: what a digit is worth, by half_worth.
   Memory: lines of turning_bytes. */
INLINE static void turn_by(const Path *path, const Plan *plan, const float *query, int dim, const Rotation *by,
                           float half_worth, int8_t *digits, float *scales, uint8_t *memory) {
    const int deep = lanes(dim);
    uint8_t *high = memory, *low = high + TURNED * deep;
    int32_t *sums[2] = {(int32_t *)(low + TURNED * deep), (int32_t *)(low + TURNED * deep) + 2 * TURNED * SHARE};
    float *turned = (float *)(sums[1] + 2 * TURNED * SHARE), unit[TURNED];
    const int line = (dim + SHARE - 1) / SHARE * SHARE;
    memset(high, 0, (size_t)2 * TURNED * deep);
    for (int start = 0; start < plan->queries; start += TURNED) {
        const int held = plan->queries - start < TURNED ? plan->queries - start : TURNED;
        for (int i = 0; i < held; i++) {
            const float *row = query + (size_t)(start + i) * dim, most = largest_of(row, dim);
            unit[i] = most / LARGEST;
            const float per_unit = most > 0 ? LARGEST / most : 0;
            for (int k = 0; k < dim; k++) {
                const int32_t value = rounded(row[k] * per_unit);
                high[i * deep + k] = (uint8_t)((value >> 8) + OFFSET);
                low[i * deep + k] = (uint8_t)value;
            }
        }
        for (int column = 0; column < line; column += SHARE) {
            for (int part = 0; part < 2; part++) {
                const size_t at = (size_t)column * deep;
                const Plan share = plan_of(8, dim, SHARE, by->plain[part] + at, by->tiled[part] + at);
                const char *next = (const char *)(path->products == paths[PORTABLE].products ? share.plain : share.tiled);
                const size_t size = (size_t)SHARE * deep, more = column + SHARE < line ? size : 0;
                Ahead ahead = {next + size, next + size + more};
                path->products(&share, high, 2 * TURNED, sums[part], &ahead);
            }
            for (int i = 0; i < held; i++)
                for (int j = 0; j < SHARE; j++) {
                    const int at = i * SHARE + j, under = at + TURNED * SHARE;
                    const int32_t upper = sums[0][at] - OFFSET * by->sums[0][column + j];
                    const int32_t middle = sums[0][under] + sums[1][at] - OFFSET * by->sums[1][column + j];
                    turned[i * line + column + j] = 65536.0f * upper + (256.0f * middle + (float)sums[1][under]);
                }
        }
        for (int i = 0; i < held; i++) {
            const float *row = turned + i * line, most = largest_of(row, dim);
            const float per_unit = most > 0 ? 127 / most : 0;
            int8_t *out = digits + (size_t)(start + i) * plan->depth;
            for (int from = 0; from < dim; from += plan->width, out += plan->lane)
                digits_of(row + from, dim - from < plan->width ? dim - from : plan->width, per_unit, out);
            scales[start + i] = most / 127 * by->worth * half_worth * unit[i]; /* in this order: `most` may be large */
        }
    }
}

/* The same lines for wider registers. */
#define TURN(name, processor)                                                                                        \
    processor static void name(const Path *path, const Plan *plan, const float *query, int dim, const Rotation *by,    \
                               float half_worth, int8_t *digits, float *scales, uint8_t *memory) {                     \
        turn_by(path, plan, query, dim, by, half_worth, digits, scales, memory);                                       \
    }
TURN(turn_portable, )
#ifdef X86
TURN(turn_avx2, __attribute__((target("avx2"))))
TURN(turn_avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#else
#define turn_avx2 turn_portable
#define turn_avx512 turn_portable
#endif

static void turn(int path, const Plan *plan, const float *query, int dim, const Rotation *by, float half_worth,
                 int8_t *digits, float *scales, uint8_t *memory) {
    (path >= VNNI ? turn_avx512 : path == AVX2 ? turn_avx2 : turn_portable)(&paths[path], plan, query, dim, by,
                                                                          half_worth, digits, scales, memory);
}

