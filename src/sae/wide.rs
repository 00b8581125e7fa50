//! The same code compiled twice: for every machine of the target, and for CPUs with AVX2.
//!
//! A program for any x86-64 computes with 4 lanes of f32 where the CPU has 8. What runs in [`Wide::run`]
//! is compiled for AVX2 and nothing else changes: no fused multiply-add, the same operations in the
//! same order, so every machine gives the same bits.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls code for a CPU feature that was detected"))]

/// How wide this CPU computes.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    avx2: bool,
}

impl Wide {
    /// As wide as this CPU can.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        let avx2 = is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        let avx2 = false;
        Self { avx2 }
    }

    /// As every machine of the target: what the other is compared with.
    #[must_use]
    pub fn portable() -> Self {
        Self { avx2: false }
    }

    /// Runs `work`, compiled for this CPU. Only what is inlined into `work` gains: `#[inline(always)]`, no calls.
    #[inline]
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        if self.avx2 {
            // SAFETY: `avx2` is true only where the CPU was found to have it.
            return unsafe { with_avx2(work) };
        }
        work()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
