// Storage formats of rows: what a row element is in memory, and the type its arithmetic is done in.
//
// float16 and bfloat16 are plain bit patterns here, so that no header of the toolkit is needed: they are widened on
// load and rounded to nearest even on store, and all arithmetic on them is float.
#pragma once

#define DEVICE static __device__ __forceinline__

typedef long long i64;
typedef unsigned long long u64;

struct half_t {
    unsigned short bits;
};

struct bf16_t {
    unsigned short bits;
};

template <class T> struct Compute { typedef float type; };
template <> struct Compute<double> { typedef double type; };

DEVICE float widen(float v) { return v; }
DEVICE double widen(double v) { return v; }
DEVICE float widen(bf16_t v) { return __int_as_float((int)((unsigned)v.bits << 16)); }
DEVICE float widen(half_t v) {
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
#else
    const int sign = (v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
    if (rest >= 0x7c00) return __int_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // The exponent is off by 127 - 15 = 112; a product with a power of two also puts subnormals right.
    return __int_as_float(sign | __float_as_int(__int_as_float(rest << 13) * __int_as_float((127 + 112) << 23)));
#endif
}

// Round to nearest even.
DEVICE void narrow(float v, float& to) { to = v; }
DEVICE void narrow(double v, double& to) { to = v; }
DEVICE void narrow(float v, double& to) { to = v; }
DEVICE void narrow(double v, float& to) { to = (float)v; }
DEVICE void narrow(float v, bf16_t& to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(v));
#else
    const unsigned bits = (unsigned)__float_as_int(v);
    to.bits = (unsigned short)(v == v ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fffu);
#endif
}
DEVICE void narrow(float v, half_t& to) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(v));
#else
    const unsigned bits = (unsigned)__float_as_int(v), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        to.bits = 0x7fff;
    else if (rest >= 0x477ff000u)  // 65520, half way to what would come after the largest number
        to.bits = (unsigned short)(sign | 0x7c00u);
    else if (rest < 0x38800000u)  // subnormal: adding 2^-1 leaves a multiple of 2^-24 in the last bits
        to.bits = (unsigned short)(sign | (unsigned)(__float_as_int(__int_as_float((int)rest) + 0.5f) - 0x3f000000));
    else
        to.bits = (unsigned short)(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13);
#endif
}
// The second rounding moves a value by at most 2^-13 of the last place of the half format.
DEVICE void narrow(double v, half_t& to) { narrow((float)v, to); }
DEVICE void narrow(double v, bf16_t& to) { narrow((float)v, to); }

template <class T, class C> DEVICE T rounded(C v) {
    T to;
    narrow(v, to);
    return to;
}

template <class C> DEVICE C infinity();
template <> __device__ __forceinline__ float infinity<float>() { return __int_as_float(0x7f800000); }
template <> __device__ __forceinline__ double infinity<double>() { return __hiloint2double(0x7ff00000, 0); }

DEVICE double not_a_number() { return __hiloint2double(0x7ff80000, 0); }

// V consecutive elements, moved in one access where `whole` says that the address allows it.
template <class T, int V> struct alignas(V * sizeof(T)) Pack { T v[V]; };

template <int V, class T, class C> DEVICE void load(const T* from, bool whole, C* to) {
    if (V > 1 && whole) {
        const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from);
#pragma unroll
        for (int v = 0; v < V; ++v) to[v] = widen(pack.v[v]);
    } else {
#pragma unroll
        for (int v = 0; v < V; ++v) to[v] = widen(from[v]);
    }
}

template <int V, class T, class C> DEVICE Pack<T, V> packed(const C* from) {
    Pack<T, V> pack;
#pragma unroll
    for (int v = 0; v < V; ++v) narrow(from[v], pack.v[v]);
    return pack;
}

// The compiler takes a pack apart, and beside a branch that stores its elements one by one it stays so: 16 bytes are
// stored in words, by name. Global memory.
template <class P, class T> DEVICE void store_pack(const P& pack, T* to) {
#ifdef __CUDA_ARCH__
    if constexpr (sizeof(P) == 16) {
        unsigned w[4];
        memcpy(w, &pack, 16);
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3])
                     : "memory");
        return;
    }
#endif
    *reinterpret_cast<P*>(to) = pack;
}

template <int V, class T, class C> DEVICE void store(const C* from, bool whole, T* to) {
    if (V > 1 && whole) {
        store_pack(packed<V, T>(from), to);
    } else {
#pragma unroll
        for (int v = 0; v < V; ++v) narrow(from[v], to[v]);
    }
}
