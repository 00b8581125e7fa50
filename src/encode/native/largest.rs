//! The largest of some latents whose values are known.

use crate::encode::native::cpu::Kernel;
#[cfg(target_arch = "x86_64")]
use crate::encode::native::select_avx512::{Selected, WIDTH};
use crate::sae::latent::LatentId;
use crate::sae::topk::Among;

/// Selects among some latents; one a thread.
#[derive(Debug)]
pub struct Largest {
    kernel: Kernel,
    among: Among,
    #[cfg(target_arch = "x86_64")]
    selected: Selected,
}

impl Largest {
    /// A selector with these instructions.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            among: Among::default(),
            #[cfg(target_arch = "x86_64")]
            selected: Selected::default(),
        }
    }

    /// The `k` largest of the values above 0, of equals the first: whose they are, and they themselves.
    pub fn select(&mut self, latents: &[u32], values: &[f32], k: usize) -> (&[LatentId], &[f32]) {
        #[cfg(target_arch = "x86_64")]
        if let Kernel::Avx512(proof) = self.kernel
            && values.len().is_multiple_of(WIDTH)
            && self.selected.select(proof, latents, values, k, 0.0)
        {
            return self.selected.parts();
        }
        self.among.select(latents, values, k, 0.0);
        self.among.parts()
    }
}
