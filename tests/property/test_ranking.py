"""Ranking against oracles of a few lines, over everything that can be generated."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.arrays import PackedTokens
from lir_agents.ranking.fusion import FusionWeights, best_first, fuse, neighbour_part, standardise
from lir_agents.ranking.kernels import similarities
from lir_agents.ranking.maxsim import ABSENT, BLOCK_TOKENS, maxsim, meet
from lir_agents.ranking.quantise import dequantise, pack, quantise_int8, quantise_matrix


def oracle(query, matrices, weights=None):
    """MaxSim as the paper writes it, averaged over the query."""
    scores = []
    for matrix in matrices:
        best = [max((float(q @ d) for d in matrix), default=-1.0) for q in query]
        scores.append(np.average(best, weights=weights))
    return np.array(scores)


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
    packed = pack(matrices, quantise=False)
    np.testing.assert_allclose(maxsim(query, packed, weights), oracle(query, matrices, weights), atol=1e-5)
    np.testing.assert_allclose(maxsim(query, packed), oracle(query, matrices), atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(**shapes, negative=st.booleans(), kernel=st.sampled_from(["exact", "int8"]))
def test_int8_kernels_stay_within_quantisation_error(seed, lengths, q_len, dim, negative, kernel):
    query, matrices = scene(seed, lengths, q_len, dim, negative)
    packed = pack(matrices)
    got = maxsim(query, packed, kernel=kernel)
    # Each stored element is off by at most half a scale, so is each query element under int8.
    bound = 0.5 * dim**0.5 * packed.scales.max(initial=0) * (1 if kernel == "exact" else 2.2) + 1e-4
    np.testing.assert_allclose(got, oracle(query, matrices), atol=bound)


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
    maxima = meet(query, pack(matrices, quantise=False))
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
    empty = PackedTokens(np.zeros((0, 8), np.int8), np.zeros(0, np.float32), np.zeros(3, np.int64))
    assert (maxsim(np.eye(8, dtype=np.float32), empty) == ABSENT).all()


def test_zero_padding_would_be_wrong_and_is_not_done():
    query, matrices = scene(7, [1, 9], 5, 16, negative=True)
    assert (maxsim(query, pack(matrices)) < 0).all()


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), dim=st.sampled_from([1, 7, 128, 384]))
def test_quantising_is_within_half_a_scale(seed, n, dim):
    tokens = unit(np.random.default_rng(seed), n, dim)
    for data, scales in (quantise_int8(tokens), quantise_matrix(tokens)):
        assert data.dtype == np.int8
        assert (np.abs(dequantise(data, scales) - tokens) <= 0.5 * scales[:, None] + 1e-7).all()


def test_quantising_zeros_gives_zeros():
    for data, scales in (
        quantise_int8(np.zeros((2, 4), np.float32)),
        quantise_matrix(np.zeros((2, 4), np.float32)),
    ):
        assert not dequantise(data, scales).any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any),
    dim=st.sampled_from([3, 16, 128]),
    kernel=st.sampled_from(["exact", "int8"]),
)
def test_one_scale_or_many_padded_or_not_the_maxima_are_alike(seed, lengths, dim, kernel):
    query, matrices = scene(seed, lengths, 6, dim)
    matrices = [
        m * np.float32(1 + i) for i, m in enumerate(matrices)
    ]  # scales that differ, as those of one would not
    plain = pack(matrices)
    repeats = [-len(m) % BLOCK_TOKENS if len(m) else 0 for m in matrices]
    padded = pack([np.concatenate([m, np.repeat(m[-1:], n, 0)]) for m, n in zip(matrices, repeats, strict=True)])
    data, scales = zip(*(quantise_int8(m) for m in matrices), strict=True)
    many = PackedTokens(np.concatenate(data), np.concatenate(scales), plain.offsets)
    expected = meet(query, plain, kernel=kernel).blocks
    np.testing.assert_allclose(meet(query, padded, kernel=kernel).blocks, expected, rtol=1e-6, atol=1e-6)
    products = similarities(query, many, kernel).numpy()[:, : len(query)]
    best = np.array([products[a:b].max(0, initial=-1.0) for a, b in pairwise(many.offsets)])
    np.testing.assert_allclose(
        np.maximum(meet(query, many, kernel=kernel).passages, -1), best, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kernel", ["exact", "int8"])
def test_many_passages_are_scored_part_by_part_alike(monkeypatch, kernel):
    query, matrices = scene(3, [50, 70, 0, 30, 1, 24, 49], 6, 32)
    packed = pack(matrices)
    whole = meet(query, packed, kernel=kernel)
    monkeypatch.setattr("lir_agents.ranking.maxsim._AT_ONCE", 3 * BLOCK_TOKENS)
    np.testing.assert_allclose(meet(query, packed, kernel=kernel).blocks, whole.blocks, atol=1e-6)
    products = similarities(query, packed, kernel).numpy()[:, : len(query)]
    best = np.array([products[a:b].max(0, initial=-1.0) for a, b in pairwise(packed.offsets)])
    np.testing.assert_allclose(whole.passages, best, atol=1e-6)


def test_packing_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to pack"):
        pack([])


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
