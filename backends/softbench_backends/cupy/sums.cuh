// What is summed over a row once its maximum is known, by the kernels that hold a row on chip.
#pragma once

#include "groups.cuh"
#include "rows.cuh"

// The unit of the sums of rows whose s is too small for Exp<C>::unit.
static constexpr int TINY_UNIT = 960;

// Sums of e(x) below this may lack terms.
template <class C> struct Smallest;
template <> struct Smallest<float> {
    static constexpr double sum = 0x1p-60;
};
template <> struct Smallest<double> {
    static constexpr double sum = 0x1p-930;
};

// What is summed: exponentials, and for losses under a distribution more.
static constexpr int LOSERS = 0, SPREAD = 1;
template <int OP> constexpr int kind_of = OP == SMOOTH || OP == SOFT ? SPREAD : LOSERS;

template <class C, int KIND> struct Stats;
template <class C> struct Stats<C, LOSERS> {
    Sum<C> rest;  // e(x) of all but the maxima
    int ties = 0;
};
template <class C> struct Stats<C, SPREAD> {
    Sum<C> rest;
    int ties = 0;
    Sum<C> weight;    // sum of w_k
    Sum<C> distance;  // sum of w_k (m - x_k), in its unit
};

template <class C> DEVICE Stats<C, LOSERS> exchange(const Stats<C, LOSERS>& s, int lane) {
    return {exchange(s.rest, lane), exchange(s.ties, lane)};
}
template <class C> DEVICE Stats<C, SPREAD> exchange(const Stats<C, SPREAD>& s, int lane) {
    return {exchange(s.rest, lane), exchange(s.ties, lane), exchange(s.weight, lane), exchange(s.distance, lane)};
}
template <class C> DEVICE Stats<C, LOSERS> combined(const Stats<C, LOSERS>& a, const Stats<C, LOSERS>& b) {
    return {combined(a.rest, b.rest), a.ties + b.ties};
}
template <class C> DEVICE Stats<C, SPREAD> combined(const Stats<C, SPREAD>& a, const Stats<C, SPREAD>& b) {
    return {combined(a.rest, b.rest), a.ties + b.ties, combined(a.weight, b.weight), combined(a.distance, b.distance)};
}

template <int V, class C> DEVICE void fill(C* v, C with) {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = with;
}

// w_k (m - x_k); a class of weight 0 contributes 0, even where its logit is -inf.
DEVICE void add_distance(Sum<float>& to, double w, float x, float m) {
    if (w != 0) to.add_product(w, (double)m - (double)x);
}
DEVICE void add_distance(Sum<double>& to, double w, double x, double m) {
    if (w == 0) return;
    constexpr double unit = DistanceUnit<double>::unit;
    double r;
    const double d = two_difference(x, m, r);
    to.add_product(w, -d * unit);
    if (is_finite(d)) to.v.lo = fused(-w, r * unit, to.v.lo);
}

// The terms of class k in the sums over a distribution.
template <class C, int KIND, class G> DEVICE void add_weighted(Stats<C, KIND>&, const G&, i64, C, C) {}
template <class C, class G> DEVICE void add_weighted(Stats<C, SPREAD>& to, const G& weights, i64 k, C x, C m) {
    const double w = weights.wide(k);
    if (weights.summed()) to.weight.add_term(w);
    add_distance(to.distance, w, x, m);
}

// Short float sums in a fixed tree before they are flushed into double, of eight for rows in half precision, whose
// results can do with fewer digits, and of four for others; double terms one by one.
template <class T, int E> DEVICE void add_terms(Sum<float>& to, const float* e) {
    constexpr int G = E % 8 == 0 && sizeof(T) < sizeof(float) ? 8 : 4;
    static_assert(E % G == 0, "terms are added in fours");
#pragma unroll
    for (int i = 0; i < E; i += G) {
        float sum = add(add(e[i], e[i + 1]), add(e[i + 2], e[i + 3]));
        if constexpr (G == 8) sum = add(sum, add(add(e[i + 4], e[i + 5]), add(e[i + 6], e[i + 7])));
        to.add_term(sum);
    }
}
template <class T, int E> DEVICE void add_terms(Sum<double>& to, const double* e) {
#pragma unroll
    for (int i = 0; i < E; ++i) to.add_term(e[i]);
}

