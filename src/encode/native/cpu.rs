//! Which instructions the native engine uses: chosen at run time, forced by tests.

/// Instructions a computation is written for. All give the same bits; they differ in time alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// What every machine of the target has. Without a fused multiply-add in the CPU it is far slower than ONNX Runtime.
    Portable,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

/// Proof that this CPU has AVX2, FMA, BMI1 and POPCNT, which the kernels of that name are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("popcnt");
        found.then_some(Self(()))
    }
}

impl Kernel {
    /// The fastest this CPU has.
    #[must_use]
    pub fn best() -> Self {
        Self::all().pop().unwrap_or(Self::Portable)
    }

    /// Every one this CPU has, the fastest last: what tests force one after the other.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        all.extend(Avx2::detect().map(Self::Avx2));
        all
    }

    /// Whether it can be faster than ONNX Runtime: a portable fused multiply-add is a call where the CPU has none.
    #[must_use]
    pub fn is_fast(self) -> bool {
        self != Self::Portable || cfg!(target_arch = "aarch64")
    }

    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
        }
    }
}
