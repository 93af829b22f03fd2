// Rows that stay in registers: each row is read once, by a power of two of lanes that hold E elements each.
//
// Two reductions, first of the maximum, then of everything that depends on it; the exponentials of the second are kept
// and scaled for the result. Layout: tiles of V consecutive elements, dealt to the lanes in turn, so that the
// assignment of elements to lanes, and with it every bit of the result, depends on K alone. An unaligned array only
// loses the 16-byte accesses.
//
// A float row needs a second look (`wide`) in two rare cases, both decided by the row alone: s is so small that terms
// of it were lost below Exp<float>::lowest, or a factor so large or small that products with it would lose digits.
#pragma once

#include "groups.cuh"
#include "rows.cuh"

template <class C> DEVICE bool lost_terms(int ties, Pair rest);
template <> __device__ __forceinline__ bool lost_terms<float>(int ties, Pair rest) {
    return ties == 1 && rest.hi < 0x1p-60;
}
template <> __device__ __forceinline__ bool lost_terms<double>(int ties, Pair rest) {
    return ties == 1 && rest.hi < 0x1p-930;
}

// What is summed over a row after its maximum is known.
template <class C, bool SPREAD> struct Stats {
    Sum<C> rest;  // exponentials of all but the maxima, in units of 2^-unit
    int ties = 0;
};
template <class C> struct Stats<C, true> {
    Sum<C> rest;
    int ties = 0;
    Sum<C> weight;    // sum of w_k
    Sum<C> distance;  // sum of w_k (m - x_k)
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

// w_k (m - x_k); a class of weight 0 contributes 0, even where its logit is -inf.
DEVICE void add_distance(Sum<float>& to, double w, float x, float m) {
    if (w != 0) to.add_product(w, (double)m - (double)x);
}
DEVICE void add_distance(Sum<double>& to, double w, double x, double m) {
    if (w == 0) return;
    double r;
    const double d = two_difference(x, m, r);
    to.add_product(w, -d);
    if (is_finite(d)) to.v.lo = fused(-w, r, to.v.lo);
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

// rows: T per row for LOGSUMEXP, double per row (or null) for losses. out: (N, K), or null if only losses are wanted.
template <class T, int OP, int V, int E>
__global__ void __launch_bounds__(E == 16 ? 512 : 128)
resident(const T* x, T* out, void* rows, i64 n_rows, i64 n_classes, int lanes, int whole, const i64* labels,
         const double* sample_weight, const double* class_weight, double smoothing,
         const typename Compute<T>::type* q, const double* divisor_at, double divisor) {
    typedef typename Compute<T>::type C;
    constexpr bool spread = OP == SMOOTH || OP == SOFT;
    typedef Stats<C, spread> S;
    static __shared__ C maxima[32];
    static __shared__ S sums[32];
    const Targets<C> targets = {labels, sample_weight, class_weight, smoothing, q, divisor_at, divisor};
    const int K = (int)n_classes, lane = threadIdx.x & (lanes - 1), rows_per_block = blockDim.x / lanes;
    const auto class_of = [&](int i) { return (i / V * lanes + lane) * V + i % V; };

    for (i64 first = (i64)blockIdx.x * rows_per_block; first < n_rows; first += (i64)gridDim.x * rows_per_block) {
        const i64 row = first + threadIdx.x / lanes;
        const bool inside = row < n_rows;
        Row<C> r = {IGNORED, 0, {0, 0}, {0, 0}, 0, 1};
        if (inside) r = row_of<OP>(targets, row, n_classes);
        const bool read = inside && r.has_label();
        const T* from = x + row * n_classes;
        if ((OP == INDEX || OP == SMOOTH) && read) r.xy = widen(from[r.label]);
        const C* weights_q = q + (OP == SOFT ? row * n_classes : 0);
        const auto weight = [&](int k) -> double {
            return OP == SOFT ? (double)weights_q[k] : class_weight ? class_weight[k] : 1.0;
        };

        C v[E];
#pragma unroll
        for (int i = 0; i < E; i += V) {
            if (read && class_of(i) < K) {
                load<V>(from + class_of(i), whole, v + i);
            } else {
#pragma unroll
                for (int j = 0; j < V; ++j) v[i + j] = -infinity<C>();
            }
        }
        C m = v[0];
#pragma unroll
        for (int i = 1; i < E; ++i) m = maximum(m, v[i]);
        m = over_lanes(m, lanes, maxima, Largest());

        S stats;
        if constexpr (spread) {
#pragma unroll
            for (int i = 0; i < E; ++i) {
                if (read && class_of(i) < K) {
                    const double w = weight(class_of(i));
                    if (OP == SOFT || class_weight) stats.weight.add_term(w);
                    add_distance(stats.distance, w, v[i], m);
                }
            }
        }
        {
            C e[E];
#pragma unroll
            for (int i = 0; i < E; ++i) {
                const C scaled = shifted_exp(v[i], m);
                const bool top = v[i] == m;
                stats.ties += top;
                e[i] = top ? C(0) : scaled;
                if (OP != LOG_SOFTMAX && OP != LOGSUMEXP) v[i] = scaled;
            }
            add_terms<E>(stats.rest, e);
        }
        stats = over_lanes(stats, lanes, sums, Added());
        Others s = others_of<C>(stats.ties, stats.rest.pair());
        const bool undefined = !is_finite(m);

        if constexpr (OP == LOGSUMEXP) {
            const Pair L = log_of(plain(s));
            const Pair total = two_sum((double)m, L.hi);
            if (inside && lane == 0)
                static_cast<T*>(rows)[row] = rounded<T>(undefined ? (double)m : total.hi + (total.lo + L.lo));
        } else if constexpr (OP == SOFTMAX || OP == LOG_SOFTMAX) {
            const Pair sum = plain(s);
            Factor<C> f;
            if (OP == SOFTMAX) f = factor_of<C>(quotient(Pair{1, 0}, one_plus(sum)), -Exp<C>::unit);
            else f = factor_of<C>(log_of(sum), 0);
            if (undefined) f = {(C)not_a_number(), (C)not_a_number()};
            T* to = out + row * n_classes;
#pragma unroll
            for (int i = 0; i < E; i += V) {
                if (!(inside && class_of(i) < K)) continue;
                C result[V];
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    if (OP == SOFTMAX) {
                        result[j] = fused(v[i + j], f.hi, multiply(v[i + j], f.lo));
                    } else {
                        C error;
                        const C d = two_difference(v[i + j], m, error);
                        result[j] = add(subtract(d, f.hi), is_finite(d) ? subtract(error, f.lo) : C(0));
                    }
                }
                store<V>(result, whole, to + class_of(i));
            }
        } else {
            double loss = 0, label_gradient = 0;
            Gradient<C> g;
            const auto finish = [&]() {
                if constexpr (OP == INDEX) finish_index(r, m, s, loss, label_gradient, g);
                else {
                    const Pair all = OP == SOFT || class_weight ? stats.weight.pair() : Pair{(double)n_classes, 0};
                    finish_soft<OP>(r, m, s, all, stats.distance.pair(), loss, label_gradient, g);
                }
            };
            finish();
            // The lanes of a warp decide together, as they must to exchange; each row then keeps what is its own.
            const bool again = read && !undefined && lost_terms<C>(stats.ties, stats.rest.pair());
            if (__syncthreads_or(again)) {
                S other;
                for (int i = 0; i < E; ++i) {
                    if (!(again && class_of(i) < K)) continue;
                    const C xi = widen(from[class_of(i)]);
                    if (!(xi == m)) other.rest.add_term(wide_exp(xi, m, 1.0, WIDE_UNIT));
                }
                other = over_lanes(other, lanes, sums, Added());
                if (again) {
                    s = {other.rest.pair(), -WIDE_UNIT};
                    finish();
                }
            }
            const double nan = not_a_number();
            if (undefined || r.label == INVALID) loss = nan;
            if (!r.has_label() && r.label != INVALID) loss = 0;
            if (inside && lane == 0 && rows) static_cast<double*>(rows)[row] = loss;
            if (!inside || !out) continue;
            T* to = out + row * n_classes;
#pragma unroll
            for (int i = 0; i < E; i += V) {
                if (class_of(i) >= K) continue;
                C result[V];
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    if constexpr (OP == INDEX) result[j] = g.label_form(v[i + j]);
                    else result[j] = g.soft_form(v[i + j], weight(class_of(i + j)));
                    if (undefined) result[j] = (C)nan;
                    if (!read) result[j] = r.ignored() ? C(0) : (C)nan;
                }
                if (!g.fast && read && !undefined) {
                    for (int j = 0; j < V; ++j) {
                        const int k = class_of(i + j);
                        narrow(g.anyway(widen(from[k]), m, OP == INDEX ? 0.0 : weight(k)), to[k]);
                    }
                } else {
                    store<V>(result, whole, to + class_of(i));
                }
            }
            // The lane that wrote the label's entry overwrites it.
            if (OP != SOFT && read && !undefined && lane == (int)(r.label / V % lanes))
                to[r.label] = rounded<T>(label_gradient);
        }
    }
}
