//! The proxy listener: the GOPROXY protocol.

mod conditional;
mod connection;
pub mod handlers;
mod landing;
pub mod listener;
mod named;
pub mod path;
mod response;
mod span;
