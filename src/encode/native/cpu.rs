//! Which instructions the native engine uses: chosen at run time, forced by tests.

/// Instructions a computation is written for. All give the same bits; they differ in time alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// What every machine of the target has. Without a fused multiply-add in the CPU it is far slower than ONNX Runtime.
    Portable,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX2 with VNNI in its registers: AVX-VNNI, as on CPUs that have no AVX-512.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// Proof that this CPU has AVX2, FMA, BMI1 and POPCNT, which the kernels of that name are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that it has VNNI in registers of 32 bytes besides.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvxVnni {
    avx2: Avx2,
    vnni: Vnni256,
}

/// Proof of an encoding of VNNI in registers of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vnni256 {
    /// AVX-VNNI.
    Avx(Detected),
    /// AVX-512 VNNI and VL.
    Avx512(Detected),
}

/// Only what detects can make one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Detected(());

/// Proof that it has AVX-512 F, BW, DQ and VNNI besides.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512 {
    avx2: Avx2,
    vbmi2: Option<Vbmi2>,
}

/// Proof that it has VBMI2 besides, which moves words together: all with VNNI but Cascade Lake and Cooper Lake.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vbmi2(());

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

#[cfg(target_arch = "x86_64")]
impl AvxVnni {
    fn detect() -> Option<Self> {
        let vnni = if is_x86_feature_detected!("avxvnni") {
            Some(Vnni256::Avx(Detected(())))
        } else {
            let found = is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni");
            found.then_some(Vnni256::Avx512(Detected(())))
        };
        Avx2::detect().zip(vnni).map(|(avx2, vnni)| Self { avx2, vnni })
    }

    /// The part of the proof that AVX2's kernels ask for.
    pub(super) fn avx2(self) -> Avx2 {
        self.avx2
    }

    /// The part that products ask for.
    pub(super) fn vnni(self) -> Vnni256 {
        self.vnni
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        let vbmi2 = is_x86_feature_detected!("avx512vbmi2").then_some(Vbmi2(()));
        Avx2::detect().filter(|_| found).map(|avx2| Self { avx2, vbmi2 })
    }

    /// The part of the proof that AVX2's kernels ask for.
    pub(super) fn avx2(self) -> Avx2 {
        self.avx2
    }

    /// The proof for the kernels that move words together.
    pub(super) fn vbmi2(self) -> Option<Vbmi2> {
        self.vbmi2
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
        {
            all.extend(Avx2::detect().map(Self::Avx2));
            all.extend(AvxVnni::detect().map(Self::AvxVnni));
            let avx512 = Avx512::detect();
            all.extend(avx512.filter(|avx512| avx512.vbmi2.is_some()).map(|avx512| Self::Avx512(Avx512 { vbmi2: None, ..avx512 })));
            all.extend(avx512.map(Self::Avx512));
        }
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
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(Avx512 { vbmi2: None, .. }) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512-vbmi2",
        }
    }
}
