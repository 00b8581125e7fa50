//! The demo's world: a recommender whose thoughts are known, because they were made up.
//!
//! Items have genres, users have tastes, three surfaces show different things at different hours. An
//! embedding is the sum of a few known concept directions and noise, and the SAE that reads it is built
//! from the same directions. It is then written as an ONNX file and read like any user's: the monitor
//! sees nothing of this module (the layer test holds that).

pub mod dictionary;
pub mod feed;
pub mod served;
pub mod setup;
pub mod shift;
pub mod words;
pub mod world;
