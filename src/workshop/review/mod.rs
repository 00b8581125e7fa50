//! People's word on labels: decided in the terminal or on a sheet, bound to the evidence that was seen.

pub mod agreement;
pub mod carry_over;
pub mod decide;
pub mod sheet;
