/* Block maxima of late interaction over packed codes: the loop that touches every token vector.

   For every passage and each of its blocks of `block` tokens, the largest inner product of each query token with the
   block's tokens. Tokens are read where they lie, unpacked into a few kilobytes that stay in the first cache, and
   multiplied as unsigned bytes with the query's signed ones. All sums are integers, so every path gives the same bits.

   Codes: see lir_agents/codes.py. A token is `width` bytes; a byte holds 8 / bits codes, the lowest bits that of
   dimension j, the next ones that of dimension width + j, and so on ("planes"). A code c stands for
   (2 c - (2^bits - 1)) times half a step, which is why products are doubled and corrected at the end.

   Called through ctypes, which gives the interpreter's lock away. No allocation outlives a call; the only state is one
   thread that waits to help (helper.h). */

#include "helper.h"
#include "maxsim_paths.h"
#include "maxsim_turn.h"

/* ------------------------------------------------------------------ the passages */

/* Where the codes of passages lie: each at an address of its own, or end to end. */
typedef struct {
    const uint8_t *const *addresses; /* [count], of the first token */
    const int64_t *lengths;          /* [count], tokens of each, 0 is allowed */
    const uint8_t *codes;            /* the first token of all; NULL: they have addresses */
    const int64_t *offsets;          /* [count + 1], tokens before each passage, and at last all */
    int64_t count;
} Tokens;

static int64_t length_of(const Tokens *tokens, int64_t i) {
    return tokens->codes ? tokens->offsets[i + 1] - tokens->offsets[i] : tokens->lengths[i];
}

static const uint8_t *address_of(const Tokens *tokens, int64_t i, int width) {
    return tokens->codes ? tokens->codes + tokens->offsets[i] * width : tokens->addresses[i];
}

typedef struct {
    Work work;
    const Path *path;
    int amx, block;
    Plan plan;
    const Tokens *tokens;
    const int64_t *blocks; /* [count], those before each passage */
    int64_t next;          /* the first passage that nobody has taken */
    const int32_t *less;
    const float *scales;
    float *out, *whole;
    uint8_t *memory[2]; /* of looking_bytes, for whose work it is and for the helper */
} Comparing;

enum { TAKEN = 4, WORTH_HELP = 4096 }; /* passages at a time; tokens that take longer than waking somebody up */

static size_t looking_bytes(const Plan *plan) {
    return (size_t)GROUP * plan->depth + (size_t)plan->tiles * TILE * 4 * GROUP;
}

static Ahead tokens_ahead(const Comparing *work, int64_t passage, int64_t from) {
    if (from >= length_of(work->tokens, passage)) passage++, from = 0;
    if (passage >= work->tokens->count) return (Ahead){NULL, NULL};
    const int64_t left = length_of(work->tokens, passage) - from, width = work->plan.width;
    const char *at = (const char *)address_of(work->tokens, passage, (int)width) + from * width;
    return (Ahead){at, at + (left < GROUP ? left : GROUP) * width};
}

static void look_into(const Comparing *work, int64_t passage, uint8_t *memory) {
    const Plan *plan = &work->plan;
    const int64_t length = length_of(work->tokens, passage);
    const uint8_t *token = address_of(work->tokens, passage, plan->width);
    const int line = plan->tiles * TILE, block = work->block, of = work->path->of;
    int32_t *c = (int32_t *)(memory + (size_t)GROUP * plan->depth);
    Found found = {work->less, work->scales, work->out + work->blocks[passage] * plan->queries,
                   work->whole + passage * plan->queries, 1};
    if (!length)
        for (int q = 0; q < plan->queries; q++) found.whole[q] = -1;
    for (int64_t from = 0; from < length; from += GROUP) {
        const int held = (int)(length - from < GROUP ? length - from : GROUP), rows = (held + block - 1) / block * block;
        Ahead ahead = tokens_ahead(work, passage, from + held);
        work->path->unpack(plan, token + (size_t)from * plan->width, held, rows, memory);
        work->path->largest(plan, memory, rows, c, &ahead);
        for (int r = 0; r < rows; r += block, found.block += plan->queries, found.first = 0)
            work->path->finish(plan, c + (size_t)r / of * line, block / of, &found);
    }
}

