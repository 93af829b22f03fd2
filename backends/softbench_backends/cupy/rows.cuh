// What follows for a whole row from its maximum and its sums: in double, once per row.
//
// Notation: m = max x, d_k = x_k - m, s = sum of exp(d_k) over all k but one argmax, S = 1 + s, L = log1p(s).
#pragma once

#include "arithmetic.cuh"

static constexpr int LOGSUMEXP = 0, SOFTMAX = 1, LOG_SOFTMAX = 2, INDEX = 3, SMOOTH = 4, SOFT = 5;

static constexpr i64 IGNORED = -1, INVALID = -2;

// The unit of the sums of rows whose `s` is too small for Exp<C>::unit.
static constexpr int WIDE_UNIT = 960;

// The target of all rows, as the kernels receive it. Null weights are ones.
template <class C> struct Targets {
    const i64* labels;
    const double* sample_weight;
    const double* class_weight;
    double smoothing;
    const C* q;
    const double* divisor_at;  // null: `divisor` holds it
    double divisor;
};

// s = v 2^exponent: it may be far below the smallest double, and a weight may bring it back.
struct Others {
    Pair v;
    int exponent;
};

// s from the number of classes that attain the maximum and the sum over the rest, which is in units of 2^-unit.
template <class C> DEVICE Others others_of(int ties, Pair rest) {
    if (ties <= 1) return {rest, -Exp<C>::unit};
    const double scale = ldexp(1.0, -Exp<C>::unit);
    const Pair s = two_sum(ties - 1.0, rest.hi * scale);
    return {{s.hi, s.lo + rest.lo * scale}, 0};
}

DEVICE Pair plain(Others s) { return {ldexp(s.v.hi, s.exponent), ldexp(s.v.lo, s.exponent)}; }

DEVICE Pair one_plus(Pair s) {
    const Pair t = two_sum(1.0, s.hi);
    return {t.hi, t.lo + s.lo};
}

DEVICE Pair log_of(Pair s) { return {log1p(s.hi), s.lo / (1.0 + s.hi)}; }

// s times a factor, without underflow in between.
DEVICE double times(Others s, double factor) {
    int a, b;
    const double v = frexp(value(s.v), &a), w = frexp(factor, &b);
    return ldexp(v * w, a + b + s.exponent);
}

// Factors that multiply a whole row, split for the row's arithmetic: exp(d_k) 2^unit * (hi + lo).
template <class C> struct Factor {
    C hi, lo;
};

