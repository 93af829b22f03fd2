// What follows for a whole row from its maximum and its sums: in double, once per row.
//
// Notation: m = max x, d_k = x_k - m, s = sum of exp(d_k) over all k but one argmax, S = 1 + s, L = log1p(s).
#pragma once

#include "arithmetic.cuh"
#include "call.cuh"
#include "constants.cuh"

// NaN where nothing has weight.
DEVICE Pair divisor_of(const double* at, double otherwise) {
    const Pair d = at ? Pair{at[0], at[1]} : Pair{otherwise, 0};
    return d.hi != 0 ? d : Pair{not_a_number(), 0};
}

// s = v 2^exponent, the sum without one argmax: it may be far below the smallest double, and a weight may bring it back.
template <class W> struct SumExcludingMax {
    W v;
    int exponent;
};

template <class W> DEVICE W scaled(W a, int exponent) {
    return wide<W>(scaled(a.hi, exponent), scaled(trailing(a), exponent));
}

// s from the number of classes that attain the maximum and the sum of e(x) over the rest, which in double may be too
// small without its unit.
template <class C> DEVICE SumExcludingMax<Wide<C>> sum_excluding_max(int ties, Wide<C> rest) {
    if (sizeof(C) == sizeof(double) && ties <= 1) return {rest, -Exp<C>::unit};
    return {sum(wide<Wide<C>>(ties > 1 ? ties - 1.0 : 0.0), times(rest, Exp<C>::per_unit)), 0};
}

template <class W> DEVICE W plain(const SumExcludingMax<W>& s) { return scaled(s.v, s.exponent); }

template <class W> DEVICE W one_plus(W s) { return sum(wide<W>(1), s); }

// s times a factor, without underflow in between.
template <class W> DEVICE double times(const SumExcludingMax<W>& s, double factor) {
    int a, b;
    const double v = frexp(value(s.v), &a), w = frexp(factor, &b);
    return scaled(v * w, a + b + s.exponent);
}

// Numbers that are the same for a whole row, split for the row's arithmetic: hi + lo.
template <class C> struct Factor {
    C hi, lo;
};

template <class C> DEVICE Factor<C> factor_of(Wide<C> v) {
    const C leading = (C)v.hi;
    return {leading, (C)((v.hi - (double)leading) + trailing(v))};
}

template <class C> struct Range;
template <> struct Range<float> {
    static constexpr double low = 0x1p-38, high = 0x1p+36;
};
template <> struct Range<double> {
    static constexpr double low = 0x1p-400, high = 0x1p+400;
};

// Whether products with a factor keep all their digits in C.
template <class C> DEVICE bool in_range(double v) {
    const double a = fabs(v);
    return (a >= Range<C>::low && a <= Range<C>::high) || v == 0;
}

// A class weight or an entry of q: w_k = hi + lo.
template <class C> struct Weight {
    C hi, lo;
};

// w_k of a row. Null: 1.
template <int OP, class C> struct Weights {
    const double* classes;
    const C* q;
    __device__ __forceinline__ double wide(i64 k) const {
        return OP == SOFT ? (double)q[k] : OP == SMOOTH && classes ? classes[k] : 1.0;
    }
    __device__ __forceinline__ Weight<C> operator[](i64 k) const {
        if (OP == SOFT) return {q[k], 0};
        if (OP != SMOOTH || !classes) return {1, 0};
        const double w = wide(k);
        const C hi = (C)w;
        return {hi, (C)(w - (double)hi)};
    }
    __device__ __forceinline__ bool summed() const { return OP == SOFT || (OP == SMOOTH && classes); }
};

template <int OP, class C> DEVICE Weights<OP, C> weights_of(const Targets<C>& targets, i64 row, i64 n_classes) {
    return {targets.class_weight, OP == SOFT ? targets.q + row * n_classes : nullptr};
}

