//! The same code compiled several times: for every machine of the target, and for CPUs with AVX2 or AVX-512.
//!
//! A program for any x86-64 computes with 4 lanes of f32 where the CPU has 8 or 16. What runs in [`Wide::run`]
//! is compiled for these and nothing else changes: the same operations in the same order, so every machine gives
//! the same bits. A multiply-add is fused where the source says `mul_add` and nowhere else; a machine without the
//! instruction calls a function for it, which is slow and right.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls code for a CPU feature that was detected"))]

/// What is compiled for each width. Only what is inlined gains: `run` and all it calls are `#[inline(always)]`. No closure,
/// which is compiled on its own, and for no CPU in particular, once it is called in more than one place.
pub trait Work {
    /// What comes of it.
    type Done;

    /// Does it.
    fn run(self) -> Self::Done;
}

/// How wide this CPU computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide(Width);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Wide {
    /// As wide as this CPU can.
    #[must_use]
    pub fn detect() -> Self {
        Self::all().pop().unwrap_or(Self::portable())
    }

    /// As every machine of the target: what the others are compared with.
    #[must_use]
    pub fn portable() -> Self {
        Self(Width::Portable)
    }

    /// Every width this CPU has, the widest last.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::portable()];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            all.extend(avx2.then_some(Self(Width::Avx2)));
            all.extend((avx2 && is_x86_feature_detected!("avx512f")).then_some(Self(Width::Avx512)));
        }
        all
    }

    /// Runs `work`, compiled for this CPU.
    #[inline]
    pub fn run<W: Work>(self, work: W) -> W::Done {
        match self.0 {
            Width::Portable => work.run(),
            // SAFETY: a width of this kind is made only where the CPU was found to have it.
            #[cfg(target_arch = "x86_64")]
            Width::Avx2 => unsafe { with_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { with_avx512(work) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<W: Work>(work: W) -> W::Done {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn with_avx512<W: Work>(work: W) -> W::Done {
    work.run()
}
