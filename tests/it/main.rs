//! The one integration binary: what needs the repository and ONNX Runtime, no server.

mod counting;
mod kafka;
mod support;
