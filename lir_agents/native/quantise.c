/* Token vectors to codes of few bits: what `TokenCodec.encode` asks for, with coordinates counted in steps.

   Every coordinate gets the nearest code; then a few that lie between two get the other one, those first that cost
   least for what they bring, until the vector's inner product with its codes is as large as wanted. Number by number
   in float32, sums in sixteen lanes: the same bits everywhere, and in native/quantise.py. A path for
   each kind of processor, as in maxsim.c, was no faster. */

#include "processor.h"

/* As in native/quantise.py: lanes of a sum, and most coordinates of a vector that get the other code. */
enum { SUMS = 16, MOVES = 24 };

/* Steps from the nearest code at which a coordinate lies between two. */
static const float BETWEEN = 0.25f;

typedef struct {
    const float *steps; /* float32 [rows][dim] */
    uint8_t *data;      /* [rows][width], written: codes `width` apart share a byte, the first has its lowest bits */
    int64_t rows;
    int32_t dim, width, bits;
    float kept; /* what part of a vector's square its product with its codes should be; 0: whatever it is */
} Vectors;

/* Room for one vector. */
typedef struct {
    float *codes, *prices, *gains; /* [dim] */
    uint64_t *orders;              /* [dim] */
} Room;

static float sum(float *lanes) {
    for (int width = SUMS / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] = lanes[i] + lanes[i + width];
    return lanes[0];
}

static void add_products(const float *restrict steps, const float *restrict codes, float middle, int count,
                         float *restrict squares, float *restrict products) {
    for (int i = 0; i < count; i++) {
        squares[i] = squares[i] + steps[i] * steps[i];
        products[i] = products[i] + (codes[i] - middle) * steps[i];
    }
}

/* The nearest codes. Returns how much the product with them should grow. */
static float round_off(const Vectors *vectors, const float *restrict steps, float *restrict codes) {
    const int dim = vectors->dim;
    const float most = (float)((1 << vectors->bits) - 1), middle = most / 2, above = (most + 1) / 2;
    float squares[SUMS] = {0}, products[SUMS] = {0};
    for (int k = 0; k < dim; k++) {
        float code = steps[k] + above;
        code = code > 0 ? code : 0; /* what is no number, too */
        codes[k] = (float)(int32_t)(code < most ? code : most);
    }
    for (int k = 0; k < dim / SUMS * SUMS; k += SUMS)
        add_products(steps + k, codes + k, middle, SUMS, squares, products);
    add_products(steps + dim / SUMS * SUMS, codes + dim / SUMS * SUMS, middle, dim % SUMS, squares, products);
    return vectors->kept * sum(squares) - sum(products);
}

/* What the other code would bring for each coordinate, and its price; 0 where there is nothing to be gained. */
static void price(const Vectors *vectors, const float *restrict steps, const Room *room, float sign) {
    const float most = (float)((1 << vectors->bits) - 1), middle = most / 2;
    const float *restrict codes = room->codes;
    float *restrict prices = room->prices, *restrict gains = room->gains;
    for (int k = 0; k < vectors->dim; k++) {
        const float rest = steps[k] - (codes[k] - middle), way = rest < 0 ? -1.0f : 1.0f, far = rest * way;
        const float gain = way * steps[k] * sign, moved = codes[k] + way;
        const int useful = (far >= BETWEEN) & (gain > 0) & (moved >= 0) & (moved <= most);
        gains[k] = useful ? gain : 0;
        const float cost = 1 - 2 * far; /* a little below 0 where the sum that made the code was rounded */
        prices[k] = (cost > 0 ? cost : 0) / (useful ? gain : 1);
    }
}

/* The coordinates with the lowest prices, of equal ones the first; returns how many. A price is no less than 0, so its
   bits are in the order of what they stand for. */
static int cheapest(const Room *room, int dim, uint64_t *found) {
    int useful = 0, held = 0;
    for (int k = 0; k < dim; k++) { /* without branches: what is useful is as random as any */
        uint32_t bits;
        memcpy(&bits, room->prices + k, sizeof bits);
        room->orders[useful] = (uint64_t)bits << 32 | (uint32_t)k;
        useful += room->gains[k] > 0;
    }
    for (int j = 0; j < useful; j++) {
        const uint64_t one = room->orders[j];
        if (held == MOVES && one > found[held - 1]) continue;
        int at = held < MOVES ? held++ : MOVES - 1;
        for (; at && found[at - 1] > one; at--) found[at] = found[at - 1];
        found[at] = one;
    }
    return held;
}

static void align(const Vectors *vectors, const float *steps, const Room *room, float wanted) {
    const float middle = (float)((1 << vectors->bits) - 1) / 2, size = wanted < 0 ? -wanted : wanted;
    uint64_t found[MOVES];
    price(vectors, steps, room, wanted < 0 ? -1.0f : 1.0f);
    const int count = cheapest(room, vectors->dim, found);
    float gained = 0;
    for (int i = 0; i < count; i++) {
        const int k = (int)(uint32_t)found[i];
        gained = gained + room->gains[k];
        /* As long as half of the next step still brings it nearer. */
        if (gained - room->gains[k] / 2 < size) room->codes[k] += steps[k] < room->codes[k] - middle ? -1.0f : 1.0f;
    }
}

static void pack(const Vectors *vectors, const float *restrict codes, uint8_t *restrict data) {
    const int width = vectors->width, dim = vectors->dim;
    memset(data, 0, (size_t)width);
    for (int start = 0, shift = 0; start < dim; start += width, shift += vectors->bits) {
        const int held = dim - start < width ? dim - start : width;
        for (int j = 0; j < held; j++) data[j] |= (uint8_t)((int32_t)codes[start + j] << shift);
    }
}

static void quantise(const Vectors *vectors, int64_t row, const Room *room) {
    const float *steps = vectors->steps + row * vectors->dim;
    const float wanted = round_off(vectors, steps, room->codes);
    if (vectors->kept && (wanted < 0 || wanted > 0)) align(vectors, steps, room, wanted);
    pack(vectors, room->codes, vectors->data + row * vectors->width);
}

/* Returns 0, or -1 where there is no memory. */
PUBLIC int lir_quantise(const Vectors *vectors) {
    const size_t dim = (size_t)vectors->dim;
    uint64_t *held = malloc(dim * (sizeof(uint64_t) + 3 * sizeof(float)) + 1);
    if (!held) return -1;
    float *numbers = (float *)(held + dim);
    const Room room = {numbers, numbers + dim, numbers + 2 * dim, held};
    for (int64_t row = 0; row < vectors->rows; row++) quantise(vectors, row, &room);
    free(held);
    return 0;
}