// The gradient of a row: g_k = a exp(d_k) / S - b w_k, where w_k is 1, a class weight or q_k; b = 0 for plain labels.
template <class C> struct Gradient {
    double a, b;       // a includes 1 / S
    Factor<C> fa, fb;  // the same, for the fast path
    bool fast;
    // Where p = 1, as of one class alone, what is left is the weight of the others, without the rounding of two quotients:
    // g = label + b (total - w_k), with what the label has besides and the sum of w_k.
    bool alone;
    double label, total;

    __device__ __forceinline__ void set(Wide<C> multiplied, Wide<C> subtracted) {
        a = multiplied.hi;
        b = subtracted.hi;
        fa = factor_of<C>(times(multiplied, Exp<C>::per_unit));
        fb = factor_of<C>(subtracted);
        alone = false;
        fast = in_range<C>(a) && in_range<C>(b);
    }

    __device__ __forceinline__ void set_alone(double besides, double sum_of_weights) {
        alone = true;
        label = besides;
        total = sum_of_weights;
        fast = false;
    }

    // From e(x).
    __device__ __forceinline__ C label_form(C e) const { return fused(e, fa.hi, multiply(e, fa.lo)); }

    __device__ __forceinline__ C soft_form(C e, Weight<C> w) const {
        const C low = fused(-w.lo, fb.hi, fused(-w.hi, fb.lo, multiply(e, fa.lo)));
        return fused(-w.hi, fb.hi, fused(e, fa.hi, low));
    }

    // From x itself, whatever the size of the factors; w = 0 for plain labels.
    __device__ __forceinline__ double anyway(C x, C m, double w) const {
        if (w != 0 && alone && x == m) return label + b * (total - w);
        const double p = wide_exp(x, m, a, 0);
        return w == 0 ? p : fused(-b, w, p);
    }
};

// All that a loss kernel needs to know about one row.
template <class C> struct Row {
    i64 label;            // INDEX and SMOOTH only
    double xy;            // the label's logit, which the caller reads while x still holds it
    Wide<C> s_w;          // INDEX: s_i w_y. SMOOTH: s_i (1 - eps) w_y
    Wide<C> each;         // SMOOTH: s_i eps / K
    double label_weight;  // SMOOTH: w_y
    Wide<C> divisor;

    __device__ __forceinline__ bool ignored() const { return label == IGNORED; }
    __device__ __forceinline__ bool has_label() const { return label >= 0; }
};

template <int OP, class C> DEVICE Row<C> row_of(const Targets<C>& targets, i64 row, i64 n_classes) {
    typedef Wide<C> W;
    Row<C> r = {0, 0, wide<W>(1), wide<W>(0), 1, wide<W>(1)};
    if (OP < INDEX) return r;
    const Pair divisor = divisor_of(targets.divisor_at, targets.divisor);
    r.divisor = wide<W>(divisor.hi, divisor.lo);
    if (OP == SOFT) return r;
    r.label = targets.labels[row];
    if (!r.has_label()) return r;
    const W s = wide<W>(targets.sample_weight ? targets.sample_weight[row] : 1.0);
    r.label_weight = targets.class_weight ? targets.class_weight[r.label] : 1.0;
    r.s_w = times(s, r.label_weight);
    if (OP == SMOOTH) {
        r.s_w = times(r.s_w, 1.0 - targets.smoothing);
        r.each = quotient(times(s, targets.smoothing), wide<W>((double)n_classes));
    }
    return r;
}

// L - (x_y - m); inf where the class is absent.
template <class W> DEVICE double label_loss(W L, double xy, double m) {
    W d;
    set_difference(d, xy, m);
    return is_finite(d.hi) ? (L.hi - d.hi) + (trailing(L) - trailing(d)) : -d.hi;
}

