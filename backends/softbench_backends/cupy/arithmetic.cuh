// Arithmetic that keeps its rounding errors, and exp of a shifted logit.
//
// Every operation whose rounding matters is an intrinsic with a fixed rounding mode, which no compiler option may
// contract into a fused multiply-add or flush to zero.
#pragma once

#include "formats.cuh"

DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
DEVICE double add(double a, double b) { return __dadd_rn(a, b); }
DEVICE float subtract(float a, float b) { return __fsub_rn(a, b); }
DEVICE double subtract(double a, double b) { return __dsub_rn(a, b); }
DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
DEVICE double multiply(double a, double b) { return __dmul_rn(a, b); }
DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

template <class C> DEVICE bool is_finite(C v) { return v - v == C(0); }

// Maximum that keeps a NaN (the plain fmax drops it).
DEVICE float maximum(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    float m;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
    return m;
#else
    return a > b || a != a ? a : b;
#endif
}
DEVICE double maximum(double a, double b) { return a > b || a != a ? a : b; }

// An unevaluated sum hi + lo.
struct Pair {
    double hi, lo;
};

// TwoSum (Knuth): a + b = hi + lo exactly. Both orders of the arguments give the same two numbers.
DEVICE Pair two_sum(double a, double b) {
    const double s = add(a, b), t = subtract(s, a);
    return {s, add(subtract(a, subtract(s, t)), subtract(b, t))};
}

// TwoDiff: a - b = d + r exactly, unless d overflows (then r is NaN).
template <class C> DEVICE C two_difference(C a, C b, C& r) {
    const C d = subtract(a, b), t = subtract(a, d);
    r = add(subtract(a, add(d, t)), subtract(t, b));
    return d;
}

DEVICE Pair product(double a, double b) {
    const double p = multiply(a, b);
    return {p, fused(a, b, -p)};
}

DEVICE Pair sum(Pair a, Pair b) {
    const Pair s = two_sum(a.hi, b.hi);
    return {s.hi, add(s.lo, add(a.lo, b.lo))};
}

// Numbers of a whole row: with at least twice the digits of its elements, a double for float rows and a pair for double
// rows. The functions below are the same for both.
struct Single {
    double hi;
};

template <class C> struct WideOf { typedef Single type; };
template <> struct WideOf<double> { typedef Pair type; };
template <class C> using Wide = typename WideOf<C>::type;

DEVICE double trailing(Single) { return 0; }
DEVICE double trailing(Pair a) { return a.lo; }

DEVICE void set(Single& a, double hi, double) { a = {hi}; }
DEVICE void set(Pair& a, double hi, double lo) { a = {hi, lo}; }

template <class W> DEVICE W wide(double hi, double lo = 0) {
    W w;
    set(w, hi, lo);
    return w;
}

// inf and NaN live in the leading part alone: the trailing one is NaN then.
DEVICE double value(Single a) { return a.hi; }
DEVICE double value(Pair a) { return is_finite(a.hi) && a.lo == a.lo ? a.hi + a.lo : a.hi; }

DEVICE Single sum(Single a, Single b) { return {add(a.hi, b.hi)}; }

DEVICE Single times(Single a, double b) { return {multiply(a.hi, b)}; }
DEVICE Pair times(Pair a, double b) {
    const Pair p = product(a.hi, b);
    return {p.hi, fused(a.lo, b, p.lo)};
}

DEVICE Single quotient(Single a, Single b) { return {a.hi / b.hi}; }
DEVICE Pair quotient(Pair a, Pair b) {
    const double q = a.hi / b.hi;
    return {q, (fused(-q, b.hi, a.hi) + a.lo - q * b.lo) / b.hi};
}

// a - b for two logits
DEVICE void set_difference(Single& d, double a, double b) { d = {subtract(a, b)}; }
DEVICE void set_difference(Pair& d, double a, double b) {
    d.hi = two_difference(a, b, d.lo);
    if (!is_finite(d.hi)) d.lo = 0;
}

DEVICE Single log1p_of(Single s) { return {log1p(s.hi)}; }
DEVICE Pair log1p_of(Pair s) { return {log1p(s.hi), s.lo / (1.0 + s.hi)}; }

// Sum of many terms in a fixed order: float terms in double, double terms in a pair.
template <class C> struct Sum;

template <> struct Sum<float> {
    Single v = {0};
    __device__ __forceinline__ void add_term(double term) { v.hi += term; }
    __device__ __forceinline__ void add_product(double a, double b) { v.hi = fused(a, b, v.hi); }
};

template <> struct Sum<double> {
    Pair v = {0, 0};
    __device__ __forceinline__ void add_term(double term) { v = sum(v, Pair{term, 0}); }
    __device__ __forceinline__ void add_product(double a, double b) { v = sum(v, product(a, b)); }
};

template <class C> DEVICE Sum<C> combined(Sum<C> a, const Sum<C>& b) {
    a.v = sum(a.v, b.v);
    return a;
}

// Sums of exponentials are in units of `per_unit` = 2^-`unit`, so that no term that could still matter is subnormal; those of d below
// `lowest` are too small to matter anywhere but in a sum that has nothing else.
//
// The constants of the reduction are those of Cody and Waite: the leading part of ln 2 is short, so its multiple is
// subtracted exactly. exp(t) = 1 + t + t^2 p(t) for |t| <= ln(2) / 2 has the p that `python -m benchmarks.studies exponential`
// finds. By itself it errs by 2^-27.9 in float32 (most at t = -0.347) and by 2^-60.2 in float64 (at t = 0.347).
template <class C> struct Exp;

