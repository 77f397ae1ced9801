"""Ranking against oracles of a few lines, over everything that can be generated."""

import subprocess
import sys
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.arrays import PackedTokens
from lir_agents.codes import TokenCodec, quantise_int8
from lir_agents.native import maxsim as native
from lir_agents.native.library import paths
from lir_agents.ranking.fusion import FusionWeights, best_first, fuse, neighbour_part, standardise
from lir_agents.ranking.kernels import block_maxima, similarities
from lir_agents.ranking.maxsim import ABSENT, BLOCK_TOKENS, maxsim, meet


def oracle(query, matrices, weights=None):
    """MaxSim as the paper writes it, averaged over the query."""
    scores = []
    for matrix in matrices:
        best = [max((float(q @ d) for d in matrix), default=-1.0) for q in query]
        scores.append(np.average(best, weights=weights))
    return np.array(scores)


def pack(matrices, bits=8):
    """Matrices as codes of so many bits, or as they are."""
    if bits is None:
        return PackedTokens.pack(matrices, None)
    codec = TokenCodec(matrices[0].shape[1], bits)
    return PackedTokens.pack([codec.encode(matrix) for matrix in matrices], codec)


def unit(rng, n, dim):
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def scene(seed, lengths, q_len, dim, negative=False):
    rng = np.random.default_rng(seed)
    query, matrices = unit(rng, q_len, dim), [unit(rng, n, dim) for n in lengths]
    if negative:  # everything in opposite orthants: every similarity is below zero
        query, matrices = np.abs(query), [-np.abs(m) for m in matrices]
    return query, matrices


shapes = {
    "seed": st.integers(0, 2**32 - 1),
    "lengths": st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    "q_len": st.integers(1, 20),
    "dim": st.sampled_from([1, 3, 8, 48, 96, 127, 128, 384]),
}


@settings(max_examples=150, deadline=None)
@given(**shapes, negative=st.booleans())
def test_packed_maxsim_equals_the_oracle(seed, lengths, q_len, dim, negative):
    query, matrices = scene(seed, lengths, q_len, dim, negative)
    weights = np.random.default_rng(seed).random(q_len).astype(np.float32) + 0.01
    packed = pack(matrices, None)
    np.testing.assert_allclose(maxsim(query, packed, weights), oracle(query, matrices, weights), atol=1e-5)
    np.testing.assert_allclose(maxsim(query, packed), oracle(query, matrices), atol=1e-5)


kernels = ["exact", pytest.param("native", marks=pytest.mark.skipif(not paths(), reason="not compiled"))]


@pytest.mark.parametrize("kernel", kernels)
@settings(max_examples=100, deadline=None)
@given(**shapes, negative=st.booleans(), bits=st.sampled_from([2, 4, 8]))
def test_codes_are_scored_as_the_vectors_that_they_stand_for(kernel, seed, lengths, q_len, dim, negative, bits):
    query, matrices = scene(seed, lengths, q_len, dim, negative)
    packed = pack(matrices, bits)
    meant = [packed.codec.decode(packed.data[a:b]) for a, b in pairwise(packed.offsets)]
    longest = max((float(np.linalg.norm(one, axis=1).max()) for one in meant if len(one)), default=1.0)
    # The exact kernel rounds nothing more; the other one each element of the rotated query by half a 127th.
    bound = 1e-5 if kernel == "exact" else 0.5 / 127 * dim**0.5 * longest + 1e-5
    np.testing.assert_allclose(maxsim(query, packed, kernel=kernel), oracle(query, meant), atol=bound)