// Row loss and the label's gradient under plain labels.
template <class C>
DEVICE void finish_index(const Row<C>& r, double m, const SumExcludingMax<Wide<C>>& s, double& loss,
                         double& label_gradient, Gradient<C>& g) {
    typedef Wide<C> W;
    const W plain_s = plain(s), S = one_plus(plain_s), L = log1p_of(plain_s);
    const W weight = quotient(r.s_w, r.divisor);
    g.set(quotient(weight, S), wide<W>(0));
    if (r.xy == m && plain_s.hi < 0x1p-100) {  // log1p(s) is s then
        loss = times(s, r.s_w.hi);
        label_gradient = 0.0 - times(s, weight.hi);
        return;
    }
    // A weight of 0 contributes 0, even where the class is absent.
    loss = r.s_w.hi != 0 ? label_loss(L, r.xy, m) * r.s_w.hi : 0.0;
    // The sum excluding the label: s where the label is the maximum, all of S where its logit is -inf.
    const W excluding_label = r.xy == m ? plain_s : sum(S, wide<W>(-wide_exp(r.xy, m, 1.0, 0)));
    label_gradient = 0.0 - value(quotient(excluding_label, S)) * weight.hi;
}

// Distances m - x_k are summed in units in which no sum of finite ones overflows: weights of 1/K may bring it back.
template <class C> struct DistanceUnit;
template <> struct DistanceUnit<float> {
    static constexpr double unit = 1, inverse = 1;  // the sums are in double
};
template <> struct DistanceUnit<double> {
    static constexpr double unit = 0x1p-64, inverse = 0x1p64;
};

// Row loss under a distribution: `weight` = sum of w_k, `distance` = sum of w_k (m - x_k) in its unit.
template <int OP, class C>
DEVICE void finish_soft(const Row<C>& r, double m, const SumExcludingMax<Wide<C>>& s, Wide<C> weight,
                        Wide<C> distance, double& loss, double& label_gradient, Gradient<C>& g) {
    typedef Wide<C> W;
    const W plain_s = plain(s), S = one_plus(plain_s), L = log1p_of(plain_s), divisor = r.divisor;
    const double each = OP == SOFT ? 1.0 : r.each.hi;
    const double spread =
        plain_s.hi < 0x1p-100 ? times(s, value(weight)) : value(times(L, weight.hi)) + L.hi * trailing(weight);
    // A row of weight 0 contributes 0, even where a class is absent.
    loss = each != 0 ? value(distance) * each * DistanceUnit<C>::inverse + spread * each : 0.0;
    const bool alone = plain_s.hi == 0;
    if (OP == SOFT) {
        g.set(quotient(quotient(weight, divisor), S), quotient(wide<W>(1), divisor));
        if (alone) g.set_alone(0, value(weight));
        return;
    }
    // So does a class of weight 0.
    if (r.s_w.hi != 0) loss += label_loss(L, r.xy, m) * r.s_w.hi;
    g.set(quotient(quotient(sum(r.s_w, times(weight, r.each.hi)), divisor), S), quotient(r.each, divisor));
    if (alone) g.set_alone(value(quotient(r.s_w, divisor)), value(weight));
    const W q = quotient(sum(r.s_w, times(r.each, r.label_weight)), divisor);
    label_gradient = (wide_exp(r.xy, m, g.a, 0) - trailing(q)) - q.hi;
    if (alone && r.xy == m) label_gradient = g.b * (value(weight) - r.label_weight);
}

// What is known of a row once its sums are: enough to write any of its entries.
template <class C> struct RowResult {
    C m;
    bool undefined;  // NaN, inf, or nothing but -inf: every entry is NaN
    Factor<C> f;     // SOFTMAX: what makes a probability of e(x). LOG_SOFTMAX: L
    Gradient<C> g;
    double number;   // LOGSUMEXP: m + L. Losses: the row loss
    double label_gradient;
};

