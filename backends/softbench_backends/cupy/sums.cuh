// What is summed over a row once its maximum is known, by the kernels that hold a row on chip.
#pragma once

#include "groups.cuh"
#include "rows.cuh"

// The unit of the sums of rows whose s is too small for Exp<C>::unit.
static constexpr int TINY_UNIT = 960;

// Sums in units of 2^-Exp<C>::unit below this may lack terms.
template <class C> struct Smallest;
template <> struct Smallest<float> {
    static constexpr double sum = 0x1p-60;
};
template <> struct Smallest<double> {
    static constexpr double sum = 0x1p-930;
};

template <class C, bool SPREAD> struct Stats {
    Sum<C> rest;  // exponentials of all but the maxima, in units of 2^-unit
    int ties = 0;
};
template <class C> struct Stats<C, true> {
    Sum<C> rest;
    int ties = 0;
    Sum<C> weight;    // sum of w_k
    Sum<C> distance;  // sum of w_k (m - x_k), in its unit
};

template <class C> DEVICE Stats<C, false> exchange(const Stats<C, false>& s, int lane) {
    return {exchange(s.rest, lane), exchange(s.ties, lane)};
}
template <class C> DEVICE Stats<C, true> exchange(const Stats<C, true>& s, int lane) {
    return {exchange(s.rest, lane), exchange(s.ties, lane), exchange(s.weight, lane), exchange(s.distance, lane)};
}
template <class C> DEVICE Stats<C, false> combined(const Stats<C, false>& a, const Stats<C, false>& b) {
    return {combined(a.rest, b.rest), a.ties + b.ties};
}
template <class C> DEVICE Stats<C, true> combined(const Stats<C, true>& a, const Stats<C, true>& b) {
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
template <class C, class G> DEVICE void add_weighted(Stats<C, false>&, const G&, i64, C, C) {}
template <class C, class G> DEVICE void add_weighted(Stats<C, true>& to, const G& weights, i64 k, C x, C m) {
    const double w = weights.wide(k);
    if (weights.summed()) to.weight.add_term(w);
    add_distance(to.distance, w, x, m);
}

// Short float sums in a fixed tree before they are flushed into double; double terms one by one.
template <int E> DEVICE void add_terms(Sum<float>& to, const float* e) {
    static_assert(E % 4 == 0, "terms are added in fours");
#pragma unroll
    for (int i = 0; i < E; i += 4) to.add_term(add(add(e[i], e[i + 1]), add(e[i + 2], e[i + 3])));
}
template <int E> DEVICE void add_terms(Sum<double>& to, const double* e) {
#pragma unroll
    for (int i = 0; i < E; ++i) to.add_term(e[i]);
}

// Exponentials e of the elements x, of which the maxima are counted instead of added.
template <int E, class C, bool SPREAD>
DEVICE void add_exponentials(Stats<C, SPREAD>& to, const C* x, const C* e, C m) {
    C terms[E];
#pragma unroll
    for (int i = 0; i < E; ++i) {
        const bool top = x[i] == m;
        to.ties += top;
        terms[i] = top ? C(0) : e[i];
    }
    add_terms<E>(to.rest, terms);
}

template <class C, bool SPREAD> DEVICE bool lacks_terms(C m, const Stats<C, SPREAD>& stats) {
    return is_finite(m) && stats.ties == 1 && stats.rest.v.hi < Smallest<C>::sum;
}

// One element of such a row again, in units of 2^-TINY_UNIT.
template <class C, bool SPREAD> DEVICE void add_tiny(Stats<C, SPREAD>& to, C x, C m) {
    if (x != m) to.rest.add_term(wide_exp(x, m, 1.0, TINY_UNIT));
}

template <int OP, class C, bool SPREAD, class G>
DEVICE RowResult<C> finish_stats(const Row<C>& r, C m, const Others<Wide<C>>& s, const Stats<C, SPREAD>& stats,
                                 const G& weights, i64 n_classes) {
    typedef Wide<C> W;
    if constexpr (SPREAD) {
        const W weight = weights.summed() ? stats.weight.v : wide<W>((double)n_classes);
        return finish<OP>(r, m, s, weight, stats.distance.v);
    } else {
        return finish<OP>(r, m, s, wide<W>(0), wide<W>(0));
    }
}

// An entry of a gradient whose factors are out of the range of the fast path, for class k whose logit is *x.
template <int OP, class T, class C, class G>
DEVICE T entry_anyway(const RowResult<C>& row, const G& weights, const T* x, i64 k) {
    return rounded<T>(row.g.anyway(widen(*x), row.m, OP == INDEX ? 0.0 : weights.wide(k)));
}