@pytest.mark.skipif(not paths(), reason="the package was built without a compiler")
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.sampled_from([0, 1, 5, 23, 24, 25, 47, 48, 49, 100]), min_size=1, max_size=6),
    q_len=st.sampled_from([1, 15, 16, 17, 32, 33, 50]),
    dim=st.sampled_from([1, 7, 24, 128, 129, 384]),
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([8, 16, 24, 48]),
)
def test_every_way_through_the_compiled_loop_gives_the_integers_of_the_definition(
    seed, lengths, q_len, dim, bits, block
):
    rng = np.random.default_rng(seed)
    codec = TokenCodec(dim, bits)
    matrices = [codec.encode(unit(rng, n, dim)) for n in lengths]
    digits = rng.integers(-127, 128, (q_len, dim), dtype=np.int8)
    # The query in planes, as the codes are, each as wide as the loop wants it.
    depth = native.depth(bits, codec.width)
    planes = np.zeros((q_len, codec.planes, depth // codec.planes), np.int8)
    for plane in range(codec.planes):
        part = digits[:, plane * codec.width : (plane + 1) * codec.width]
        planes[:, plane, : part.shape[1]] = part
    planes = planes.reshape(q_len, depth)
    wanted = []
    for matrix in matrices:
        codes = np.concatenate([(matrix >> (p * bits)) & codec.levels for p in range(codec.planes)], axis=1)[
            :, :dim
        ]
        products = (2 * codes.astype(np.int64) - codec.levels) @ digits.T.astype(np.int64)
        wanted += [products[at : at + block].max(axis=0) for at in range(0, len(products), block)]
    packed, ones = PackedTokens.pack(matrices, codec), np.ones(q_len, np.float32)
    for path in paths():
        blocks, passages, ends = native.block_maxima(packed, native.Digits(planes, ones), block, path)
        np.testing.assert_array_equal(blocks, np.array(wanted, np.float32).reshape(-1, q_len))
        assert ends.tolist() == np.cumsum([0, *(-(-n // block) for n in lengths)]).tolist()
        for i, (start, end) in enumerate(pairwise(ends.tolist())):
            expected = blocks[start:end].max(axis=0) if end > start else -np.ones(q_len)
            np.testing.assert_array_equal(passages[i], expected)


@pytest.mark.skipif(not paths(), reason="the package was built without a compiler")
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.sampled_from([0, 1, 24, 49, 200, 5000]), min_size=1, max_size=4),
    q_len=st.sampled_from([1, 15, 16, 17, 40]),
    dim=st.sampled_from([1, 7, 64, 96, 97, 384]),
    bits=st.sampled_from([2, 4, 8]),
    small=st.sampled_from([1e-30, 1, 1e30]),
)
def test_every_way_turns_the_query_into_the_same_bits_and_nearly_those_of_the_rotation(
    seed, lengths, q_len, dim, bits, small
):
    rng = np.random.default_rng(seed)
    codec = TokenCodec(dim, bits)
    query = unit(rng, q_len, dim) * np.float32(small)
    query[q_len // 2] = 0
    packed = PackedTokens.pack([rng.integers(0, 256, (n, codec.width), dtype=np.uint8) for n in lengths], codec)
    # Stray bits of codes past the last dimension meet zeros: only what stands for a coordinate counts.
    meant = codec.unpack(packed.data)
    reach = np.abs(codec.rotate(query)).max(axis=1) * (0.5 / 127 + 1e-4) * np.abs(meant).sum(axis=1).max(initial=0)
    exact = block_maxima(query, packed, 24, "exact")
    found = [native.block_maxima(packed, query, 24, path, helped=h) for path in paths() for h in (False, True)]
    for blocks, passages, offsets in found:
        np.testing.assert_array_equal(blocks, found[0][0])
        np.testing.assert_array_equal(passages, found[0][1])
        np.testing.assert_array_equal(offsets, exact[2])
    assert (np.abs(found[0][0] - exact[0]) <= reach).all()
    assert (np.abs(found[0][1] - exact[1]) <= reach).all()


@pytest.mark.skipif(not paths(), reason="the package was built without a compiler")
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nothing_behind_the_last_code_is_read(bits):
    """The codes end where a page does, and the next page may not be touched: reading it ends the process."""
    script = f"""
        import ctypes, mmap
        import numpy as np
        from lir_agents.arrays import LentTokens
        from lir_agents.codes import TokenCodec
        from lir_agents.native import maxsim as native
        from lir_agents.native.library import paths
        codec, page = TokenCodec(100, {bits}), mmap.PAGESIZE
        memory = mmap.mmap(-1, 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0)
        count = 30
        at = np.array([start + page - count * codec.width], np.int64)
        digits = np.ones((17, native.depth(codec.bits, codec.width)), np.int8)
        for path in paths():
            lent = LentTokens(at, np.array([count]), codec)
            native.block_maxima(lent, native.Digits(digits, np.ones(17, np.float32)), 24, path)
        print("read", len(paths()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == f"read {len(paths())}\n", done.stderr


@pytest.mark.parametrize(
    "weights", [[1e-45, 0, 0, 0, 0], [1e-45, 1e-45, 0, 0, 0], [1e30, 0, 0, 0, 0], None, [0] * 5]
)
def test_weights_of_any_size_count_by_their_share(weights):
    query, matrices = scene(3, [4, 9], 5, 8)
    packed = pack(matrices, None)
    given = None if weights is None else np.array(weights, np.float32)
    share = given if weights and any(weights) else np.ones(5)
    scores = meet(query, packed).maxsim(given)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, oracle(query, matrices, share.astype(np.float64)), atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.sampled_from([0, 1, 23, 24, 25, 48, 70]), min_size=1, max_size=5),
    share=st.floats(0, 1),
)
def test_the_best_block_is_the_best_stretch_by_itself(seed, lengths, share):
    query, matrices = scene(seed, lengths, 5, 8)
    weights = np.random.default_rng(seed).random(5).astype(np.float32) + 0.01
    blocks = [[m[i : i + BLOCK_TOKENS] for i in range(0, len(m), BLOCK_TOKENS)] or [m] for m in matrices]
    best = np.array([oracle(query, parts, weights).max() for parts in blocks])
    maxima = meet(query, pack(matrices, None))
    np.testing.assert_allclose(maxima.best_block(weights), best, atol=1e-5)
    mixed = (1 - share) * oracle(query, matrices, weights) + share * best
    np.testing.assert_allclose(maxima.score(weights, block_share=share), mixed, atol=1e-5)
    np.testing.assert_allclose(maxima.of(slice(1, 3)).maxsim(), oracle(query[1:3], matrices), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_the_order_of_passages_does_not_matter(seed, lengths, q_len, dim):
    query, matrices = scene(seed, lengths, q_len, dim)
    forward, backward = maxsim(query, pack(matrices)), maxsim(query, pack(matrices[::-1]))
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-6)


def test_a_passage_without_tokens_scores_the_least():
    query, matrices = scene(1, [2, 0, 3, 0], 4, 8)
    maxima = meet(query, pack(matrices)).passages
    assert (maxima[[1, 3]] == ABSENT).all()
    assert (maxima[[0, 2]] > ABSENT).all()


def test_all_passages_empty():
    empty = PackedTokens(np.zeros((0, 4), np.uint8), np.zeros(3, np.int64), TokenCodec(8))
    assert (maxsim(np.eye(8, dtype=np.float32), empty) == ABSENT).all()


def test_zero_padding_would_be_wrong_and_is_not_done():
    query, matrices = scene(7, [1, 9], 5, 16, negative=True)
    assert (maxsim(query, pack(matrices)) < 0).all()


# ---------------------------------------------------------------- codes


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), dim=st.sampled_from([1, 7, 128, 384]))
def test_quantising_is_within_half_a_scale(seed, n, dim):
    vectors = unit(np.random.default_rng(seed), n, dim)
    data, scales = quantise_int8(vectors)
    assert data.dtype == np.int8
    assert (np.abs(data * scales[:, None] - vectors) <= 0.5 * scales[:, None] + 1e-7).all()


def test_quantising_zeros_gives_zeros():
    data, scales = quantise_int8(np.zeros((2, 4), np.float32))
    assert not (data * scales[:, None]).any()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 40),
    dim=st.integers(1, 130) | st.just(384),
    bits=st.sampled_from([2, 4, 8]),
)
def test_codes_stand_for_what_was_coded(seed, n, dim, bits):
    codec, vectors = TokenCodec(dim, bits), unit(np.random.default_rng(seed), n, dim)
    codes = codec.encode(vectors)
    assert codes.dtype == np.uint8
    assert codes.shape == (n, -(-dim * bits // 8))
    # The nearest code or, in 2 and 4 bits, the one behind it where a coordinate lies between two.
    turned, stands_for = codec.rotate(vectors), codec.unpack(codes) * (codec.half_step / codec.half_worth)
    inside = np.clip(turned, -codec.levels * codec.half_step, codec.levels * codec.half_step)
    furthest = 1.0 if bits == 8 else 1.5
    assert (np.abs(stands_for - inside) <= furthest * codec.half_step * 1.001 + 1e-6).all()
    np.testing.assert_allclose(codec.rotate(codec.decode(codes)), codec.unpack(codes), atol=1e-5)
    assert np.array_equal(codec.encode(codec.decode(codes)), codes), "coding again changes nothing"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 200) | st.just(384))
def test_rotating_keeps_inner_products(seed, dim):
    rng = np.random.default_rng(seed)
    left, right, codec = unit(rng, 5, dim), unit(rng, 6, dim), TokenCodec(dim)
    np.testing.assert_allclose(codec.rotate(left) @ codec.rotate(right).T, left @ right.T, atol=1e-5)


@pytest.mark.parametrize(("bits", "most"), [(8, 1e-4), (4, 0.013), (2, 0.14)])
def test_codes_lose_no_more_than_their_bits_must(bits, most):
    """The error of the best quantiser of a normal distribution, whichever dimensions the vectors lie along."""
    codec, rng = TokenCodec(384, bits), np.random.default_rng(0)
    spiky = unit(rng, 2000, 384) * rng.choice([1, 30], 384)  # some dimensions stand out, as in a transformer's
    for vectors in (unit(rng, 2000, 384), spiky / np.linalg.norm(spiky, axis=1, keepdims=True)):
        error = codec.decode(codec.encode(vectors.astype(np.float32))) - vectors
        assert (error**2).sum(axis=1).mean() <= most


@pytest.mark.parametrize(("bits", "spread"), [(8, 1e-3), (4, 2e-3), (2, 5e-3)])
def test_the_codes_of_a_vector_keep_its_product_with_itself(bits, spread):
    """Left to the nearest codes alone, it would spread by .0086 with 4 bits and by .018 with 2."""
    codec, vectors = TokenCodec(384, bits), unit(np.random.default_rng(1), 2000, 384)
    products = (codec.unpack(codec.encode(vectors)) * codec.rotate(vectors)).sum(axis=1)
    assert abs(products.mean() - 1) < spread
    assert products.std() < spread


def test_the_codes_of_a_vector_never_change():
    """They are stored: the rotation and the steps are part of the format."""
    vector = np.linspace(-1, 1, 16, dtype=np.float32)[None]
    vector /= np.linalg.norm(vector)
    assert [TokenCodec(16, bits).encode(vector).tobytes().hex() for bits in (2, 4, 8)] == [
        "9d936192",
        "777c85689c9174a3",
        "7fb46380ae3a5b4a7f77866b8e8c7e9c",
    ]


def test_what_cannot_be_coded_or_packed_is_refused():
    with pytest.raises(ValueError, match="nothing to pack"):
        PackedTokens.pack([], None)
    for dim, bits in ((0, 4), (8, 3)):
        with pytest.raises(ValueError, match="no codec"):
            TokenCodec(dim, bits)


@settings(max_examples=60, deadline=None)
@given(**shapes, bits=st.sampled_from([2, 4, 8]))
def test_blocks_are_the_maxima_of_similarities(seed, lengths, q_len, dim, bits):
    query, matrices = scene(seed, lengths, q_len, dim)
    packed = pack(matrices, bits)
    products = similarities(query, packed)
    best = np.array([products[a:b].max(0, initial=-np.inf) for a, b in pairwise(packed.offsets) if b > a])
    blocks, passages, offsets = block_maxima(query, packed, 48, "exact")
    assert offsets.tolist() == np.cumsum([0, *(-(-packed.lengths // 48))]).tolist()
    np.testing.assert_array_equal(blocks, best)
    np.testing.assert_array_equal(passages[packed.lengths > 0], best)
    assert (passages[packed.lengths == 0] == ABSENT).all()


# ---------------------------------------------------------------- fusion

values = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30).map(lambda v: np.array(v, np.float32))


def z_scores(values, mean=0.0, std=0.1, count=20):
    return standardise(values, prior_mean=mean, prior_std=std, prior_count=count)[0]


@given(values)
def test_standardising_keeps_order_and_ties(v):
    z = z_scores(v)
    assert np.isfinite(z).all()
    for i in range(len(v)):
        for j in range(len(v)):
            if v[i] == v[j]:
                assert z[i] == z[j]
            elif v[i] > v[j]:
                assert z[i] >= z[j]


def test_a_hair_between_two_candidates_stays_a_hair():
    z = z_scores(np.array([0.5, 0.5001], np.float32))
    assert abs(z[1] - z[0]) < 0.01


def test_a_lone_candidate_is_judged_by_what_is_usual():
    good, poor = (float(z_scores(np.array([x], np.float32), mean=0.4)[0]) for x in (0.7, 0.2))
    assert good > 0 > poor


@st.composite
def candidates(draw):
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    signals = {
        "maxsim": rng.uniform(-1, 1, n).astype(np.float32),
        "dense": rng.uniform(-1, 1, n).astype(np.float32),
        "lexical": rng.uniform(0, 30, n).astype(np.float32),
    }
    return signals, unit(rng, n, 16), rng.uniform(-1, 1, n)


@given(candidates())
def test_a_score_is_the_sum_of_its_parts(case):
    signals, pooled, extra = case
    fused = fuse(signals, weights=FusionWeights(), lexical_ceiling=30.0, pooled=pooled, extra={"tool:x": extra})
    assert set(fused.parts) == {"maxsim", "dense", "lexical", "tool:x", "neighbours"}
    np.testing.assert_allclose(sum(fused.parts.values()), fused.score, atol=1e-12)


@given(candidates())
def test_fusion_does_not_depend_on_the_order_of_candidates(case):
    signals, pooled, _ = case
    forward = fuse(signals, weights=FusionWeights(), lexical_ceiling=30.0, pooled=pooled)
    backward = fuse(
        {name: v[::-1] for name, v in signals.items()},
        weights=FusionWeights(),
        lexical_ceiling=30.0,
        pooled=pooled[::-1],
    )
    np.testing.assert_allclose(forward.score, backward.score[::-1], atol=1e-5)


@given(candidates())
def test_raising_a_signal_never_lowers_a_candidate_against_the_others(case):
    signals, _, _ = case
    before = fuse(signals, weights=FusionWeights(), lexical_ceiling=30.0)
    raised = {name: v.copy() for name, v in signals.items()}
    raised["maxsim"][0] = 1.0
    after = fuse(raised, weights=FusionWeights(), lexical_ceiling=30.0)
    beaten = before.score[0] > before.score + 1e-9
    assert (after.score[0] >= after.score[beaten] - 1e-9).all() or len(before.score) < 3


def test_a_missing_signal_is_left_out_and_the_rest_keep_their_sum():
    dense = np.array([0.1, 0.9], np.float32)
    fused = fuse({"dense": dense}, weights=FusionWeights(), lexical_ceiling=1.0)
    assert list(fused.parts) == ["dense"]
    np.testing.assert_allclose(fused.parts["dense"], z_scores(dense, mean=0.36, std=0.106, count=10))


@given(candidates(), st.floats(0, 100))
def test_context_moves_a_passage_by_at_most_the_turns_own_spread(case, force):
    turn, pooled, extra = case
    context = {name: (force * extra).astype(np.float32) for name in turn}
    fused = fuse(turn, weights=FusionWeights(), lexical_ceiling=30.0, context=context, pooled=pooled)
    own = sum(part for name, part in fused.parts.items() if name != "context")
    assert np.ptp(fused.parts["context"]) <= np.ptp(own) + 1e-9


@given(candidates())
def test_context_that_says_nothing_changes_nothing(case):
    turn, pooled, _ = case
    silent = {name: np.zeros_like(v) for name, v in turn.items()}
    plain = fuse(turn, weights=FusionWeights(), lexical_ceiling=30.0, pooled=pooled)
    with_silence = fuse(turn, weights=FusionWeights(), lexical_ceiling=30.0, pooled=pooled, context=silent)
    np.testing.assert_array_equal(plain.score, with_silence.score)


def test_no_candidates_fuse_to_nothing():
    none = np.zeros(0, np.float32)
    fused = fuse(
        {"maxsim": none, "dense": none, "lexical": none},
        weights=FusionWeights(),
        lexical_ceiling=0.0,
        pooled=np.zeros((0, 4), np.float32),
    )
    assert len(fused.score) == 0


@given(candidates())
def test_neighbours_give_at_most_their_share(case):
    _, pooled, base = case
    part = neighbour_part(base, pooled, count=10, share=0.3)
    assert (np.abs(part) <= 0.3 * np.abs(base).max() + 1e-9).all()


def test_neighbours_are_the_same_in_blocks(monkeypatch):
    rng = np.random.default_rng(5)
    base, pooled = rng.standard_normal(40), unit(rng, 40, 16)
    whole = neighbour_part(base, pooled, count=5, share=0.3)
    monkeypatch.setattr("lir_agents.ranking.fusion._BLOCK", 7)
    np.testing.assert_allclose(neighbour_part(base, pooled, count=5, share=0.3), whole, atol=1e-6)


def test_equal_scores_are_ordered_by_row():
    order = best_first(np.array([1.0, 2.0, 1.0, 2.0]), np.array([9, 8, 3, 4]))
    assert np.array([9, 8, 3, 4])[order].tolist() == [4, 8, 3, 9]