/* Takes passages until none is left. */
static void look_through(Work *shared, int helping) {
    Comparing *work = (Comparing *)shared;
    TileConfig before;
    if (work->amx) take_tiles(&before);
    for (;;) {
        const int64_t start = __atomic_fetch_add(&work->next, TAKEN, __ATOMIC_RELAXED);
        if (start >= work->tokens->count) break;
        for (int64_t i = start; i < start + TAKEN && i < work->tokens->count; i++) look_into(work, i, work->memory[helping]);
    }
    if (work->amx) return_tiles(&before);
}

/* What twice a product is too large by, for each query token. */
static void corrections(const Plan *plan, int32_t *less) {
    for (int q = 0; q < plan->queries; q++) {
        int32_t sum = 0;
        for (int k = 0; k < plan->depth; k++) sum += plan->plain[(size_t)q * plan->depth + k];
        less[q] = sum * ((1 << plan->bits) - 1);
    }
}

static void tile(const Plan *plan, int8_t *out) {
    for (int q = 0; q < plan->queries; q++)
        for (int k = 0; k < plan->depth; k += 4) {
            int8_t *row = out + (size_t)(q / TILE) * plan->depth * TILE + k / 4 * LANE + q % TILE * 4;
            memcpy(row, plan->plain + (size_t)q * plan->depth + k, 4);
        }
}

/* ------------------------------------------------------------------ for callers */

/* Bytes of an unpacked token: what a row of `digits` has. */
PUBLIC int64_t lir_depth(int64_t bits, int64_t width) { return 8 / bits * (int64_t)lanes((int)width); }

/* A query, either in digits or as vectors that are still to be turned. */
typedef struct {
    const int8_t *digits; /* int8 [queries][lir_depth], zero where a plane is wider than the token; NULL: vectors */
    const float *scales;  /* float32 [queries], what a digit is worth */
    const float *vectors; /* float32 [queries][dim] */
    Rotation by;
    float half_worth;
    int32_t queries, dim, width, bits;
} Query;

/* out: float32 [sum of ceil(length / block)][queries], a block's largest (2 c - levels) . digits * scale.
   whole: float32 [count][queries], the largest of a passage's blocks, -1 where it has none.
   blocks: int64 [count + 1], written: the blocks before each passage, and at last all.
   path: 0 to lir_best_path. block: a multiple of 8 that divides 48. helped: whether a second thread may help.
   Returns 0, or -1 where there is no memory. */
PUBLIC int lir_block_maxima(int path, int helped, const Query *query, const Tokens *tokens, int block, float *out,
                            float *whole, int64_t *blocks) {
    Plan plan = plan_of(query->bits, query->width, query->queries, NULL, NULL);
    const size_t line = (size_t)plan.tiles * TILE, coded = line * plan.depth, looking = looking_bytes(&plan);
    const size_t turning = query->digits ? 0 : turning_bytes(query->dim), working = looking > turning ? looking : turning;
    uint8_t *memory = malloc(LANE + 2 * coded + line * 8 + working + LANE + looking);
    if (!memory) return -1;
    int8_t *plain = (int8_t *)(((uintptr_t)memory + LANE - 1) / LANE * LANE), *tiled = plain + coded;
    int32_t *less = (int32_t *)(tiled + coded);
    float *scales = (float *)(less + line);
    uint8_t *own = (uint8_t *)(scales + line), *of_helper = own + (working + LANE - 1) / LANE * LANE;
    memset(plain, 0, 2 * coded + line * 8);
    int64_t all = 0;
    blocks[0] = 0;
    for (int64_t i = 0; i < tokens->count; i++) {
        all += length_of(tokens, i);
        blocks[i + 1] = blocks[i] + (length_of(tokens, i) + block - 1) / block;
    }

    plan.plain = plain, plan.tiled = tiled;
    Comparing work = {{look_through}, &paths[path], path == AMX, block, plan, tokens, blocks, 0, less, scales, out,
                      whole, {own, of_helper}};
    if (query->digits) {
        memcpy(plain, query->digits, (size_t)plan.queries * plan.depth);
        memcpy(scales, query->scales, (size_t)plan.queries * 4);
    } else {
        TileConfig before;
        if (work.amx) take_tiles(&before);
        turn(path, &plan, query->vectors, query->dim, &query->by, query->half_worth, plain, scales, own);
        if (work.amx) return_tiles(&before);
    }
    corrections(&plan, less);
    tile(&plan, tiled);
    work_through(&work.work, helped && all >= WORTH_HELP);
    free(memory);
    return 0;
}
