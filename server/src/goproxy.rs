//! The proxy listener: the GOPROXY protocol.

mod conditional;
pub mod handlers;
mod landing;
mod named;
pub mod path;
mod response;
mod span;