// weight and distance: see finish_soft.
template <int OP, class C>
DEVICE RowResult<C> finish(const Row<C>& r, C m, const SumExcludingMax<Wide<C>>& s, Wide<C> weight, Wide<C> distance) {
    typedef Wide<C> W;
    const double nan = not_a_number();
    RowResult<C> result = {m, !is_finite(m)};
    if constexpr (OP == LOGSUMEXP) {
        result.number = result.undefined ? (double)m : value(sum(wide<W>(m), log1p_of(plain(s))));
    } else if constexpr (OP == SOFTMAX) {
        result.f = factor_of<C>(times(quotient(wide<W>(1), one_plus(plain(s))), Exp<C>::per_unit));
    } else if constexpr (OP == LOG_SOFTMAX) {
        result.f = factor_of<C>(log1p_of(plain(s)));
    } else {
        if constexpr (OP == INDEX) finish_index(r, m, s, result.number, result.label_gradient, result.g);
        else finish_soft<OP>(r, m, s, weight, distance, result.number, result.label_gradient, result.g);
        if (result.undefined || r.label == INVALID) result.number = nan;
        if (r.ignored()) result.number = 0;
        result.undefined = result.undefined || !r.has_label();
    }
    if (result.undefined) {
        result.f = {(C)nan, (C)nan};
        result.g.fast = true;
        result.g.fa = r.ignored() ? Factor<C>{0, 0} : result.f;
    }
    return result;
}

// One entry of a row's result, from e(x).
template <int OP, class C, class G> DEVICE C entry(const RowResult<C>& row, C e, const G& weight) {
    if constexpr (OP == SOFTMAX) return fused(e, row.f.hi, multiply(e, row.f.lo));
    else if (row.undefined) return row.g.fa.hi;
    else if constexpr (OP == INDEX) return row.g.label_form(e);
    else return row.g.soft_form(e, weight);
}

// Just below the normal range a spacing is as large as the rounding of e was, and the result's own rounding comes on
// top: there an entry is taken again, from x, without rounding exp by itself. (What is stored in half precision has
// been computed with digits to spare.)
template <int OP, class T> constexpr bool takes_care = (OP == SOFTMAX || OP == INDEX) && sizeof(T) >= sizeof(float);

// Whether one of V results, none of them negative, is below 2^-125 or 2^-1021, and not 0.
template <int V> DEVICE bool below_normal(const float* v) {
    unsigned least = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        const unsigned order = (unsigned)__float_as_int(v[i]) - 1;
        least = order < least ? order : least;
    }
    return least < (2u << 23) - 1;
}
template <int V> DEVICE bool below_normal(const double* v) {
    bool found = false;
#pragma unroll
    for (int i = 0; i < V; ++i) found |= v[i] > 0 && v[i] < 0x1p-1021;
    return found;
}

// Whether entries of a row are left to `write_slowly`.
template <int OP, class T, int V, class C> DEVICE bool needs_care(const RowResult<C>& row, const C* entries) {
    if (OP >= INDEX && !row.g.fast) return true;
    if constexpr (takes_care<OP, T>) return below_normal<V>(entries);
    return false;
}

template <int OP, class T, class C> DEVICE C with_care(const RowResult<C>& row, C result, const T* x) {
    if (!takes_care<OP, T> || !below_normal<1>(&result)) return result;
    const Factor<C>& f = OP == SOFTMAX ? row.f : row.g.fa;
    double r;
    int n;
    const double d = two_difference((double)widen(*x), (double)row.m, r), q = Exp<double>::parts(d, r, n), hi = f.hi;
    narrow(scaled(hi + fused(q, hi, (1.0 + q) * (double)f.lo), n + Exp<C>::unit), result);
    return result;
}

// Where d is -inf its error is NaN, and any number does instead.
DEVICE float number_or_1(float v) { return fminf(v, 1.0f); }
DEVICE double number_or_1(double v) { return v == v ? v : 1.0; }

// The entry of log_softmax of a row stored as T, from x: (d - L) + r. Both terms have one sign, so that a result in half
// precision can do without r and the rest of L.
template <class T, class C> DEVICE C log_entry(const RowResult<C>& row, C x) {
    if constexpr (sizeof(T) < sizeof(C)) return subtract(subtract(x, row.m), row.f.hi);
    C error;
    const C d = two_difference(x, row.m, error);
    return add(subtract(d, row.f.hi), number_or_1(subtract(error, row.f.lo)));
}
