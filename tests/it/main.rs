//! The one integration binary: what needs the repository and ONNX Runtime, no server.

mod bundle_command;
mod counting;
mod encode_real;
mod hostile_onnx;
mod kafka;
mod onnx_forms;
mod support;