template <class C> DEVICE Factor<C> factor_of(Pair v, int exponent) {
    const double scale = ldexp(1.0, exponent), hi = v.hi * scale;
    const C leading = (C)hi;
    return {leading, (C)((hi - (double)leading) + v.lo * scale)};
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

// The gradient of a row: g_k = a exp(d_k) / S - b w_k, where w_k is 1, a class weight or q_k; b = 0 for plain labels.
template <class C> struct Gradient {
    Pair a, b;        // a includes 1 / S
    Factor<C> fa, fb; // the same, for the fast path
    bool fast;

    __device__ __forceinline__ void set(Pair gain, Pair subtracted) {
        a = gain;
        b = subtracted;
        fa = factor_of<C>(a, -Exp<C>::unit);
        fb = factor_of<C>(b, 0);
        fast = in_range<C>(a.hi) && in_range<C>(b.hi);
    }

    // e is exp(d) 2^unit.
    __device__ __forceinline__ C label_form(C e) const { return fused(e, fa.hi, multiply(e, fa.lo)); }

    __device__ __forceinline__ C soft_form(C e, double w) const {
        const C leading = (C)w, trailing = (C)(w - (double)leading);
        const C low = fused(-trailing, fb.hi, fused(-leading, fb.lo, multiply(e, fa.lo)));
        return fused(-leading, fb.hi, fused(e, fa.hi, low));
    }

    // From x itself, whatever the size of the factors; w = 0 for plain labels.
    __device__ __forceinline__ double anyway(C x, C m, double w) const {
        const double p = wide_exp(x, m, a.hi, 0);
        return w == 0 ? p : (p - b.hi * w) - b.lo * w;
    }
};

// All that a loss kernel needs to know about one row.
template <class C> struct Row {
    i64 label;           // INDEX and SMOOTH only
    double xy;           // the label's logit
    Pair s_w;            // INDEX: s_i w_y. SMOOTH: s_i (1 - eps) w_y. SOFT: 1
    Pair each;           // SMOOTH: s_i eps / K
    double label_weight; // SMOOTH: w_y
    double divisor;

    __device__ __forceinline__ bool ignored() const { return label == IGNORED; }
    __device__ __forceinline__ bool has_label() const { return label >= 0; }
};

// All but the label's logit, which the caller reads while x still holds it.
template <int OP, class C> DEVICE Row<C> row_of(const Targets<C>& targets, i64 row, i64 n_classes) {
    Row<C> r = {0, 0, {1, 0}, {0, 0}, 1, 1};
    if (OP < INDEX) return r;
    const double divisor = targets.divisor_at ? *targets.divisor_at : targets.divisor;
    r.divisor = divisor != 0 ? divisor : not_a_number();
    if (OP == SOFT) return r;
    r.label = targets.labels[row];
    if (!r.has_label()) return r;
    const double s = targets.sample_weight ? targets.sample_weight[row] : 1.0;
    r.label_weight = targets.class_weight ? targets.class_weight[r.label] : 1.0;
    r.s_w = product(s, r.label_weight);
    if (OP == SMOOTH) {
        r.s_w = product(r.s_w, 1.0 - targets.smoothing);
        r.each = quotient(product(s, targets.smoothing), Pair{(double)n_classes, 0});
    }
    return r;
}

// exp(x_y - m) for the label: at most 1.
DEVICE double label_exp(double xy, double m) { return wide_exp(xy, m, 1.0, 0); }

// Row loss and the label's gradient under plain labels.
template <class C>
DEVICE void finish_index(const Row<C>& r, double m, Others s, double& loss, double& label_gradient, Gradient<C>& g) {
    const Pair plain_s = plain(s), S = one_plus(plain_s), L = log_of(plain_s);
    const Pair scale = quotient(r.s_w, Pair{r.divisor, 0});
    g.set(quotient(scale, S), Pair{0, 0});
    if (r.xy == m) {  // the other classes are s, however small; log1p(s) is s then
        loss = plain_s.hi < 0x1p-100 ? times(s, r.s_w.hi) : (L.hi + L.lo) * r.s_w.hi;
        label_gradient = 0.0 - (plain_s.hi < 0x1p-100 ? times(s, scale.hi) : value(quotient(plain_s, S)) * scale.hi);
    } else {
        double error;
        const double d = two_difference(r.xy, m, error);
        loss = (is_finite(d) ? (L.hi - d) + (L.lo - error) : -d) * r.s_w.hi;
        const Pair rest = two_sum(S.hi, -label_exp(r.xy, m));
        label_gradient = 0.0 - value(quotient(Pair{rest.hi, rest.lo + S.lo}, S)) * scale.hi;  // all of it if p_y = 0
    }
}

// Row loss under a distribution: `weight` = sum of w_k, `distance` = sum of w_k (m - x_k).
template <int OP, class C>
DEVICE void finish_soft(const Row<C>& r, double m, Others s, Pair weight, Pair distance, double& loss,
                        double& label_gradient, Gradient<C>& g) {
    const Pair plain_s = plain(s), S = one_plus(plain_s), L = log_of(plain_s);
    const Pair divisor = {r.divisor, 0};
    const double far = value(distance);
    const double spread = plain_s.hi < 0x1p-100 ? times(s, value(weight)) : value(product(L, weight.hi)) + L.hi * weight.lo;
    if (OP == SOFT) {
        loss = spread + far;
        g.set(quotient(quotient(weight, divisor), S), quotient(Pair{1, 0}, divisor));
        return;
    }
    loss = r.each.hi != 0 ? (spread + far) * r.each.hi : 0.0;
    if (r.s_w.hi != 0) {  // a class of weight 0 contributes 0, even where its logit is -inf
        double error;
        const double d = two_difference(r.xy, m, error);
        loss += (is_finite(d) ? (L.hi - d) + (L.lo - error) : -d) * r.s_w.hi;
    }
    const Pair gain = quotient(sum(r.s_w, product(weight, r.each.hi)), divisor);
    g.set(quotient(gain, S), quotient(r.each, divisor));
    const Pair q = quotient(sum(r.s_w, product(r.each, r.label_weight)), divisor);
    label_gradient = (wide_exp(r.xy, m, g.a.hi, 0) - q.hi) - q.lo;
}