template <> struct Exp<float> {
    static constexpr int unit = 64;
    static constexpr double per_unit = 0x1p-64;
    static constexpr float lowest = -131.0f;

    // exp(d + r) = (1 + q) 2^n with |q| < 0.42, for d <= 0 or slightly above.
    static __device__ __forceinline__ float parts(float d, float r, int& n) {
        const float z = fused(d, 1.44269502f, 12582912.0f);  // 1.5 * 2^23: rounds to an integer in the last bits
        n = __float_as_int(z) - 0x4b400000;
        const float k = subtract(z, 12582912.0f);
        const float t = add(fused(k, -0.693145751953125f, d), fused(k, -1.4286068e-06f, r));
        float p = 0x1.6a244cp-10f;
        p = fused(p, t, 0x1.1239d4p-7f);
        p = fused(p, t, 0x1.5558f2p-5f);
        p = fused(p, t, 0x1.555492p-3f);
        p = fused(p, t, 0x1.fffffcp-2f);
        return fused(multiply(t, t), p, t);
    }

    // f 2^n
    static __device__ __forceinline__ float raised(float f, int n) {
        return __int_as_float(__float_as_int(f) + n * (1 << 23));
    }
};

template <> struct Exp<double> {
    static constexpr int unit = 512;
    static constexpr double per_unit = 0x1p-512;
    static constexpr double lowest = -1062.0;

    static __device__ __forceinline__ double parts(double d, double r, int& n) {
        const double z = fused(d, 0x1.71547652b82fep+0, 0x1.8p+52);  // rounds to an integer in the last bits
        n = __double2loint(z);
        const double k = subtract(z, 0x1.8p+52);
        const double t = add(fused(k, -0x1.62e42fefa2p-1, d), fused(k, -0x1.9ef35793c7673p-41, r));
        double p = 0x1.1e3d35f4ae3adp-29;
        p = fused(p, t, 0x1.af6bda7b8afd2p-26);
        p = fused(p, t, 0x1.27e5b4337b3a6p-22);
        p = fused(p, t, 0x1.71ddf02859008p-19);
        p = fused(p, t, 0x1.a01a01369f9a2p-16);
        p = fused(p, t, 0x1.a01a01b37b43bp-13);
        p = fused(p, t, 0x1.6c16c16c30439p-10);
        p = fused(p, t, 0x1.111111110ec65p-7);
        p = fused(p, t, 0x1.5555555555503p-5);
        p = fused(p, t, 0x1.555555555555bp-3);
        p = fused(p, t, 0.5);
        return fused(multiply(t, t), p, t);
    }
    static __device__ __forceinline__ double raised(double f, int n) {
        return __hiloint2double(__double2hiint(f) + n * (1 << 20), __double2loint(f));
    }
};

// exp(x - m) 2^unit of logits that share a shift m, for x <= m or slightly above. From the error-free shift x - m = d + r:
// rows that are exact shifts of each other have the same results, bit for bit.
template <class C> struct ExactExp {
    C m;
    __device__ __forceinline__ explicit ExactExp(C shift) : m(shift) {}
    __device__ __forceinline__ C operator()(C x) const {
        C r;
        int n;
        const C d = two_difference(x, m, r), f = add((C)1, Exp<C>::parts(d, r, n));
        return d >= Exp<C>::lowest ? Exp<C>::raised(f, n + Exp<C>::unit) : 0;
    }
};

// 2^v with a relative error of 2^-22; 0 where that is subnormal.
DEVICE float exp2_approximately(float v) {
#ifdef __CUDA_ARCH__
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v));
    return e;
#else
    return cuda_on_cpu::approximate_exp2(v);
#endif
}

// The same for rows stored in half precision, whose results need no more than 2^-12: 3 instructions, with a relative error of 2^-16,
// as the shift and the product with log2(e) are rounded where |x - m| < 131, or the result is 0. The maximum has exactly
// 2^unit.
struct ApproximateExp {
    float m;
    __device__ __forceinline__ explicit ApproximateExp(float shift) : m(shift) {}
    __device__ __forceinline__ float operator()(float x) const {
        return exp2_approximately(fused(subtract(x, m), 1.44269502f, (float)Exp<float>::unit));
    }
};

// Of rows stored as T.
template <class T> struct ExpOf { typedef ExactExp<T> type; };
template <> struct ExpOf<half_t> { typedef ApproximateExp type; };
template <> struct ExpOf<bf16_t> { typedef ApproximateExp type; };
template <class T> using RowExp = typename ExpOf<T>::type;

DEVICE double power_of_two(int n) { return __hiloint2double((1023 + n) * (1 << 20), 0); }

// v 2^n, for v that are not extreme themselves: the plain ldexp takes twice the instructions.
DEVICE double scaled(double v, int n) {
    n = n < -2044 ? -2044 : n > 2046 ? 2046 : n;
    const int half = n / 2;
    return v * power_of_two(half) * power_of_two(n - half);
}

// factor * 2^exponent * exp(x - m) in double, without an intermediate that over- or underflows.
DEVICE double wide_exp(double x, double m, double factor, int exponent) {
    double r;
    const double d = two_difference(x, m, r);
    if (!(d >= -2600.0)) return d == d ? 0.0 * factor : d;
    int n, e;
    const double f = (1.0 + Exp<double>::parts(d, r, n)) * frexp(factor, &e);
    return scaled(f, n + e + exponent);
}