// e(x) of elements x, of which the maxima are counted instead of added. `holds`: whether a maximum may be among them; it
// is the same for all lanes of a warp, most of which need not look.
template <class T, int E, class C, int KIND>
DEVICE void add_exponentials(Stats<C, KIND>& to, const C* x, const C* e, C m, bool holds) {
    if (!holds) {
        add_terms<T, E>(to.rest, e);
        return;
    }
    C terms[E];
#pragma unroll
    for (int i = 0; i < E; ++i) {
        const bool top = x[i] == m;
        to.ties += top;
        terms[i] = top ? C(0) : e[i];
    }
    add_terms<T, E>(to.rest, terms);
}

template <class C, int KIND> DEVICE bool lacks_terms(C m, const Stats<C, KIND>& stats) {
    return is_finite(m) && stats.ties == 1 && stats.rest.v.hi < Smallest<C>::sum;
}

// One element of such a row again, in units of 2^-TINY_UNIT.
template <class C> DEVICE void add_tiny(Sum<C>& to, C x, C m) {
    if (x != m) to.add_term(wide_exp(x, m, 1.0, TINY_UNIT));
}

// `again`: whether the row was looked at again, which gave `tiny`.
template <int OP, class T, class C, int KIND, class G>
DEVICE RowResult<C> finish_stats(const Row<C>& r, C m, const Stats<C, KIND>& stats, bool again, const Sum<C>& tiny,
                                 const G& weights, i64 n_classes) {
    typedef Wide<C> W;
    SumExcludingMax<W> s = sum_excluding_max<C>(stats.ties, stats.rest.v);
    if (OP >= INDEX && again) s = {tiny.v, -TINY_UNIT};
    if constexpr (KIND == SPREAD) {
        const W weight = weights.summed() ? stats.weight.v : wide<W>((double)n_classes);
        return finish<OP>(r, m, s, weight, stats.distance.v);
    } else {
        return finish<OP>(r, m, s, wide<W>(0), wide<W>(0));
    }
}

// logsumexp of half precision is taken again, from exact exponentials, where m and L cancel: what L = log1p(s) owes to
// approximate ones would show. The other results are safe from that: they are sums of terms of one sign.
template <int OP, class T> constexpr bool looks_twice = OP == LOGSUMEXP && sizeof(T) < sizeof(float);

template <class C> DEVICE bool cancels(const RowResult<C>& row) {
    return fabs(row.number) < 0.25 * (row.number - (double)row.m);
}

// The number of a row that is a result by itself: logsumexp, or a loss.
template <int OP, class T, class C> DEVICE void set_row(void* rows, i64 row, const RowResult<C>& result) {
    if (OP == LOGSUMEXP) static_cast<T*>(rows)[row] = rounded<T>(result.number);
    else static_cast<double*>(rows)[row] = result.number;
}

// Entries that the fast path cannot give, from x: factors out of its range, or results just below the normal range.
// k is the class of x[0], and there are `count` of them.
template <int OP, class T, class C, class E, class G>
DEVICE void write_slowly(const RowResult<C>& row, const E& exponential, const G& weights, const T* x, i64 k, int count,
                         T* to) {
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
        const C v = widen(x[j]);
        if (OP >= INDEX && !row.g.fast)
            to[j] = rounded<T>(row.g.anyway(v, row.m, OP == INDEX ? 0.0 : weights.wide(k + j)));
        else
            to[j] = rounded<T>(with_care<OP>(row, entry<OP>(row, exponential(v), weights[k + j]), x + j));
    }
}
